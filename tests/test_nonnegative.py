"""A series that was never observed below zero is never forecast below zero, however the forecast is made."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from kforecast.artifact import Artifact, EstimatorConfig
from kforecast.data.panel import Panel
from kforecast.evaluation.backtest import BacktestSettings, Span
from kforecast.evaluation.report.files import forecasts_frame
from kforecast.evaluation.scoreboard import judge
from kforecast.forecaster import Forecaster
from kforecast.models import NETWORKS
from kforecast.onnx_export import OnnxNetwork
from kforecast.simulation.capacity import Capacity
from kforecast.window import Frequency

KEYS = ("ns/aqps", "ns/bqps")
SERIES = (("ns/a", "qps"), ("ns/b", "qps"))
FREQUENCY = Frequency.parse("1H")
# The weights whose entries are added to the scaled forecast.
BIAS = {"Fcnet": ["lc.bias"], "SeasonalMLP": ["last_bias", "context.last.bias"]}
LEVELS = [0.025, 0.1, 0.5, 0.9]


def forecaster(
    directory: Path, model: str = "Fcnet", below_zero: tuple[str, ...] = (), **config: Any
) -> Forecaster:
    """A network that forecasts far below its context."""
    torch.manual_seed(0)
    chosen = EstimatorConfig("1H", 3, 4, num_series=2, model=model, **config)
    net = NETWORKS[model](chosen.window, 2)
    state = net.artifact_state()
    for name in BIAS[model]:
        state[name] -= 50
    metadata = {"fill": "zero", "data": {"below_zero": list(below_zero)}}
    ids = {key: number for number, key in enumerate(KEYS)}
    artifact = Artifact(replace(chosen, network=net.settings()), ids, state, metadata)
    artifact.save(directory)
    return Forecaster.load(directory)


def panel(lowest: float = 1.0, bins: int = 400) -> Panel:
    values = np.random.default_rng(0).uniform(1, 9, (2, bins)).astype(np.float32)
    values[0, 20] = lowest
    return Panel(values, np.ones(values.shape, dtype=bool), 1_704_067_200, FREQUENCY, SERIES)


def frame(history: Panel, newest: int = 400) -> pd.DataFrame:
    rows = [
        {"timestamp": history.timestamps[-newest:], "value": row[-newest:], "workload": workload, "metric": m}
        for row, (workload, m) in zip(history.values, history.series, strict=True)
    ]
    return pd.concat(pd.DataFrame(row) for row in rows)


def of(found: pd.DataFrame, workload: str) -> np.ndarray:
    return found.loc[found["workload"] == workload, "value"].to_numpy()


@pytest.mark.parametrize("model", BIAS)
def test_no_forecast_lies_below_zero(model: str, tmp_path: Path) -> None:
    made = forecaster(tmp_path, model)
    assert (made.forecast(frame(panel()))["value"] == 0).all()
    # One value below zero is enough; the other series is not concerned.
    found = made.forecast(frame(panel(lowest=-0.5)))
    assert (of(found, "ns/b") == 0).all()
    if model == "Fcnet":  # SeasonalMLP sees only the newest four weeks
        assert (of(found, "ns/a") < 0).all()


def test_after_zeros_nothing_but_zero_is_forecast(tmp_path: Path) -> None:
    """A network scales zeros by 1e-10, and an autoscaler would take the trace for traffic."""
    history = frame(panel()).assign(value=0.0)
    torch.manual_seed(0)
    net = NETWORKS["Fcnet"](EstimatorConfig("1H", 3, 4, num_series=2).window, 2).eval()
    made = Forecaster(net.window, {key: number for number, key in enumerate(KEYS)}, "zero", net)
    assert (made.forecast(history, as_consumed=True)["value"] != 0).any()
    assert (made.forecast(history)["value"] == 0).all()


def test_forecasts_as_consumed_are_those_of_the_job(tmp_path: Path) -> None:
    """Kapacity's job changes no value that the network gives."""
    found = forecaster(tmp_path).forecast(frame(panel()), as_consumed=True)
    assert (found["value"] < 0).all()


def test_the_artifact_knows_a_series_that_was_below_zero(tmp_path: Path) -> None:
    """The history given may be too short to show it."""
    found = forecaster(tmp_path, below_zero=("ns/aqps",)).forecast(frame(panel(), newest=4))
    assert (of(found, "ns/a") < 0).all()
    assert (of(found, "ns/b") == 0).all()
    calibrated = forecaster(tmp_path).calibrated(panel(lowest=-0.5), 4, 300)
    found = calibrated.forecast(frame(panel(), newest=4))
    assert (of(found, "ns/a") < 0).all()
    assert (of(found, "ns/b") == 0).all()


@pytest.mark.parametrize("listed", [None, 3, [None, 4], {"ns/aqps": 1}])
def test_metadata_with_something_else_in_its_place_lists_no_series(listed: Any, tmp_path: Path) -> None:
    made = forecaster(tmp_path)
    assert made.artifact is not None
    artifact = replace(made.artifact, metadata={"fill": "zero", "data": {"below_zero": listed}})
    assert Forecaster.of(artifact, "it").below_zero == set()


def test_calibration_keeps_that_a_series_was_below_zero(tmp_path: Path) -> None:
    older = forecaster(tmp_path).calibrated(panel(lowest=-0.5), 4, 300)
    newer = older.calibrated(panel(), 4, 300)
    assert newer.intervals is not None
    assert [newer.intervals.series[key].nonnegative for key in KEYS] == [False, True]


def test_a_backtest_knows_only_the_bins_before_each_origin(tmp_path: Path) -> None:
    made = forecaster(tmp_path)
    series, origin = np.zeros(5, dtype=np.int64), np.array([10, 19, 20, 21, 300])
    found = made.forecast_windows(panel(lowest=-0.5), series, origin)
    assert (found.values < 0).any(axis=1).tolist() == [False, False, False, True, True]
    values = panel(lowest=-0.5).values
    hidden = replace(panel(), values=values, observed=values >= 0)
    assert (made.forecast_windows(hidden, series, origin).values >= 0).all()


def test_a_forecast_that_is_not_a_number_stays_one(tmp_path: Path) -> None:
    made = forecaster(tmp_path)
    with torch.no_grad():
        made.net.get_parameter("lc.bias")[1] = torch.nan
    values = made.forecast(frame(panel()))["value"].to_numpy().reshape(2, 3)
    np.testing.assert_array_equal(values, [[0, np.nan, 0]] * 2)


def test_forecasts_lie_inside_their_own_interval_in_a_report(tmp_path: Path) -> None:
    made = forecaster(tmp_path).calibrated(panel(), 100, 300)
    board = judge(made, panel(), Span(300, 400), BacktestSettings(levels=LEVELS), Capacity(), seed=0)
    found = forecasts_frame(board)
    assert (found["value"] == 0).all()
    assert (found["q0.025"] <= found["value"]).all()
    assert (found["value"] <= found["q0.9"]).all()
    # Errors are those of the forecast that is served.
    assert board.model["mae"] == pytest.approx(np.abs(found["actual"]).mean(), rel=1e-5)


@pytest.mark.parametrize("weight", [1.0, 0.7])
def test_a_combination_is_of_parts_that_are_not_below_zero(weight: float, tmp_path: Path) -> None:
    combination = {"network": [weight] * 3, "last value": [1 - weight] * 3}
    made = forecaster(tmp_path, combination=combination)
    last = np.repeat(panel().values[:, -1], 3)
    np.testing.assert_allclose(made.forecast(frame(panel()))["value"], (1 - weight) * last, rtol=1e-5)


def test_the_exported_network_forecasts_as_the_forecaster_does(tmp_path: Path) -> None:
    made = forecaster(tmp_path, below_zero=("ns/bqps",))
    network = OnnxNetwork(made).eval()
    context = torch.tensor([[1.0, 2, 3, 4], [1.0, 2, 3, 4], [1.0, -2, 3, 4]])
    with torch.inference_mode():
        found = network(context, torch.tensor([0, 1, 0]), torch.zeros(3, 3, 3, dtype=torch.int64))
    assert (found < 0).any(dim=1).tolist() == [False, True, True]
    assert (found[0] == 0).all()
