"""Scores of point forecasts over the observed targets."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scores:
    """Errors of one forecaster, each first per series and then averaged over series.

    Attributes
    ----------
    mae:
        Mean absolute error ``mean |y - f|``, in the series' units (Hyndman & Koehler 2006, section 2).
    wape:
        Weighted absolute percentage error ``sum |y - f| / sum |y|`` as a share (Kolassa & Schuetz 2007): free
        of units, so that one big service does not decide. Series without any traffic are left out.
    """

    mae: float
    wape: float


def score(forecast: np.ndarray, actual: np.ndarray, observed: np.ndarray, series: np.ndarray) -> Scores:
    """Score forecasts.

    Parameters
    ----------
    forecast, actual:
        ``[windows, horizon]``.
    observed:
        Which targets count, bool ``[windows, horizon]``.
    series:
        Series of each window, int ``[windows]``.

    Raises
    ------
    ValueError
        When no target is observed.
    """
    if not observed.any():
        raise ValueError("no target is observed")
    error = np.where(observed, np.abs(actual.astype(np.float64) - forecast), 0.0).sum(axis=1)
    level = np.where(observed, np.abs(actual.astype(np.float64)), 0.0).sum(axis=1)
    present, number = np.unique(series, return_inverse=True)
    sums = [np.bincount(number, weights, len(present)) for weights in (error, level, observed.sum(axis=1))]
    error_sum, level_sum, count = (values[sums[2] > 0] for values in sums)
    loud = level_sum > 0
    wape = float(np.mean(error_sum[loud] / level_sum[loud])) if loud.any() else float("nan")
    return Scores(mae=float(np.mean(error_sum / count)), wape=wape)
