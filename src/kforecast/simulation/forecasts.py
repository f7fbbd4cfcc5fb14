"""Forecasts as ``kforecast-serve`` would have answered with them over a span of history."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from kforecast.data.panel import Panel
from kforecast.data.split import running_sum
from kforecast.errors import ArtifactError
from kforecast.guard import SERVED, GuardRules, Numbers, watch
from kforecast.intervals import LEVELS
from kforecast.predictor import Predictor
from kforecast.simulation.drivers import Served, spans
from kforecast.window import Window

# Windows that are forecast at once: their quantiles take most of the memory.
_WINDOWS = 400_000


@dataclass(frozen=True)
class Question:
    """What an autoscaler asks the server for.

    Attributes
    ----------
    level:
        Quantile; None for the point forecast.
    window:
        Seconds over which the largest forecast counts, at most the horizon.
    """

    level: float | None
    window: int


@dataclass(frozen=True)
class Guarding:
    """A server's guard.

    Attributes
    ----------
    rules:
        How it judges.
    since:
        First origin whose forecast it judges, a bin of the panel.
    """

    rules: GuardRules
    since: int


def answers(
    predictor: Predictor,
    panel: Panel,
    bins: tuple[int, int],
    questions: Sequence[Question],
    settle: int,
    step: int,
    guarding: Guarding | None = None,
) -> list[Served]:
    """Answers to each question at every step of the bins ``[begin, stop)`` of a panel.

    Forecasts are made for every bin from the history before it. A series whose newest value is older than
    the horizon has no answer, nor has one without a value in its context, or one that the guard has
    withdrawn.

    Parameters
    ----------
    settle:
        Seconds after the end of a bin until its forecast is ready.
    step:
        Seconds per step.
    guarding:
        The guard of the server, which serves the larger of forecast and newest observation; None without.

    Raises
    ------
    ArtifactError
        When a forecast is not a finite number.
    """
    horizon, width = predictor.window.prediction_length, panel.frequency.step
    begin, stop = bins
    first = max(begin - 1, 0)
    if guarding is not None:
        first = min(first, max(guarding.since, 0))
    asked = [spans(width, step, question.window, settle, horizon) for question in questions]
    shape = (stop - begin, panel.num_series)
    found = [
        Served(
            np.full((len(parts), *shape), np.nan, np.float32),
            kind,
            int(panel.seconds(begin)),
            width,
            step,
            None if guarding is None else np.zeros(shape[::-1], np.int8),
        )
        for parts, kind in asked
    ]
    levels = list(dict.fromkeys(question.level for question in questions))
    rows_at_once = max(1, _WINDOWS // (stop - first))
    for row in range(0, panel.num_series, rows_at_once):
        rows = slice(row, min(row + rows_at_once, panel.num_series))
        mine = panel.rows(range(rows.start, rows.stop))
        by_level, ordinary = _forecasts(predictor, mine, first, stop, levels, guarding is not None)
        states = None
        if guarding is not None:
            assert ordinary is not None
            usual = mine if predictor.plan is None else predictor.plan.ordinary(mine)
            states = _states(guarding.rules, usual, first, ordinary, predictor.window)
            for made, state in zip(by_level, states, strict=True):
                made[state != SERVED] = np.nan
        for question, (parts, _), served in zip(questions, asked, found, strict=True):
            number = levels.index(question.level)
            made = by_level[number]  # [rows, origins, horizon]
            if states is not None and served.states is not None:
                served.states[rows] = states[number][:, begin - first :]
            served.values[:, :, rows] = largest(made, parts, begin - first)
    return found


def largest(made: np.ndarray, parts: Sequence[slice], earlier: int) -> np.ndarray:
    """The largest forecast of each span at each bin, float32 ``[spans, bins, series]``; NaN without one.

    Parameters
    ----------
    made:
        Forecasts by origin, float32 ``[series, earlier + bins, horizon]``; NaN where none was made.
    parts:
        Spans of the horizon, see :func:`kforecast.simulation.drivers.spans`.
    earlier:
        Number of origins before the first bin.
    """
    count = made.shape[1] - earlier
    found = np.full((len(parts), count, len(made)), np.nan, np.float32)
    for number, part in enumerate(parts):
        older = -part.start
        if part.stop <= 0:  # a forecast of one step has ended before the next one is ready
            continue
        most = made[:, :, older : part.stop + older].max(axis=2)
        at = earlier - older
        # Before the first origin there is no older forecast.
        missing = max(-at, 0)
        found[number, missing:] = most[:, at + missing : at + count].T
    return found


@dataclass(frozen=True)
class _Ordinary:
    """Forecasts of ordinary traffic, without known events, for the guard.

    Attributes
    ----------
    by_level:
        Of each level, float32 ``[series, origins, horizon]``.
    low, high:
        The least and the greatest value that each allows for in its first bin, float32 ``[series, origins]``.
    """

    by_level: list[np.ndarray]
    low: np.ndarray
    high: np.ndarray


def _forecasts(
    predictor: Predictor, panel: Panel, first: int, stop: int, levels: Sequence[float | None], guarded: bool
) -> tuple[list[np.ndarray], _Ordinary | None]:
    """Forecasts from the origins ``[first, stop)`` by level, float32 ``[series, origins, horizon]``."""
    window, count = predictor.window, stop - first
    series, origin = np.nonzero(
        _answerable(panel, first, stop, window.context_length, window.prediction_length)
    )
    shape = (panel.num_series, count, window.prediction_length)
    found = [np.full(shape, np.nan, np.float32) for _ in levels]
    low, high = (np.full(shape[:2], np.nan, np.float32) for _ in range(2))
    usual = found
    if len(series):
        made = predictor.forecast_windows(panel, series, origin + first)
        if not np.isfinite(made.values).all():
            raise ArtifactError(f"{predictor.name}: its forecasts are not finite numbers")
        ranges = guarded and predictor.intervals is not None
        sure = ranges or any(level is not None for level in levels)
        quantiles = partial(predictor.quantiles_for(panel), series, made) if sure else None
        for one, level in zip(found, levels, strict=True):
            if level is None or quantiles is None:
                one[series, origin] = made.values
            else:  # one level at a time: each takes as much memory as the forecasts
                one[series, origin] = quantiles([level])[..., 0]
        if ranges and quantiles is not None:
            for bound, level in ((low, LEVELS[0]), (high, LEVELS[-1])):
                bound[series, origin] = quantiles([level])[:, 0, 0]
        if guarded and made.factor is not None:
            factor = np.ones(shape, np.float32)
            factor[series, origin] = made.factor
            usual, low, high = [one / factor for one in found], low / factor[..., 0], high / factor[..., 0]
    return found, _Ordinary(usual, low, high) if guarded else None


def _states(rules: GuardRules, panel: Panel, first: int, made: _Ordinary, window: Window) -> list[np.ndarray]:
    """The guard's state when each origin from ``first`` on begins, by level, int8 ``[series, origins]``.

    Parameters
    ----------
    panel:
        The traffic without known events. As on a server, a forecast counts when half of its context was
        observed.
    """
    levels, (series, count) = len(made.by_level), made.low.shape
    begin, stop = max(0, first - rules.history), first + count
    value = np.where(panel.observed[:, begin:stop], panel.values[:, begin:stop], np.nan).astype(np.float64)
    shape = (levels * series, stop - begin + 1)
    number, low, high = (np.full(shape, np.nan) for _ in range(3))
    place = slice(first - begin, stop - begin)
    for level, forecasts in enumerate(made.by_level):
        rows = slice(level * series, (level + 1) * series)
        number[rows, place] = forecasts[:, :, : rules.window].max(axis=2)
        low[rows, place], high[rows, place] = made.low, made.high
    origins, context = np.arange(first, stop), window.context_length
    seen = running_sum(panel.observed)
    sparse = 2 * (seen[:, origins] - seen[:, np.maximum(origins - context, 0)]) < context
    for one in (number, low, high):
        one[:, place][np.tile(sparse, (levels, 1))] = np.nan
    numbers = Numbers.of_larger(
        np.tile(value, (levels, 1)), window.prediction_length, number[:, :-1], low, high
    )
    after = watch(rules, numbers, panel.first_bin + begin)[:, first - begin :]
    before = np.concatenate([np.zeros((len(after), 1), np.int8), after[:, :-1]], axis=1)
    return list(before.reshape(levels, series, count))


def _answerable(panel: Panel, first: int, stop: int, context: int, horizon: int) -> np.ndarray:
    """Whether a server would answer from the origins in ``[first, stop)``, bool ``[series, origins]``."""
    origins = np.arange(first, stop)
    begin = max(first - max(context, horizon), 0)
    known = running_sum(panel.observed[:, begin:stop])

    def seen(bins: int) -> np.ndarray:
        return known[:, origins - begin] > known[:, np.maximum(origins - bins, begin) - begin]

    answerable: np.ndarray = seen(context) & seen(horizon)
    return answerable
