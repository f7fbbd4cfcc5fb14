"""Naive forecasts: baselines that cost nothing and that a model must beat.

They use observed bins before each origin only. All take windows as flat cells ``series * num_bins + origin``
(int64 ``[windows]``) and return float32 ``[windows, prediction_length]``.
"""

import numpy as np

from kforecast.data.panel import Panel
from kforecast.data.split import running_sum
from kforecast.window import Window

LAST_VALUE = "last value"
MOVING_AVERAGE = "moving average"
TIME_OF_WEEK = "mean by time of week"
LAST_PLUS_DAILY = "last value plus daily difference"
LAST_PLUS_WEEKLY = "last value plus weekly difference"
# A combination may give these weights; artifacts refer to them by name.
NAIVE = (
    LAST_VALUE,
    MOVING_AVERAGE,
    "same time yesterday",
    "same time last week",
    TIME_OF_WEEK,
    LAST_PLUS_DAILY,
    LAST_PLUS_WEEKLY,
)
# Those that repeat a past bin, and those that read the whole history before the first origin.
SEASONAL, MEANS = ("same time yesterday", "same time last week"), ("mean by time of week",)
# A model that does not beat these knows nothing about time. They are never part of a combination.
TRAINING_MEAN, ALWAYS_ZERO = "training mean", "always zero"


def baselines(panel: Panel, cells: np.ndarray, window: Window, begin: int) -> dict[str, np.ndarray]:
    """All baselines by name, from the same origins: the naive forecasts, the training mean and zero.

    Parameters
    ----------
    begin:
        The first judged bin; means over the history use the bins before it.
    """
    horizon = window.prediction_length
    return naive_forecasts(panel, cells, window, begin) | {
        TRAINING_MEAN: history_mean(panel, cells, horizon, begin),
        ALWAYS_ZERO: np.zeros((len(cells), horizon), np.float32),
    }


def naive_forecasts(panel: Panel, cells: np.ndarray, window: Window, begin: int) -> dict[str, np.ndarray]:
    """The forecasts of :data:`NAIVE` by name; parameters as in :func:`baselines`."""
    horizon, frequency = window.prediction_length, panel.frequency
    last = last_value(panel, cells, horizon)
    made = (
        last,
        moving_average(panel, cells, horizon, window.context_length),
        seasonal_naive(panel, cells, horizon, frequency.day),
        seasonal_naive(panel, cells, horizon, frequency.week, frequency.day),
        time_of_week_mean(panel, cells, horizon, begin),
        *last_plus_differences(panel, cells, last).values(),
    )
    return dict(zip(NAIVE, made, strict=True))


def last_value(panel: Panel, cells: np.ndarray, prediction_length: int) -> np.ndarray:
    """Repeat the newest observed value; 0 if the series has none before the origin."""
    held = hold_last(panel.values, panel.observed)
    series, origin = np.divmod(cells, panel.num_bins)
    newest = np.where(origin > 0, held[series, origin - 1], np.float32(0))
    return np.repeat(newest[:, None], prediction_length, axis=1)


def moving_average(
    panel: Panel, cells: np.ndarray, prediction_length: int, context_length: int
) -> np.ndarray:
    """Repeat the mean of the context's observed bins; the last value if there are none."""
    series, origin = np.divmod(cells, panel.num_bins)
    total = running_sum(np.where(panel.observed, panel.values, 0), np.float64)
    count = running_sum(panel.observed)
    first = np.maximum(origin - context_length, 0)
    seen = count[series, origin] - count[series, first]
    mean = (total[series, origin] - total[series, first]) / np.maximum(seen, 1)
    averaged = np.repeat(mean.astype(np.float32)[:, None], prediction_length, axis=1)
    return np.where(seen[:, None] > 0, averaged, last_value(panel, cells, prediction_length))


def seasonal_naive(panel: Panel, cells: np.ndarray, prediction_length: int, *seasons: int) -> np.ndarray:
    """Repeat the value one season ago (Hyndman & Athanasopoulos, Forecasting: Principles and Practice, 5.2).

    If that bin was not observed, the previous season is used, and so on. If no such bin was observed, the
    next of the given seasons is tried, and finally the last value.

    Parameters
    ----------
    seasons:
        Lengths of the seasons in bins, in the order in which they are tried.
    """
    season, *others = seasons
    num_bins = panel.num_bins
    count = -(-num_bins // season)
    padding = ((0, 0), (0, count * season - num_bins))

    def by_season(array: np.ndarray) -> np.ndarray:
        """One row per series and time of the season, one column per season: ``[rows, season]``."""
        folded = np.pad(array, padding).reshape(panel.num_series, count, season)
        return folded.transpose(0, 2, 1).reshape(panel.num_series * season, count)

    observed = by_season(panel.observed)
    held = hold_last(by_season(panel.values), observed)
    ever = np.maximum.accumulate(observed, axis=1)
    series, origin = np.divmod(cells, num_bins)
    target = origin[:, None] + np.arange(prediction_length)
    # Go back the fewest seasons that lead before the origin: one, or more for a long horizon.
    source = target - season * (1 + np.arange(prediction_length) // season)
    row = series[:, None] * season + np.maximum(source, 0) % season
    column = np.maximum(source, 0) // season
    known = (source >= 0) & ever[row, column]
    if others:
        otherwise = seasonal_naive(panel, cells, prediction_length, *others)
    else:
        otherwise = last_value(panel, cells, prediction_length)
    return np.where(known, held[row, column], otherwise)


def last_plus_differences(panel: Panel, cells: np.ndarray, last: np.ndarray) -> dict[str, np.ndarray]:
    """The last value plus the change of a day and of a week ago; where a bin is a day, both of a week ago.

    ``last`` is as in :func:`last_plus_difference`.
    """
    season, week = panel.frequency.season, panel.frequency.week
    return {
        LAST_PLUS_DAILY: last_plus_difference(panel, cells, last, season),
        LAST_PLUS_WEEKLY: last_plus_difference(panel, cells, last, week, season),
    }


def last_plus_difference(panel: Panel, cells: np.ndarray, last: np.ndarray, *seasons: int) -> np.ndarray:
    """The last value plus the change one season ago, from its time of the season to the target's.

    If one of these two bins was not observed, the previous season is used, and so on. If there is no such
    season, the next of the given seasons is tried, and finally the last value alone. A series that was never
    below 0 before the origin is not forecast below 0.

    Parameters
    ----------
    last:
        The last value of each window, float32 ``[windows, prediction_length]``.
    seasons:
        Lengths of the seasons in bins, in the order in which they are tried.
    """
    season, *others = seasons
    observed, values = panel.observed, panel.values
    series, origin = np.divmod(cells, panel.num_bins)
    newest = np.where(origin > 0, newest_observed(observed)[series, origin - 1], -1)
    oldest = observed.argmax(axis=1)[series]
    forecast = last_plus_difference(panel, cells, last, *others) if others else last.copy()
    # Go back the fewest seasons that lead before the origin, and one more until both bins were observed.
    window, step = np.indices(last.shape).reshape(2, -1)
    back = season * (1 + step // season)
    while len(window):
        possible = newest[window] - back >= oldest[window]
        window, step, back = window[possible], step[possible], back[possible]
        row, start, end = series[window], newest[window] - back, origin[window] + step - back
        known = observed[row, start] & observed[row, end]
        change = (values[row, end] - values[row, start])[known]
        at = (window[known], step[known])
        forecast[at] = last[at] + change
        window, step, back = window[~known], step[~known], back[~known] + season
    below = observed & (values < 0)
    first_below = np.where(below.any(axis=1), below.argmax(axis=1), panel.num_bins)[series]
    return np.where((origin <= first_below)[:, None] & (forecast < 0), np.float32(0), forecast)


def time_of_week_mean(panel: Panel, cells: np.ndarray, prediction_length: int, stop: int) -> np.ndarray:
    """The mean of the observed bins before ``stop`` at the same time of the week.

    If there are none, the mean at the same time of the day is used, then the mean of the series, then the
    last value. Every origin must be at or after ``stop``.
    """
    series, origin = np.divmod(cells, panel.num_bins)
    day, week = panel.frequency.day, panel.frequency.week
    # Bins are counted from 1970, so that a time of the week has the same number in every week.
    first = panel.first_bin
    target = first + origin[:, None] + np.arange(prediction_length)
    width = ((0, 0), (first % week, -(first + stop) % week))

    def by_time_of_week(array: np.ndarray) -> np.ndarray:
        """Sums over weeks, ``[series, time of week]``."""
        sums: np.ndarray = np.pad(array[:, :stop], width).reshape(len(array), -1, week).sum(axis=1)
        return sums

    counts = by_time_of_week(panel.observed.astype(np.int64))
    totals = by_time_of_week(np.where(panel.observed, panel.values, 0).astype(np.float64))
    forecast = last_value(panel, cells, prediction_length).astype(np.float64)
    for season in (1, day, week):
        count = counts.reshape(len(counts), -1, season).sum(axis=1)
        total = totals.reshape(len(totals), -1, season).sum(axis=1)
        at = (series[:, None], target % season)
        forecast = np.where(count[at] > 0, total[at] / np.maximum(count[at], 1), forecast)
    return forecast.astype(np.float32)


def history_mean(panel: Panel, cells: np.ndarray, prediction_length: int, stop: int) -> np.ndarray:
    """The mean of the series' observed bins before ``stop``; the last value if there are none."""
    observed = panel.observed[:, :stop]
    count = observed.sum(axis=1)
    total = np.where(observed, panel.values[:, :stop], 0).sum(axis=1, dtype=np.float64)
    series = cells // panel.num_bins
    mean = (total / np.maximum(count, 1))[series, None].astype(np.float32)
    return np.where(count[series, None] > 0, mean, last_value(panel, cells, prediction_length))


def hold_last(values: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """The newest observed value at or before each column, ``[rows, columns]``; 0 before the first one."""
    newest = newest_observed(observed)
    held = np.take_along_axis(values, np.maximum(newest, 0), axis=1)
    return np.where(newest >= 0, held, np.float32(0))


def newest_observed(observed: np.ndarray) -> np.ndarray:
    """The newest observed column at or before each column, int64 ``[rows, columns]``; -1 before the first."""
    return np.maximum.accumulate(np.where(observed, np.arange(observed.shape[1]), -1), axis=1)
