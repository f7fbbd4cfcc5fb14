"""Forecasts of the pre-trained weights from a short history, against naive forecasts from the same history.

At each origin of a task, nothing before the given number of bins exists. scripts/benchmark_accuracy.py starts
this as a command of its own.
"""

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from kforecast.data.panel import Panel
from kforecast.forecaster import Forecaster
from kforecast.models.naive import ALWAYS_ZERO, baselines
from kforecast.window import Frequency, Window


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("task", type=Path, help="folder with full.csv, origins.csv and task.json")
    parser.add_argument("seconds", type=int, help="length of the history before each origin")
    parser.add_argument("out", type=Path, help="folder for forecasts.csv and history.json")
    given = parser.parse_args()
    facts = json.loads((given.task / "task.json").read_text(encoding="utf-8"))
    frequency = Frequency.parse(facts["freq"])
    window = Window(frequency, facts["context_length"], facts["prediction_length"])
    # Without intervals, no errors before the origins are followed; the forecasts are the same.
    forecaster = replace(Forecaster.pretrained(window), online=None, intervals=None)
    text = {"workload": str, "metric": str}
    panel = Panel.from_frame(pd.read_csv(given.task / "full.csv", dtype=text), frequency)
    asked = pd.read_csv(given.task / "origins.csv", dtype=text)
    bins = max(1, given.seconds // frequency.step)
    frame, found = measured(forecaster, panel, asked, bins)
    given.out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(given.out / "forecasts.csv", index=False)
    (given.out / "history.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


def measured(
    forecaster: Forecaster, panel: Panel, asked: pd.DataFrame, bins: int
) -> tuple[pd.DataFrame, dict[str, object]]:
    """Forecast from each origin with so many bins before it.

    Parameters
    ----------
    asked:
        ``workload``, ``metric`` and ``origin`` of each forecast, as the protocol's ``origins.csv``.

    Returns
    -------
    The forecasts as the protocol reads them; and ``naive``, the best naive forecast, with ``ratio``, the
    error divided by its error (geometric mean over the series).
    """
    horizon, number = (
        forecaster.window.prediction_length,
        {pair: row for row, pair in enumerate(panel.series)},
    )
    row = np.array([number[pair] for pair in zip(asked["workload"], asked["metric"], strict=True)])
    origin = (asked["origin"].to_numpy() - panel.start) // panel.frequency.step + 1
    made = np.empty((len(asked), horizon), np.float32)
    actual = np.empty((len(asked), horizon))
    naive: dict[str, np.ndarray] = {}
    for begin in np.unique(origin).tolist():
        mine = np.flatnonzero(origin == begin)
        first = max(0, begin - bins)
        part = replace(
            panel.rows(row[mine].tolist()),
            values=panel.values[row[mine], first : begin + horizon],
            observed=panel.observed[row[mine], first : begin + horizon].copy(),
            start=int(panel.seconds(first)),
        )
        actual[mine] = np.where(part.observed, part.values, np.nan)[:, -horizon:]
        part.observed[:, begin - first :] = False
        rows, end = np.arange(len(mine)), np.full(len(mine), begin - first)
        made[mine] = forecaster.forecast_windows(part, rows, end).values
        cells = rows * part.num_bins + begin - first
        for name, values in baselines(part, cells, forecaster.window, begin - first).items():
            naive.setdefault(name, np.empty_like(made))[mine] = values
    naive.pop(ALWAYS_ZERO)
    errors = {name: _of_series(values, actual, row, panel.num_series) for name, values in naive.items()}
    best = min(errors, key=lambda name: errors[name].mean())
    ratio = math.exp((_of_series(made, actual, row, panel.num_series) - errors[best]).mean())
    frame = asked.loc[asked.index.repeat(horizon), ["workload", "metric", "origin"]]
    frame = frame.assign(step=np.tile(np.arange(1, horizon + 1), len(asked)), value=made.ravel())
    return frame, {"naive": best, "ratio": ratio}


def _of_series(values: np.ndarray, actual: np.ndarray, row: np.ndarray, series: int) -> np.ndarray:
    """Logarithm of the mean absolute error of each series that has forecasts."""
    error = np.nanmean(np.abs(values - actual), axis=1)
    count = np.bincount(row, minlength=series)
    total = np.bincount(row, error, series)
    found: np.ndarray = np.log(total[count > 0] / count[count > 0])
    return found


if __name__ == "__main__":
    main()
