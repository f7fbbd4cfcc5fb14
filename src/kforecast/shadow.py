"""Shadow: what the forecasts at the newest origins were, for the guard that judges them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kforecast.data.panel import Panel
from kforecast.data.split import running_sum
from kforecast.following import Recent
from kforecast.guard import (
    ABOVE,
    BELOW,
    SERVED,
    WORSE,
    GuardRules,
    Numbers,
    Withdrawals,
    newest_before,
    since,
    watch,
)
from kforecast.intervals import LEVELS
from kforecast.metrics.timerange import utc
from kforecast.models.online import ORIGINS
from kforecast.predictor import Predictor

# As many origins are judged as forecasts follow, also where none are followed; but at most so many days.
_DAYS, _LEAST_ORIGINS = 14, 28
# The scale of losses is known from this many warm-ups before the oldest origin.
_WARM_UPS = 2
# Values of a block of series: 8 MB as float64.
_MOST_VALUES = 1_000_000


@dataclass(frozen=True)
class GuardSettings:
    """How forecasts are served, and what errors of them cost.

    Attributes
    ----------
    rule:
        ``max`` of forecast and newest observation, or the ``forecast`` alone.
    quantile:
        Level of the served forecast; None for the point forecast.
    lead:
        Seconds until new replicas serve.
    cost:
        Cost of unserved load, as a multiple of the cost of idle replicas.
    """

    rule: Literal["max", "forecast"] = "max"
    quantile: float | None = 0.9
    lead: float = 300.0
    cost: float = 10.0

    def rules(self, predictor: Predictor) -> GuardRules:
        """The guard's rules at the predictor's frequency."""
        window = predictor.window
        step, day = window.frequency.step, window.frequency.day
        return GuardRules.of(step, day, window.prediction_length, self.lead, self.cost / (1 + self.cost))

    def bins(self, predictor: Predictor) -> int:
        """Bins of history before an origin that a forecast from there, and judging it, can use."""
        kept = origins_to_keep(predictor) + predictor.window.prediction_length
        own = kept if predictor.online is None else 0
        return max(predictor.history_length + own, _WARM_UPS * self.rules(predictor).warm_up + kept)


@dataclass(frozen=True)
class Withdrawn:
    """A withdrawal in force: its cause (:mod:`kforecast.guard`), and since when, in unix seconds."""

    cause: int
    since: int


def origins_to_keep(predictor: Predictor) -> int:
    """How many newest origins are judged of a predictor that follows no errors."""
    return max(_LEAST_ORIGINS, min(ORIGINS, _DAYS * predictor.window.frequency.day))


def withdrawn(
    predictor: Predictor,
    panel: Panel,
    settings: GuardSettings,
    recent: Recent | None = None,
    known: Mapping[tuple[str, str], Withdrawn] | None = None,
) -> dict[int, Withdrawn]:
    """The series whose forecast is withdrawn at the end of a panel, by row.

    Parameters
    ----------
    recent:
        The forecasts up to there (:meth:`kforecast.predictor.Predictor.forecast_next`); None to make them.
    known:
        Withdrawals known from before, by series. They end by proof alone.
    """
    if recent is None:
        recent = predictor.earlier(panel, origins_to_keep(predictor))
        assert recent is not None, "origins are kept"
    numbers, first = numbers_of(predictor, panel, recent, settings)
    shift, bins = first - panel.first_bin, numbers.actual.shape[1]
    before = Withdrawals(np.zeros(panel.num_series, np.int8), np.full(panel.num_series, bins))
    for row, pair in enumerate(panel.series):
        if known and (one := known.get(pair)) is not None:
            # The alarm was at the bin before.
            before.state[row], before.since[row] = one.cause, panel.bin_at(one.since) - 1 - shift
    found = since(watch(settings.rules(predictor), numbers, first, before), before)
    rows = np.flatnonzero(found.state != SERVED)
    begun = panel.seconds(found.since[rows] + 1 + shift)
    return {
        row: Withdrawn(cause, second)
        for row, cause, second in zip(rows.tolist(), found.state[rows].tolist(), begun.tolist(), strict=True)
    }


def numbers_of(
    predictor: Predictor, panel: Panel, recent: Recent, settings: GuardSettings
) -> tuple[Numbers, int]:
    """What was served at the origins that are kept, and what came.

    As elsewhere, an origin counts when half of its context was observed.

    Parameters
    ----------
    panel:
        The history up to the newest origin.
    recent:
        Its forecasts; see :meth:`kforecast.predictor.Predictor.forecast_next`.

    Returns
    -------
    The numbers, and the number of their first bin on the grid.
    """
    # Known events are left out on both sides: the forecasts that are kept are those of ordinary traffic.
    panel = panel if predictor.plan is None else predictor.plan.ordinary(panel)
    rules, window = settings.rules(predictor), predictor.window
    kept = np.sort(recent.origins[recent.origins >= 0])
    begin = max(0, int(kept[0]) - panel.first_bin - _WARM_UPS * rules.warm_up)
    # What is judged looks back no further than this; the rest of the history would cost time.
    first = max(0, begin - max(window.context_length, window.prediction_length))
    origins, begin = kept - panel.first_bin - first, begin - first
    observed, end = panel.observed[:, first:], panel.num_bins - first
    value = np.where(observed, panel.values[:, first:], np.nan).astype(np.float64)
    reactive = newest_before(value, window.prediction_length)
    shape = (panel.num_series, end + 1)
    served, low, high = (np.full(shape, np.nan) for _ in range(3))
    place = slice(int(origins[0]), end + 1)
    for rows, number, least, most in _ranges(predictor, panel, recent, kept, settings.quantile):
        served[rows, place] = number[..., : rules.window].max(axis=2)
        low[rows, place], high[rows, place] = least, most
    context, seen = window.context_length, running_sum(observed)
    sparse = 2 * (seen[:, origins] - seen[:, np.maximum(origins - context, 0)]) < context
    for one in (served, low, high):
        one[:, place][sparse] = np.nan
    if settings.rule == "max":
        served[:, :end] = np.where(np.isnan(reactive), served[:, :end], np.maximum(served[:, :end], reactive))
    bins, one_more = slice(begin, end), slice(begin, end + 1)
    numbers = Numbers(value[:, bins], served[:, bins], reactive[:, bins], low[:, one_more], high[:, one_more])
    return numbers, panel.first_bin + first + begin


def words(one: Withdrawn) -> str:
    """Why a forecast is withdrawn, and what ends it."""
    left = "the newest value left the range that any forecast allowed for, and was far {} it"
    reasons = {
        WORSE: "scaling on it costs more than scaling on the newest observation",
        ABOVE: left.format("above"),
        BELOW: left.format("below"),
    }
    return (
        f"withdrawn by the guard since {utc(one.since)} UTC: {reasons[one.cause]}. It comes back when its "
        "forecasts, which are still made and scored, prove to be no worse"
    )


def _ranges(
    predictor: Predictor, panel: Panel, recent: Recent, kept: np.ndarray, quantile: float | None
) -> Iterator[tuple[slice, np.ndarray, np.ndarray, np.ndarray]]:
    """Blocks of series: forecasts ``[series, origins, P]``, least and greatest value of the first bin."""
    origins = kept - panel.first_bin
    first = max(1, int(origins[0]))
    newer = np.where(panel.observed[:, first - 1 :], np.abs(panel.values[:, first - 1 :]), 0)
    newer[:, 0] = np.abs(panel.values[:, :first]).max(axis=1, where=panel.observed[:, :first], initial=0)
    peak = np.maximum.accumulate(newer, axis=1)[:, origins - first]
    made = recent.forecasts(kept, peak)
    values = made.values.reshape(panel.num_series, len(kept), -1)
    if predictor.intervals is None:
        unknown = np.full(values.shape[:2], np.nan)
        yield slice(0, panel.num_series), values, unknown, unknown
        return
    levels = [LEVELS[0], LEVELS[-1]]
    if quantile is not None and quantile not in levels:
        levels.append(quantile)
    quantiles = predictor.quantiles_for(panel)
    count = max(1, _MOST_VALUES // (values[0].size * len(levels)))
    for begin in range(0, panel.num_series, count):
        rows = slice(begin, min(begin + count, panel.num_series))
        windows = slice(rows.start * len(kept), rows.stop * len(kept))
        series = np.repeat(np.arange(rows.start, rows.stop), len(kept))
        mine = made._replace(
            values=made.values[windows],
            level=made.level[windows],
            peak=made.peak[windows],
            widths=None if made.widths is None else made.widths[windows],
        )
        found = quantiles(series, mine, levels).reshape(-1, len(kept), values.shape[2], len(levels))
        number = values[rows] if quantile is None else found[..., levels.index(quantile)]
        yield rows, number, found[:, :, 0, 0], found[:, :, 0, 1]
