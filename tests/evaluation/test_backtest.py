"""A model beside the naive forecasts on the same windows."""

import json
import math

import numpy as np
import pytest
import torch

from kforecast.data.panel import Panel
from kforecast.data.windows import WindowDataset
from kforecast.evaluation.backtest import Scoreboard, backtest, forecast_windows
from kforecast.evaluation.baselines import last_value, seasonal_naive
from kforecast.evaluation.scores import Scores, score
from kforecast.window import Frequency, Window

HOUR = Frequency.parse("1H")
WINDOW = Window(HOUR, 4, 3)


def _panel(bins=80, series=2, gaps=0.1):
    rng = np.random.default_rng(5)
    observed = rng.random((series, bins)) >= gaps
    values = np.where(observed, rng.uniform(1, 9, (series, bins)), 0).astype(np.float32)
    return Panel(values, observed, 0, HOUR, tuple((f"w{row}", "m") for row in range(series)))


def _cells(panel, begin=30):
    origins = np.arange(begin, panel.num_bins - 2)
    return (np.arange(panel.num_series)[:, None] * panel.num_bins + origins).ravel()


def _perfect(batch):
    return batch.target


def _double(batch):
    return 2 * batch.target


def _last_of_context(batch):
    return batch.context[:, -1:].expand(-1, 3)


def test_a_perfect_model_has_no_error_and_full_skill():
    panel = _panel()
    board = backtest(
        {"kforecast": _perfect}, WindowDataset(panel, WINDOW, "ffill"), panel, _cells(panel), "the test span"
    )
    assert board.scores["kforecast"] == Scores(mae=0.0, wape=0.0)
    assert board.skill == 1.0
    assert board.windows == 2 * 48
    assert board.span == "the test span"


def test_models_come_first_and_the_naive_forecasts_are_named():
    panel = _panel()
    windows = WindowDataset(panel, WINDOW, "ffill")
    board = backtest({"one": _perfect, "two": _double}, windows, panel, _cells(panel), "")
    assert list(board.scores) == ["one", "two", "last value", "same time yesterday"]
    assert board.naive == ("last value", "same time yesterday")
    assert board.scores["two"].wape == pytest.approx(1.0)


def test_everyone_is_scored_on_the_same_observed_targets():
    panel = _panel()
    cells = _cells(panel)
    board = backtest({"copy": _last_of_context}, WindowDataset(panel, WINDOW, "ffill"), panel, cells, "")
    assert board.scores["copy"] == board.scores["last value"]
    series, origin = np.divmod(cells, panel.num_bins)
    at = (series[:, None], origin[:, None] + np.arange(3))
    for name, naive in (("last value", last_value), ("same time yesterday", seasonal_naive)):
        expected = score(naive(panel, cells, 3), panel.values[at], panel.observed[at], series)
        assert board.scores[name] == expected
    assert board.scores["last value"].mae > 0


def test_forecasts_of_many_windows_come_in_the_order_of_the_cells():
    panel = _panel(bins=3000, series=2, gaps=0)
    cells = np.random.default_rng(1).permutation(_cells(panel))
    sizes = []

    def model(batch):
        sizes.append(len(batch.series))
        assert not torch.is_grad_enabled()
        return batch.target

    forecasts = forecast_windows(model, WindowDataset(panel, WINDOW, "zero"), cells)
    assert sum(sizes) == len(cells) > max(sizes)
    series, origin = np.divmod(cells, panel.num_bins)
    np.testing.assert_array_equal(forecasts, panel.values[series[:, None], origin[:, None] + np.arange(3)])


def _board(model, *naive):
    scores = {"kforecast": Scores(1.0, model)} | {
        f"naive {i}": Scores(1.0, wape) for i, wape in enumerate(naive)
    }
    return Scoreboard("the test span", 7, scores, tuple(scores)[1:])


@pytest.mark.parametrize(
    "model, naive, best, skill",
    [
        (0.1, (0.4, 0.2), "naive 1", 0.5),
        (0.1, (0.1, 0.2), "naive 0", 0.0),
        (0.3, (0.2, 0.6), "naive 0", -0.5),
        (0.0, (0.2, 0.6), "naive 0", 1.0),
    ],
)
def test_skill_is_against_the_best_naive_forecast(model, naive, best, skill):
    board = _board(model, *naive)
    assert board.best_naive == best
    assert board.skill == pytest.approx(skill)


def test_beside_a_naive_forecast_without_error_there_is_no_skill():
    board = _board(0.1, 0.0, 0.2)
    assert math.isnan(board.skill)
    assert board.as_dict()["skill"] is None


def test_plain_values_are_what_json_can_hold():
    plain = json.loads(json.dumps(_board(0.1, 0.4, 0.2).as_dict(), allow_nan=False))
    assert plain == {
        "span": "the test span",
        "windows": 7,
        "scores": {
            "kforecast": {"mae": 1.0, "wape": 0.1},
            "naive 0": {"mae": 1.0, "wape": 0.4},
            "naive 1": {"mae": 1.0, "wape": 0.2},
        },
        "skill": 0.5,
    }
