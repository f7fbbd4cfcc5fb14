"""Scores of forecasts on the observed targets: per series, per step, and over all.

With actual value y and forecast f, and with sums and means over the observed targets of a series:

========================  =========================================================================
mae                       mean |y - f|, in the metric's unit (Hyndman & Koehler 2006)
rmse                      sqrt(mean (y - f)^2), in the metric's unit
wape                      sum |y - f| / sum |y|, a share (Kolassa & Schuetz 2007)
mase                      mae / mean |y_t - y_(t - season)| before the judged span; the season is a day,
                          or a week at ``1D`` (Hyndman & Koehler 2006)
bias                      mean (f - y), in the metric's unit; positive if forecasts are too high
relative_bias             sum (f - y) / sum |y|, a share
pinball                   mean over the levels q of the mean max(q (y - f_q), (q - 1) (y - f_q)), in the
                          metric's unit (Koenker & Bassett 1978; Gneiting & Raftery 2007)
coverage_80, ...          share of targets inside the central interval of 80 %, ...
targets                   number of observed targets
========================  =========================================================================

The score over all series (workload and metric ``*``) is the mean of the series' scores. ``wape``, ``mase``
and ``relative_bias`` have no unit, so that every series has the same weight; in the other means big services
weigh more. A series whose denominator is zero is left out of the mean.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from kforecast.data.panel import Panel
from kforecast.evaluation.backtest import Backtest

ALL_STEPS = "all"
ALL_SERIES = "*"


def seasonal_error(panel: Panel, stop: int) -> np.ndarray:
    """The denominator of MASE: mean absolute error of the seasonal naive forecast before bin ``stop``.

    Returns
    -------
    float64 ``[series]``; NaN if no two bins a season apart were observed, or if all such bins are equal.
    """
    season = panel.frequency.season
    values, observed = panel.values[:, :stop].astype(np.float64), panel.observed[:, :stop]
    both = observed[:, season:] & observed[:, :-season]
    change = np.where(both, np.abs(values[:, season:] - values[:, :-season]), 0.0)
    error = ratio(change.sum(axis=1), both.sum(axis=1))
    return np.where(error > 0, error, np.nan)


def score(backtest: Backtest) -> pd.DataFrame:
    """Score every model and baseline of a backtest.

    Returns
    -------
    DataFrame ``model, workload, metric, step`` (1 to the horizon, or ``all``) and the scores above; workload
    and metric are ``*`` for the mean over series. Series without an observed target have no rows. Only the
    judged model has ``pinball`` and ``coverage``.
    """
    rows = backtest.scored_series
    scale = seasonal_error(backtest.panel, backtest.begin)[rows]
    frames = []
    for name, forecast in backtest.forecasts.items():
        scores = _point_scores(backtest, forecast, rows, scale)
        if name == backtest.model and backtest.levels:
            scores |= _quantile_scores(backtest, rows)
        frames.append(_frame(name, backtest, rows, scores))
    frame = pd.concat(frames, ignore_index=True)
    targets = frame.pop("targets")
    return frame.assign(targets=targets)


def overall(scores: pd.DataFrame, model: str) -> dict[str, float]:
    """The scores of a model or baseline over all series and steps, by name."""
    row = scores[
        (scores["model"] == model) & (scores["workload"] == ALL_SERIES) & (scores["step"] == ALL_STEPS)
    ]
    return {str(name): value for name, value in row.iloc[0, 4:].items()}


def _point_scores(
    backtest: Backtest, forecast: np.ndarray, rows: np.ndarray, scale: np.ndarray
) -> dict[str, np.ndarray]:
    """Scores of point forecasts by name, ``[series, horizon + 1]``; the last column is the whole horizon."""
    error = forecast.astype(np.float64) - backtest.actual
    absolute, squared, signed, level, count = (
        _sums(backtest, rows, values)
        for values in (np.abs(error), error**2, error, np.abs(backtest.actual), ~np.isnan(error))
    )
    mae = ratio(absolute, count)
    return {
        "mae": mae,
        "rmse": np.sqrt(ratio(squared, count)),
        "wape": ratio(absolute, level),
        "mase": mae / scale[:, None],
        "bias": ratio(signed, count),
        "relative_bias": ratio(signed, level),
        "targets": count,
    }


def _quantile_scores(backtest: Backtest, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of the judged model's quantiles, shaped as in :func:`_point_scores`."""
    count = _sums(backtest, rows, backtest.observed)
    losses = []
    for number, level in enumerate(backtest.levels):
        error = backtest.actual - backtest.quantiles[..., number]
        losses.append(_sums(backtest, rows, np.maximum(level * error, (level - 1) * error)))
    scores = {"pinball": ratio(np.mean(losses, axis=0), count)}
    for low, high in central_intervals(backtest.levels):
        inside = (backtest.quantiles[..., low] <= backtest.actual) & (
            backtest.actual <= backtest.quantiles[..., high]
        )
        share = round(100 * (backtest.levels[high] - backtest.levels[low]), 4)
        scores[f"coverage_{share:g}"] = ratio(_sums(backtest, rows, inside), count)
    return scores


def central_intervals(levels: Sequence[float]) -> list[tuple[int, int]]:
    """The central intervals among the levels, narrowest first: positions of the levels q and 1 - q."""
    positions = {round(level, 6): number for number, level in enumerate(levels)}
    return [
        (positions[level], positions[round(1 - level, 6)])
        for level in sorted(positions, reverse=True)
        if level < 0.5 and round(1 - level, 6) in positions
    ]


def _sums(backtest: Backtest, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sums over the windows of each series, ``[series, horizon + 1]``; last column: the whole horizon."""
    of_targets = np.where(backtest.observed, values, 0).astype(np.float64)
    number = np.searchsorted(rows, backtest.series)
    known = np.isin(backtest.series, rows)
    # The windows are sorted by series.
    begins = np.searchsorted(number[known], np.arange(len(rows)))
    sums = np.add.reduceat(of_targets[known], begins, axis=0)
    return np.concatenate([sums, sums.sum(axis=1, keepdims=True)], axis=1)


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Elementwise quotient; NaN where the denominator is not above 0."""
    quotient = np.full(np.shape(numerator), np.nan)
    np.divide(numerator, denominator, where=np.asarray(denominator) > 0, out=quotient)
    return quotient


def _frame(name: str, backtest: Backtest, rows: np.ndarray, scores: dict[str, np.ndarray]) -> pd.DataFrame:
    """Scores as rows of a long frame: every series and step, then the mean over series."""
    steps = [*range(1, backtest.horizon + 1), ALL_STEPS]
    pairs = [*(backtest.panel.series[row] for row in rows), (ALL_SERIES, ALL_SERIES)]
    columns: dict[str, object] = {
        "model": name,
        "workload": [workload for workload, _ in pairs for _ in steps],
        "metric": [metric for _, metric in pairs for _ in steps],
        "step": [str(step) for _ in pairs for step in steps],
    }
    for score_name, values in scores.items():
        total = values.sum(axis=0) if score_name == "targets" else mean_of_known(values)
        columns[score_name] = np.concatenate([values, total[None]]).reshape(-1)
    frame = pd.DataFrame(columns)
    frame["targets"] = frame["targets"].astype(np.int64)
    return frame


def mean_of_known(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis, ignoring NaN; NaN if all are NaN."""
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0.0).sum(axis=0), known.sum(axis=0))
