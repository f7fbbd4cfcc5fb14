"""Forecasts after an outage: the network that sees usual values in its place, and the judge of that."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from kforecast.artifact import Artifact, EstimatorConfig
from kforecast.data.panel import Panel
from kforecast.errors import ArtifactError
from kforecast.forecaster import Forecaster
from kforecast.models import Fcnet, SeasonalMLP
from kforecast.models.combination import Combination
from kforecast.models.naive import NAIVE
from kforecast.predictor import Predictor
from kforecast.window import Frequency, Window

WINDOW = Window(Frequency.parse("1H"), 6, 3)
START = 1_709_510_400  # 2024-03-04, a Monday
DAYS = 60


def yesterday() -> SeasonalMLP:
    """A network that forecasts the values of yesterday."""
    torch.manual_seed(0)
    net = SeasonalMLP(WINDOW, 1, members=1, hidden=4)
    look, horizon = net.lookback, WINDOW.prediction_length
    with torch.no_grad():
        for step in range(horizon):
            net.linear[look.recent + look.before + step, step] = 1.0
    return net.eval()


def forecaster(events: bool = True, naive: str | None = None) -> Forecaster:
    name = naive or "past days"
    weights = {part: np.full(3, float(part == name)) for part in ("past days", "context", *NAIVE)}
    return Forecaster(
        WINDOW, {"am": 0}, "interpolate", yesterday(), combination=Combination(weights), events=events
    )


def traffic(days: int = DAYS) -> np.ndarray:
    at = np.arange(days * 24)
    noise = np.random.default_rng(0).standard_normal(len(at))
    return 100 * (1.5 + np.sin(2 * np.pi * at / 24)) * np.exp(0.03 * noise)


def frame_of(values: np.ndarray) -> pd.DataFrame:
    rows = pd.DataFrame({"timestamp": START + 3600 * np.arange(len(values)), "value": values})
    return rows.assign(workload="a", metric="m").dropna()


def panel_of(values: np.ndarray) -> Panel:
    return Panel.from_frame(frame_of(values), WINDOW.frequency)


def forecast(model: Predictor, values: np.ndarray, origin: np.ndarray) -> np.ndarray:
    return model.forecast_windows(panel_of(values), np.zeros(len(origin), np.int64), origin).values


@pytest.mark.parametrize("factor", [0.05, 0.0, 3.0])
@pytest.mark.parametrize("ago", [(1,), (7,), (1, 7)])
@pytest.mark.parametrize("naive", [None, "same time yesterday", "same time last week"])
def test_an_outage_is_not_forecast_again(factor: float, ago: tuple[int, ...], naive: str | None) -> None:
    plain = traffic()
    values, first = plain.copy(), (DAYS - 1) * 24 + 9
    for days in ago:
        values[first - 24 * days : first - 24 * days + 6] *= factor
    origin = np.arange(first, first + 4)
    model = forecaster(naive=naive)
    usual = forecast(model, plain, origin)
    assert 0.95 < forecast(model, values, origin).sum() / usual.sum() < 1.05
    repeated = forecast(replace(model, events=False), values, origin).sum() / usual.sum()
    days_seen = 7 if naive == "same time last week" else 1
    assert (abs(repeated - 1) > 0.5) == (days_seen in ago)


def test_the_mean_by_time_of_week_leaves_an_outage_out() -> None:
    plain = traffic()
    values, first = plain.copy(), (DAYS - 1) * 24 + 9
    values[first - 7 * 24 : first - 7 * 24 + 6] *= 0.05
    origin = np.arange(first, first + 4)
    model = forecaster(naive="mean by time of week")
    usual = forecast(model, plain, origin)
    assert 0.99 < forecast(model, values, origin).sum() / usual.sum() < 1.01
    assert forecast(replace(model, events=False), values, origin).sum() / usual.sum() < 0.92


def test_backtest_and_forecast_know_the_same_events() -> None:
    values = traffic()
    for first in (900, 1100, 1210, 1300, 1390):
        values[first : first + 5] *= 0.05
    values[[950, 1303, 1420]] = np.nan
    model = forecaster()
    assert model.history_length == 28 * 24 + 6 + 1 + 15 * 24
    origin = np.arange(1290, 1440, 7)
    made = forecast(model, values, origin)
    assert not np.allclose(made, forecast(replace(model, events=False), values, origin))
    for number, one in enumerate(origin):
        history = frame_of(values[:one])
        for part in (history, history[history["timestamp"] >= START + 3600 * (one - model.history_length)]):
            at = START + 3600 * int(one)
            np.testing.assert_allclose(model.forecast(part, at=at)["value"], made[number], rtol=1e-5)


def test_events_are_used_unless_they_raise_the_error() -> None:
    calm, single, recurring = traffic(), traffic(), traffic()
    single[40 * 24 + 9 : 40 * 24 + 15] *= 0.05
    for day in (38, 44, 50, 56):  # each drop comes again on the next day, but not on the one after it
        for after in (0, 1):
            recurring[(day + after) * 24 + 9 : (day + after) * 24 + 15] *= 0.05
    begin, stop = 36 * 24, DAYS * 24
    for values, used in ((calm, True), (single, True), (recurring, False)):
        judged = forecaster(events=False).with_events(panel_of(values), begin, stop)
        assert judged.events is used
    assert forecaster(events=False).with_events(panel_of(single), stop, stop).events is False
    fcnet = Predictor(WINDOW, {"am": 0}, "zero", Fcnet(WINDOW, 1).eval())
    assert fcnet.with_events(panel_of(single), begin, stop) is fcnet


def test_an_artifact_keeps_whether_events_are_used(tmp_path: Path) -> None:
    net = yesterday()
    config = EstimatorConfig("1H", 3, 6, 1, model="SeasonalMLP", network=net.settings(), events=True)
    Artifact(config, {"am": 0}, net.artifact_state(), {"fill": "interpolate"}).save(tmp_path / "new")
    assert Forecaster.load(tmp_path / "new").events
    Artifact(replace(config, events=False), {"am": 0}, net.artifact_state(), {"fill": "interpolate"}).save(
        tmp_path / "old"
    )
    text = (tmp_path / "old" / "estimator_config.yaml").read_text()
    assert "events" not in text
    assert not Forecaster.load(tmp_path / "old").events
    (tmp_path / "old" / "estimator_config.yaml").write_text(text + "events: 3\n")
    (tmp_path / "old" / "metadata.json").unlink()
    with pytest.raises(ArtifactError, match="events is 3, not true or false"):
        Forecaster.load(tmp_path / "old")
