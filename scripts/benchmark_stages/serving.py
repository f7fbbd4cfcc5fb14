"""Forecasts, backtests and commands with a trained model."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmark_stages.rows import Row, alternately, median_seconds
from kforecast.artifact import Artifact, EstimatorConfig
from kforecast.data.panel import Panel
from kforecast.evaluation.backtest import Span
from kforecast.evaluation.backtest import backtest as batched
from kforecast.forecaster import Forecaster
from kforecast.metrics.synthetic import SyntheticSource
from kforecast.models.fcnet import Fcnet

BIN = Path(sys.executable).parent
TRAFFIC = {"days": 28, "step": 600, "start": 1_704_067_200, "seed": 0, "hourly": 0.25, "weekend": 0.6}
TRAFFIC |= {"trend": 0.2, "noise": 0.08, "spikes": 1.5, "gaps": 0.0}


def made(rows: pd.DataFrame, length: int, horizon: int) -> Artifact:
    """Write an untrained artifact for the series of some traffic at 10min."""
    count = rows["workload"].nunique()
    config = EstimatorConfig(freq="10min", prediction_length=horizon, context_length=length, num_series=count)
    torch.manual_seed(0)
    ids = Panel.from_frame(rows, config.window.frequency).item_ids
    return Artifact(config, ids, Fcnet(config.window, count).artifact_state(), {"fill": "interpolate"})


def backtest() -> list[Row]:
    """50 origins x 20 series x 12 steps: one batched pass with nine baselines, against a plain loop."""
    rows = SyntheticSource(workloads=20, **TRAFFIC).fetch()
    artifact = made(rows, 12, 12)
    forecaster = Forecaster.of(artifact, "model")
    panel = Panel.from_frame(rows, forecaster.window.frequency)
    begin = panel.num_bins - 50 - 11
    span = Span(begin, panel.num_bins)
    histories = [rows[rows["timestamp"] < panel.timestamps[origin]] for origin in range(begin, begin + 50)]

    def loop() -> np.ndarray:
        found = [forecaster.forecast(history)["value"].to_numpy().reshape(20, 12) for history in histories]
        return np.stack(found, axis=1).reshape(-1, 12)  # by series, then origin

    one = batched(forecaster, panel, span)
    difference = np.abs(one.forecasts["kforecast"] / loop() - 1).max()
    times = alternately({"ours": lambda: batched(forecaster, panel, span), "loop": loop})
    with tempfile.TemporaryDirectory() as folder:
        artifact.save(Path(folder) / "model")
        rows.to_csv(Path(folder) / "traffic.csv", index=False)
        start = f"evaluate.start={int(panel.timestamps[begin])}"
        command = [BIN / "kforecast-evaluate", "artifact_dir=model", "--dataset-file=traffic.csv", start]
        whole = _median_of_command([*command, "hydra.run.dir=run"], folder)
    return [
        Row(
            f"backtest, 50 origins x 20 series x 12 steps (largest difference {difference:.0e})",
            f"{1000 * times['ours']:.0f} ms",
            f"{1000 * times['loop']:.0f} ms, a loop over origins",
            f"{times['loop'] / times['ours']:.0f} x",
        ),
        Row("the same as kforecast-evaluate, start-up and report included", f"{whole:.1f} s"),
    ]


def forecast() -> list[Row]:
    """Time of a call in a process that has loaded the artifact."""
    rows = SyntheticSource(workloads=1000, **(TRAFFIC | {"days": 1})).fetch()
    forecaster = Forecaster.of(made(rows, 7, 3), "model")
    torch.set_num_threads(1)
    one = rows[rows["workload"] == rows["workload"].iloc[0]].reset_index(drop=True)
    one["workload"] = one["workload"].cat.remove_unused_categories()
    times = []
    for _ in range(2000):
        begun = time.perf_counter()
        forecaster.forecast(one)
        times.append(time.perf_counter() - begun)
    many = median_seconds(lambda: forecaster.forecast(rows), repeats=20)
    return [
        Row(
            "forecast of one series from a day of history, 2,000 calls",
            f"p50 {1000 * np.percentile(times, 50):.1f} ms, p99 {1000 * np.percentile(times, 99):.1f} ms",
            target="p99 <= 5 ms",
        ),
        Row("forecast of 1,000 series in one call", f"{1000 * many:.0f} ms", target="<= 100 ms"),
    ]


def startup() -> list[Row]:
    """Whole commands, from start to exit."""
    with tempfile.TemporaryDirectory() as folder:
        help_ = _median_of_command([BIN / "kforecast-train", "--help"], folder)
        run = [BIN / "kforecast-train", "source=synthetic", "trainer.max_epochs=1", "hydra.run.dir=run"]
        trained = _median_of_command(run, folder)
    return [
        Row("kforecast-train --help", f"{help_:.2f} s", target="<= 1.5 s"),
        Row(
            "kforecast-train, 1 epoch of synthetic traffic, to its report",
            f"{trained:.1f} s",
            target="<= 10 s",
        ),
    ]


def leaderboard() -> list[Row]:
    """A leaderboard of thousands of runs, against reading their files only."""
    count = 2_000
    with tempfile.TemporaryDirectory() as folder:
        result = {"status": "done", "score": 0.5, "data": "d", "artifact_dir": "", "weights": "w"}
        for number in range(count):
            run = Path(folder, "outputs", str(number))
            (run / ".hydra").mkdir(parents=True)
            (run / "result.json").write_text(json.dumps(result))
            (run / ".hydra" / "overrides.yaml").write_text("- optimizer.lr=0.01\n")
        ours = _median_of_command([BIN / "kforecast-leaderboard", "--top=1"], folder)
        files = list(Path(folder, "outputs").rglob("*.*"))
        reading = median_seconds(lambda: [file.read_bytes() for file in files if file.is_file()])
    return [
        Row(
            f"kforecast-leaderboard of {count:,} runs",
            f"{ours:.2f} s",
            f"{reading:.2f} s, reading their files",
            target="<= 5 s",
        )
    ]


def _median_of_command(command: list[str | Path], folder: str) -> float:
    return median_seconds(lambda: subprocess.run(command, cwd=folder, capture_output=True, check=True), 5)
