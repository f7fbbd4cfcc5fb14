"""Drops that recur: a service that a nightly job pauses, and the error in the hours of the pause.

Robustness against outages must not smooth such drops away.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

TASK = "recurring drops"
_STEP, _DAYS, _TEST_DAYS = 600, 56, 11
# Seconds of the day of the pause, and the share of the traffic that is left in it.
_PAUSE, _LEFT = (2 * 3600, 3 * 3600), 0.05


class DropFacts(NamedTuple):
    """Errors on traffic with a nightly pause, divided by the mean traffic; means over the series.

    ``of_rival`` is the error in the pause divided by that of the rival; None without one.
    """

    seed: int
    paused: float
    elsewhere: float
    of_rival: float | None = None


def export(folder: Path) -> None:
    """Write ``train.csv``, ``full.csv`` and ``task.json``, as the protocol does for its tasks."""
    from kforecast.metrics.synthetic import SyntheticSource

    rows = SyntheticSource(
        workloads=4,
        days=_DAYS,
        step=_STEP,
        start=1_704_067_200,
        hourly=0.0,
        weekend=0.6,
        trend=0.2,
        noise=0.08,
        spikes=1.5,
        gaps=1.0,
        seed=0,
    ).fetch()
    rows["value"] = np.where(_paused(rows), _LEFT * rows["value"], rows["value"])
    train_end = int(rows["timestamp"].min()) + (_DAYS - _TEST_DAYS) * 86_400
    folder.mkdir(parents=True, exist_ok=True)
    rows[rows["timestamp"] < train_end].to_csv(folder / "train.csv", index=False)
    rows.to_csv(folder / "full.csv", index=False)
    task = {"freq": "10min", "context_length": 12, "prediction_length": 12, "train_end": train_end}
    (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")


def facts(seed: int, forecasts: Path, of_rival: Path | None = None) -> DropFacts:
    """The errors in ``forecasts.csv``, also against those in a rival's."""
    paused, elsewhere = _errors(forecasts)
    return DropFacts(seed, paused, elsewhere, None if of_rival is None else paused / _errors(of_rival)[0])


def _errors(forecasts: Path) -> tuple[float, float]:
    """The errors in the pause and in the other hours."""
    frame = pd.read_csv(forecasts, usecols=["workload", "timestamp", "value", "actual"]).dropna()
    frame = frame.assign(error=(frame["value"] - frame["actual"]).abs(), paused=_paused(frame))
    level = frame.groupby("workload")["actual"].mean()
    errors = frame.groupby(["workload", "paused"])["error"].mean().unstack()
    relative = errors.div(level, axis=0).mean()
    return float(relative[True]), float(relative[False])


def _paused(rows: pd.DataFrame) -> pd.Series:
    return (rows["timestamp"] % 86_400).between(_PAUSE[0], _PAUSE[1], inclusive="left")
