"""``as_consumed`` against the arithmetic of Kapacity's job, written here from its contract."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from conftest import START, run_command
from kforecast.artifact import Artifact, EstimatorConfig
from kforecast.data.edges import edge_values
from kforecast.data.panel import Panel
from kforecast.forecaster import Forecaster
from kforecast.models import Fcnet
from kforecast.models.naive import LAST_VALUE
from kforecast.window import Window

WINDOW = Window("10min", 5, 3)
KEYS = {"ns/aqps": 0, "ns/bqps": 1}


def network() -> Fcnet:
    torch.manual_seed(0)
    return Fcnet(WINDOW, 2).eval()


def forecaster() -> Forecaster:
    return Forecaster(WINDOW, KEYS, "interpolate", network())


def traffic(bins: int = 40, step: int = 60) -> pd.DataFrame:
    """Rows every ``step`` seconds that rise within each bin, with a silent hour."""
    second = np.arange(0, 600 * bins, step)
    second = second[(second < 600 * 30) | (second >= 600 * 33)]
    value = 20 + 5 * np.sin(second / 9000) + second % 600 / 100
    one = pd.DataFrame({"timestamp": START + second, "value": value, "workload": "ns/a", "metric": "qps"})
    return pd.concat([one, one.assign(workload="ns/b", value=one["value"] * 3)], ignore_index=True)


def job(rows: pd.DataFrame) -> tuple[list[int], np.ndarray]:
    """Times and values that the job makes of the history of one series."""
    history = rows.set_index(pd.to_datetime(rows["timestamp"], unit="s"))["value"]
    bins = history.resample("10min").mean().fillna(0)
    last = int(bins.index[-1].timestamp())
    times = [last + 600 * step for step in (1, 2, 3)]
    context = bins.to_numpy()[-WINDOW.context_length :]
    state = {name: tensor.double().numpy() for name, tensor in network().artifact_state().items()}
    return times, forward(state, context, times)


def forward(state: dict[str, np.ndarray], context: np.ndarray, times: list[int]) -> np.ndarray:
    """The forward pass of contract 5, for series id 0."""
    scale = max(np.abs(context).mean(), 1e-10)
    x = context / scale
    static = state["static_embeddings.0.weight"][0]

    def embedded(second: int) -> list[np.ndarray]:
        at = pd.Timestamp(second, unit="s")
        fields = (at.minute, at.hour, at.day_of_week, at.day)
        return [state[f"dynamic_embeddings.{j}.weight"][field] for j, field in enumerate(fields)]

    first, last = embedded(times[0]), embedded(times[-1])
    known = np.r_[x.mean(), x]
    change = known[1:] - 0.8 * known[:-1]
    products = [x * static, *(x * b for b in last), *(x * a for a in first)]
    z = np.concatenate([static, *first, *last, x, change, *products])
    for i in range(4):
        hidden = np.maximum(state[f"SELayers.{i}.fc.0.weight"] @ z, 0)
        z = z / (1 + np.exp(-state[f"SELayers.{i}.fc.2.weight"] @ hidden))
    return scale * (state["lc.weight"] @ z + state["lc.bias"])


@pytest.mark.parametrize("second", [0, 1, 59, 60, 61, 299, 540, 599])
@pytest.mark.parametrize("number", [20, 34, 39])
def test_the_forecast_is_the_jobs_at_every_second_of_a_bin(number: int, second: int) -> None:
    now = START + 600 * number + second
    known = traffic()[lambda rows: rows["timestamp"] <= now]
    found = forecaster().forecast(known, as_consumed=True)
    for workload, own in found.groupby("workload"):
        times, expected = job(known[known["workload"] == workload])
        assert own["timestamp"].tolist() == times
        assert times[0] == START + 600 * (number + 1)
        np.testing.assert_allclose(own["value"], expected, rtol=1e-4)
    # From the whole history, given the moment.
    pd.testing.assert_frame_equal(forecaster().forecast(traffic(), as_consumed=True, at=now), found)


def test_a_series_that_has_ended_is_forecast_from_its_own_bins(caplog: pytest.LogCaptureFixture) -> None:
    rows = traffic()
    rows = rows[(rows["workload"] == "ns/a") | (rows["timestamp"] < START + 600 * 25)]
    found = forecaster().forecast(rows, as_consumed=True)
    for workload, own in found.groupby("workload"):
        times, expected = job(rows[rows["workload"] == workload])
        assert own["timestamp"].tolist() == times
        np.testing.assert_allclose(own["value"], expected, rtol=1e-4)
    assert found["age"].tolist() == [0] * 3 + [600 * 15] * 3
    assert "stale: ns/b qps (newest value 2.5 h old)" in caplog.text


@pytest.mark.slow
def test_the_command_forecasts_as_the_job(tmp_path: Path) -> None:
    config = EstimatorConfig(freq="10min", prediction_length=3, context_length=5, num_series=2)
    Artifact(config, KEYS, network().artifact_state(), {"fill": "zero"}).save(tmp_path / "model")
    known = traffic()[lambda rows: rows["timestamp"] <= START + 600 * 36 + 150]
    known.to_csv(tmp_path / "traffic.csv", index=False)
    given = ["artifact_dir=model", "--dataset-file=traffic.csv"]
    done = run_command("kforecast-forecast", *given, "forecast.as_consumed=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line.split(",") for line in done.stdout.splitlines()[1:]]
    times, expected = job(known[known["workload"] == "ns/b"])
    assert [int(line[0]) for line in lines[3:]] == times
    np.testing.assert_allclose([float(line[3]) for line in lines[3:]], expected, rtol=1e-4)
    # The evaluation says which of the job's moments it scores.
    asked = [*given, "evaluate.as_consumed=true", "hydra.run.dir=run"]
    done = run_command("kforecast-evaluate", *asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "as Kapacity's job serves it when a bin has just begun" in " ".join(done.stdout.split())
    assert json.loads((tmp_path / "run" / "report.json").read_text())["as_consumed"] is True


# Evaluation


def test_an_evaluation_scores_a_job_that_starts_with_a_bin() -> None:
    rows = traffic()
    found = forecaster().evaluate(rows, start=START + 600 * 20, as_consumed=True).forecasts
    compared = 0
    for (workload, origin), own in found.groupby(["workload", "origin"], observed=True):
        # ``origin`` is the bin before the first target, which has just begun.
        known = rows[(rows["workload"] == workload) & (rows["timestamp"] <= origin)]
        times, expected = job(known)
        assert own["timestamp"].tolist() == times
        np.testing.assert_allclose(own["value"], expected, rtol=1e-4)
        compared += 1
    assert compared > 20


def test_its_baselines_know_no_more_than_the_job() -> None:
    rows = traffic()
    found = forecaster().evaluate(rows, start=START + 600 * 20, as_consumed=True).board.backtest
    seen = rows.set_index(["workload", "timestamp"])["value"]
    for number in range(len(found.cells)):
        workload = found.panel.series[found.series[number]][0]
        begun = found.panel.seconds(int(found.origin[number]) - 1)
        assert found.forecasts[LAST_VALUE][number] == pytest.approx(seen[workload, begun], rel=1e-5)


def test_rows_as_coarse_as_bins_change_nothing() -> None:
    rows = traffic(step=600)
    rows["timestamp"] += 240  # anywhere in the bin
    panel = Panel.from_frame(rows, WINDOW.frequency)
    np.testing.assert_array_equal(edge_values(rows, panel), np.where(panel.observed, panel.values, 0))


def test_the_first_rows_of_a_bin() -> None:
    second = np.array([0, 30, 60, 90, 600 + 200, 600 + 259, 600 + 260, 1800])
    rows = pd.DataFrame(
        {"timestamp": START + second, "value": np.arange(8.0), "workload": "a", "metric": "m"}
    )
    strange = rows.assign(workload="b", value=99.0)
    panel = Panel.from_frame(rows, WINDOW.frequency)
    edges = edge_values(pd.concat([rows, strange, rows.assign(value=np.nan)]), panel)
    assert edges.tolist()[0][:2] == [0.5, 4.5]


def test_an_evaluation_names_series_that_end_early(caplog: pytest.LogCaptureFixture) -> None:
    rows = traffic()
    one = rows[rows["workload"] == "ns/a"]
    early = one[one["timestamp"] < START + 600 * 10].assign(workload="ns/b")
    found: Any = forecaster().evaluate(pd.concat([one, early[early["value"] > 0]]), start=START + 600 * 20)
    (warning,) = [words for words in found.warnings if words.startswith("Series")]
    assert warning == (
        "Series that end before the end of the span, 1 of them before it begins: ns/b qps (newest value 5 h "
        "old)."
    )
    assert warning in caplog.text


def test_a_history_that_the_job_would_fail_on_is_named(caplog: pytest.LogCaptureFixture) -> None:
    forecaster().forecast(traffic(5), as_consumed=True)
    assert not caplog.records
    found = forecaster().forecast(traffic(4), as_consumed=True)
    assert np.isfinite(found["value"]).all()
    assert "Kapacity's job fails on a history shorter than the context: ns/a qps, ns/b qps" in caplog.text
