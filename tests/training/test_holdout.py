"""How many series and windows of the held-out data are used."""

import numpy as np
import pytest
import torch

from conftest import composed
from kforecast.config.checks import built
from kforecast.data.datamodule import ForecastDataModule
from kforecast.data.panel import Panel
from kforecast.models.fcnet import Fcnet
from kforecast.simulation.capacity import Capacity
from kforecast.training.fit import Fit
from kforecast.training.holdout import judge_fit
from kforecast.training.module import ForecastModule
from kforecast.window import Frequency, Window

WINDOW = Window(Frequency.parse("1H"), 6, 2)


def judged(num_series: int, bins: int):
    time = np.arange(bins)
    values = np.stack([10 + n + 5 * np.sin(2 * np.pi * time / 24 + n) for n in range(num_series)])
    names = tuple((f"shop/web-{n:03}", "qps") for n in range(num_series))
    panel = Panel(values.astype(np.float32), np.ones(values.shape, bool), 0, WINDOW.frequency, names)
    cfg = composed("source=synthetic", "window=1h")
    data: ForecastDataModule = built(cfg.data, "data", source=panel, window=WINDOW)
    data.setup("fit")
    torch.manual_seed(0)
    module = ForecastModule(Fcnet(WINDOW, num_series, True), torch.optim.Adam, 64)
    fit = Fit(module.eval(), data, 0.0, 1, 1, "the test", 0.0)
    capacity: Capacity = built(cfg.capacity, "capacity")
    return judge_fit(fit, "interpolate", capacity, seed=0)


@pytest.mark.parametrize("most, expected", [(10_000, 40), (1100, 22), (100, 20)])
def test_of_many_series_some_are_judged(most, expected, monkeypatch):
    monkeypatch.setattr("kforecast.training.holdout._MOST_WINDOWS", most)
    board = judged(40, 500).scoreboard  # 50 bins of test span
    assert board is not None
    assert len(board.backtest.scored_series) == expected
    names = [pair for pair, _ in board.backtest.panel.series]
    assert names == sorted(names)
    said = f"of {expected} of the 40 series" if expected < 40 else "the test span"
    assert board.part.endswith(said)


@pytest.mark.parametrize("most, own", [(1_000_000, True), (300, False)])
def test_a_fleet_has_intervals_in_common(most, own, monkeypatch):
    monkeypatch.setattr("kforecast.predictor._MOST_CALIBRATION_WINDOWS", most)
    intervals = judged(3, 4000).forecaster.intervals  # 400 bins of validation
    assert intervals is not None
    assert [one.offsets is not None for one in intervals.series.values()] == [own] * 3
