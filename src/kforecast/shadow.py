"""Shadow: what the forecasts at the newest origins were, for the guard that judges them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kforecast.data.panel import Panel
from kforecast.following import Recent
from kforecast.guard import ABOVE, BELOW, WORSE, GuardRules, Numbers
from kforecast.intervals import LEVELS
from kforecast.metrics.timerange import utc
from kforecast.predictor import Predictor

# Origins whose forecasts are judged, where as many are not followed anyway; but at most so many days.
_ORIGINS, _DAYS, _LEAST_ORIGINS = 288, 14, 28
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
        bins = -(-int(self.lead) // window.frequency.step)
        length = max(1, min(window.prediction_length, bins))
        return GuardRules(length, window.frequency.day, self.cost / (1 + self.cost))


def origins_to_keep(predictor: Predictor) -> int:
    """How many newest origins are judged of a predictor that follows no errors."""
    return max(_LEAST_ORIGINS, min(_ORIGINS, _DAYS * predictor.window.frequency.day))


def bins_to_read(predictor: Predictor, rules: GuardRules) -> int:
    """Bins of history before an origin with which forecasts can be judged there; at least those it reads."""
    horizon, own = predictor.window.prediction_length, 0
    if predictor.online is None:
        own = origins_to_keep(predictor) + horizon
    warm = _WARM_UPS * rules.warm_up + origins_to_keep(predictor) + horizon
    return max(predictor.history_length + own, warm)


def numbers_of(
    predictor: Predictor, panel: Panel, recent: Recent, settings: GuardSettings
) -> tuple[Numbers, int, int]:
    """What was served at the origins that are kept, and what came.

    Parameters
    ----------
    panel:
        The history up to the newest origin.
    recent:
        Its forecasts; see :meth:`kforecast.predictor.Predictor.forecast_next`.

    Returns
    -------
    The numbers, the number of their first bin on the grid, and the index of the first origin among the bins.
    """
    rules, end = settings.rules(predictor), panel.num_bins
    kept = np.sort(recent.origins[recent.origins >= 0])
    origins = kept - panel.first_bin
    begin = max(0, int(origins[0]) - _WARM_UPS * rules.warm_up)
    value = np.where(panel.observed, panel.values, np.nan).astype(np.float64)
    reactive = newest_before(value, predictor.window.prediction_length)
    shape = (panel.num_series, end + 1)
    served, low, high = (np.full(shape, np.nan) for _ in range(3))
    place = slice(int(origins[0]), end + 1)
    for rows, number, least, most in _ranges(predictor, panel, recent, kept, settings):
        served[rows, place] = number[..., : rules.window].max(axis=2)
        low[rows, place], high[rows, place] = least, most
    if settings.rule == "max":
        served[:, :end] = np.where(np.isnan(reactive), served[:, :end], np.maximum(served[:, :end], reactive))
    bins, one_more = slice(begin, end), slice(begin, end + 1)
    numbers = Numbers(value[:, bins], served[:, bins], reactive[:, bins], low[:, one_more], high[:, one_more])
    return numbers, panel.first_bin + begin, int(origins[0]) - begin


def newest_before(value: np.ndarray, oldest: int) -> np.ndarray:
    """The newest known value before each bin, at most ``oldest`` bins old, ``[series, bins]``; NaN if none."""
    bins = np.arange(value.shape[1])
    newest = np.maximum.accumulate(np.where(np.isnan(value), -1, bins), axis=1)
    found = np.take_along_axis(value, np.maximum(newest, 0), axis=1)
    found[(newest < 0) | (bins - newest >= oldest)] = np.nan
    first = np.full((len(value), 1), np.nan)
    return np.concatenate([first, found[:, :-1]], axis=1)


def words(cause: int, since: int) -> str:
    """Why a forecast is withdrawn, and what ends it; ``since`` is in unix seconds."""
    left = "the newest value left the range that any forecast allowed for, and was far {} it"
    reasons = {
        WORSE: "scaling on it costs more than scaling on the newest observation",
        ABOVE: left.format("above"),
        BELOW: left.format("below"),
    }
    return (
        f"withdrawn by the guard since {utc(since)} UTC: {reasons[cause]}. It comes back when its forecasts, "
        "which are still made and scored, prove to be no worse"
    )


def _ranges(
    predictor: Predictor, panel: Panel, recent: Recent, kept: np.ndarray, settings: GuardSettings
) -> Iterator[tuple[slice, np.ndarray, np.ndarray, np.ndarray]]:
    """Blocks of series: served forecasts ``[series, origins, P]``, least and greatest value of the first bin."""
    largest = np.maximum.accumulate(np.where(panel.observed, np.abs(panel.values), 0), axis=1)
    peak = largest[:, kept - panel.first_bin - 1]
    made = recent.forecasts(kept, peak)
    values = made.values.reshape(panel.num_series, len(kept), -1)
    if predictor.intervals is None:
        unknown = np.full(values.shape[:2], np.nan)
        yield slice(0, panel.num_series), values, unknown, unknown
        return
    levels = [LEVELS[0], LEVELS[-1]]
    if settings.quantile is not None and settings.quantile not in levels:
        levels.append(settings.quantile)
    count = max(1, _MOST_VALUES // (values[0].size * len(levels)))
    for begin in range(0, panel.num_series, count):
        rows = slice(begin, min(begin + count, panel.num_series))
        windows = slice(rows.start * len(kept), rows.stop * len(kept))
        some = panel.rows(range(rows.start, rows.stop))
        series = np.repeat(np.arange(some.num_series), len(kept))
        mine = made._replace(
            values=made.values[windows],
            level=made.level[windows],
            peak=made.peak[windows],
            widths=None if made.widths is None else made.widths[windows],
        )
        found = predictor.quantiles(some, series, mine, levels)
        found = found.reshape(some.num_series, len(kept), -1, len(levels))
        number = values[rows] if settings.quantile is None else found[..., levels.index(settings.quantile)]
        yield rows, number, found[:, :, 0, 0], found[:, :, 0, 1]
