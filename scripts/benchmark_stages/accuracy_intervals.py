"""Widths of the 90 % intervals of two forecasters at equal coverage.

An interval that is wider also holds more, so widths compare only at equal coverage. For each series, the
distances of both bounds from the forecast are multiplied by one factor: the smallest with which the interval
holds 90 % of the series' targets (the conformity score of locally weighted split conformal prediction, Lei et
al. 2018, "Distribution-free predictive inference for regression", section 5.2). Both factors come from the
judged targets themselves, so both coverages are exactly equal.

A forecaster without intervals gets those of split conformal prediction (section 2.2): for each series and
step, the 90 % quantile of the absolute error to both sides, from the same targets.
"""

from pathlib import Path

import numpy as np
import pandas as pd

SHARE = 0.9
_KEYS = ["workload", "metric", "origin", "step"]
_BOUNDS = ["q0.05", "q0.95"]


def equal_coverage(ours: Path, rival: Path) -> tuple[float | None, float | None]:
    """Mean widths of ours divided by the rival's own and by its split conformal ones.

    Parameters
    ----------
    ours, rival:
        ``forecasts.csv`` of two evaluations of the same targets.

    Returns
    -------
    Geometric means over the series; None where there are no intervals.
    """
    one, other = read(ours), read(rival)
    if _BOUNDS[0] not in one:
        return None, None
    both = one.merge(other.drop(columns="actual"), on=_KEYS, suffixes=("", " of rival"))
    own, conformal = [], []
    for _, series in both.groupby(["workload", "metric"], observed=True):
        actual = series["actual"].to_numpy()
        width = scaled_width(series[["value", *_BOUNDS]].to_numpy(), actual)
        theirs = series["value of rival"].to_numpy()
        conformal.append(width / conformal_width(theirs, actual, series["step"].to_numpy()))
        if _BOUNDS[0] in other:
            bounds = series[[f"{name} of rival" for name in ("value", *_BOUNDS)]].to_numpy()
            own.append(width / scaled_width(bounds, actual))
    return _geometric(own), _geometric(conformal)


def read(forecasts: Path) -> pd.DataFrame:
    """The observed targets of ``forecasts.csv`` with their forecasts and, if there are any, intervals."""
    wanted = {*_KEYS, "value", "actual", *_BOUNDS}
    frame = pd.read_csv(
        forecasts,
        usecols=lambda name: name in wanted,
        dtype={"workload": "category", "metric": "category", "step": "int64"},
    )
    return frame.dropna(subset=["value", "actual"])


def scaled_width(forecast: np.ndarray, actual: np.ndarray) -> float:
    """The mean width of intervals that are scaled until they hold 90 % of the targets.

    Parameters
    ----------
    forecast:
        Forecast, lower and upper bound of each target, ``[targets, 3]``.
    actual:
        ``[targets]``.
    """
    value, lower, upper = forecast.T
    error = actual - value
    side = np.where(error < 0, value - lower, upper - value)
    with np.errstate(divide="ignore", invalid="ignore"):
        score = np.where(error == 0, 0.0, np.abs(error) / np.maximum(side, 0.0))
    return float(_share(score) * (upper - lower).mean())


def conformal_width(value: np.ndarray, actual: np.ndarray, step: np.ndarray) -> float:
    """The mean width of split conformal intervals around the forecasts of a series."""
    error = np.abs(actual - value)
    half = [_share(error[step == each]) for each in np.unique(step)]
    count = [np.sum(step == each) for each in np.unique(step)]
    return float(2 * np.average(half, weights=count))


def _share(scores: np.ndarray) -> float:
    """The smallest score that 90 % of the scores do not exceed."""
    return float(np.quantile(scores, SHARE, method="inverted_cdf"))


def _geometric(ratios: list[float]) -> float | None:
    """The geometric mean of the ratios that are known."""
    known = [ratio for ratio in ratios if not np.isnan(ratio) and ratio > 0]
    return float(np.exp(np.mean(np.log(known)))) if known else None
