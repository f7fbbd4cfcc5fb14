"""Naive forecasts that a model must beat; they look at nothing but observed bins before each origin."""

import numpy as np

from kforecast.data.panel import Panel


def last_value(panel: Panel, cells: np.ndarray, prediction_length: int) -> np.ndarray:
    """Repeat the newest observed value.

    Parameters
    ----------
    cells:
        Windows as flat cells ``series * num_bins + origin``, int64 ``[windows]``.

    Returns
    -------
    float32 ``[windows, prediction_length]``; 0 where the series has no value before the origin.
    """
    held = _hold_last(panel.values, panel.observed)
    series, origin = np.divmod(cells, panel.num_bins)
    newest = np.where(origin > 0, held[series, origin - 1], np.float32(0))
    return np.repeat(newest[:, None], prediction_length, axis=1)


def seasonal_naive(panel: Panel, cells: np.ndarray, prediction_length: int) -> np.ndarray:
    """Repeat the value one season ago: same time yesterday, or same day last week at ``1D``.

    Where that bin was not observed the season before it is taken, and so on; where no season was, the
    last value. Parameters and shape as in :func:`last_value`
    (Hyndman & Athanasopoulos, Forecasting: Principles and Practice, 5.2).
    """
    season, num_bins = panel.frequency.season, panel.num_bins
    seasons = -(-num_bins // season)
    padding = ((0, 0), (0, seasons * season - num_bins))

    def by_season(array: np.ndarray) -> np.ndarray:
        """[series, time of season, season], so that holding the last value goes along the same time."""
        folded = np.pad(array, padding).reshape(panel.num_series, seasons, season)
        return folded.transpose(0, 2, 1).reshape(panel.num_series * season, seasons)

    observed = by_season(panel.observed)
    held = _hold_last(by_season(panel.values), observed)
    ever = np.maximum.accumulate(observed, axis=1)
    series, origin = np.divmod(cells, num_bins)
    target = origin[:, None] + np.arange(prediction_length)
    # The newest whole number of seasons that leads before the origin: one, or more for a long horizon.
    source = target - season * (1 + np.arange(prediction_length) // season)
    row = series[:, None] * season + np.maximum(source, 0) % season
    column = np.maximum(source, 0) // season
    known = (source >= 0) & ever[row, column]
    return np.where(known, held[row, column], last_value(panel, cells, prediction_length))


def _hold_last(values: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """The newest observed value at or before each column, 0 before the first; ``[rows, columns]``."""
    newest = np.maximum.accumulate(np.where(observed, np.arange(values.shape[1]), -1), axis=1)
    held = np.take_along_axis(values, np.maximum(newest, 0), axis=1)
    return np.where(newest >= 0, held, np.float32(0))
