"""Forecasts as ``kforecast-serve`` would have answered with them over a span of history."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kforecast.data.panel import Panel
from kforecast.data.split import running_sum
from kforecast.errors import ArtifactError
from kforecast.predictor import Predictor
from kforecast.simulation.drivers import Served, spans

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


def answers(
    predictor: Predictor,
    panel: Panel,
    bins: tuple[int, int],
    questions: Sequence[Question],
    settle: int,
    step: int,
) -> list[Served]:
    """Answers to each question at every step of the bins ``[begin, stop)`` of a panel.

    Forecasts are made for every bin from the history before it. A series whose newest value is older than
    the horizon has no answer, nor has one without a value in its context.

    Parameters
    ----------
    settle:
        Seconds after the end of a bin until its forecast is ready.
    step:
        Seconds per step.

    Raises
    ------
    ArtifactError
        When a forecast is not a finite number.
    """
    horizon, width = predictor.window.prediction_length, panel.frequency.step
    begin, stop = bins
    first = max(begin - 1, 0)
    asked = [spans(width, step, question.window, settle, horizon) for question in questions]
    shape = (stop - begin, panel.num_series)
    found = [
        Served(
            np.full((len(parts), *shape), np.nan, np.float32), kind, int(panel.seconds(begin)), width, step
        )
        for parts, kind in asked
    ]
    levels = list(dict.fromkeys(question.level for question in questions))
    rows_at_once = max(1, _WINDOWS // (stop - first))
    for row in range(0, panel.num_series, rows_at_once):
        chosen = np.arange(row, min(row + rows_at_once, panel.num_series))
        by_level = dict(
            zip(levels, _forecasts(predictor, panel.rows(chosen.tolist()), first, stop, levels), strict=True)
        )
        for question, (parts, _), served in zip(questions, asked, found, strict=True):
            most = largest(by_level[question.level], parts, begin - first)
            served.values[:, :, chosen[0] : chosen[-1] + 1] = most
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


def _forecasts(
    predictor: Predictor, panel: Panel, first: int, stop: int, levels: Sequence[float | None]
) -> list[np.ndarray]:
    """Forecasts from the origins ``[first, stop)`` by level, float32 ``[series, origins, horizon]``."""
    window = predictor.window
    series, origin = np.nonzero(
        _answerable(panel, first, stop, window.context_length, window.prediction_length)
    )
    found = [
        np.full((panel.num_series, stop - first, window.prediction_length), np.nan, np.float32)
        for _ in levels
    ]
    if not len(series):
        return found
    made = predictor.forecast_windows(panel, series, origin + first)
    if not np.isfinite(made.values).all():
        raise ArtifactError(f"{predictor.name}: its forecasts are not finite numbers")
    for one, level in zip(found, levels, strict=True):
        if level is None:
            one[series, origin] = made.values
        else:  # one level at a time: each takes as much memory as the forecasts
            one[series, origin] = predictor.quantiles(panel, series, made, [level])[..., 0]
    return found


def _answerable(panel: Panel, first: int, stop: int, context: int, horizon: int) -> np.ndarray:
    """Whether a server would answer from the origins in ``[first, stop)``, bool ``[series, origins]``."""
    origins = np.arange(first, stop)
    begin = max(first - max(context, horizon), 0)
    known = running_sum(panel.observed[:, begin:stop])

    def seen(bins: int) -> np.ndarray:
        return known[:, origins - begin] > known[:, np.maximum(origins - bins, begin) - begin]

    answerable: np.ndarray = seen(context) & seen(horizon)
    return answerable
