"""Forecasts of BoostedTrees with different units, gaps and lengths of history, and of SeasonalTrees."""

import numpy as np
import pytest
import torch

from kforecast.data.panel import Panel
from kforecast.data.windows import WindowDataset
from kforecast.models import BoostedTrees, SeasonalMLP, SeasonalTrees
from kforecast.models.network import Forecast
from kforecast.window import FREQUENCIES, Frequency, Lookback, Window

START = 1_704_067_200
HOUR = Frequency.parse("1H")
WINDOW = Window(HOUR, 6, 3)
GAP = float("nan")


def with_trees(net, trees=20, leaves=8, seed=0):
    """Trees over all features, like trained ones: each splits at a few levels."""
    rng = np.random.default_rng(seed)
    inner = leaves - 1
    chain = np.arange(1, leaves, dtype=float)
    chain[-1] = -leaves
    made = {
        "feature": rng.integers(0, net.num_features, (trees, inner)).astype(float),
        "threshold": rng.normal(0, 1, (trees, inner)),
        "left": np.tile(-1.0 - np.arange(inner), (trees, 1)),
        "right": np.tile(chain, (trees, 1)),
        "value": rng.normal(0, 0.3, (trees, leaves)),
    }
    tensors = {name: torch.from_numpy(values).float() for name, values in made.items()}
    net.correction.grow(tensors)
    net.spread.grow(tensors | {"value": tensors["value"].abs()})
    return net.eval()


def panel_of(values, frequency=HOUR):
    values = np.atleast_2d(np.asarray(values, dtype=np.float32))
    observed = ~np.isnan(values)
    series = tuple((f"w{row}", "m") for row in range(len(values)))
    return Panel(np.where(observed, values, np.float32(0)), observed, START, frequency, series)


def traffic(bins=900, rows=2, frequency=HOUR, gaps=0.05, seed=0):
    """Daily cycles with noise and gaps."""
    rng = np.random.default_rng(seed)
    angle = 2 * np.pi * np.arange(bins) / frequency.season
    values = 20 * (1.5 + np.sin(angle + np.arange(rows)[:, None]) + 0.1 * rng.standard_normal((rows, bins)))
    return np.where(rng.random((rows, bins)) < gaps, GAP, values).astype(np.float32)


@torch.no_grad()
def forecasts(net, panel, step=37, first=None):
    window = net.window
    last = panel.num_bins - window.prediction_length
    origins = torch.tensor(sorted({*range(first or window.context_length, last, step), last}))
    cells = (torch.arange(panel.num_series)[:, None] * panel.num_bins + origins).flatten()
    return net.forecast(WindowDataset(panel, window, "zero", lookback=net.lookback)[cells])


@pytest.mark.parametrize("frequency", FREQUENCIES.values(), ids=FREQUENCIES)
@pytest.mark.parametrize("context, horizon", [(12, 12), (1, 1), (30, 40)])
def test_shapes(frequency, context, horizon):
    net = with_trees(BoostedTrees(Window(frequency, context, horizon), 2))
    panel = panel_of(traffic(3 * frequency.season + 90, frequency=frequency), frequency)
    made = forecasts(net, panel, step=frequency.season)
    assert made.values.shape == made.spread.shape
    assert made.values.shape[1] == horizon
    assert made.values.isfinite().all()
    assert (made.spread > 0).all()


@pytest.mark.parametrize("factor", [2.0**-20, 2.0**17])
def test_units_make_no_difference(factor):
    net, values = with_trees(BoostedTrees(WINDOW, 2)), traffic()
    one, other = forecasts(net, panel_of(values)), forecasts(net, panel_of(values * np.float32(factor)))
    torch.testing.assert_close(other.values, one.values * factor, rtol=1e-5, atol=0)
    torch.testing.assert_close(other.spread, one.spread * factor, rtol=1e-5, atol=0)


def test_the_series_is_not_an_input():
    net, values = with_trees(BoostedTrees(WINDOW, 2)), traffic(rows=1)
    both = forecasts(net, panel_of(np.concatenate([values, values]))).values
    assert torch.equal(both[: len(both) // 2], both[len(both) // 2 :])


def test_without_trees_the_forecast_is_the_newest_value():
    values = traffic(rows=1, gaps=0)
    made = forecasts(BoostedTrees(WINDOW, 1).eval(), panel_of(values), step=1).values
    newest = torch.from_numpy(values[0, 5:-3])
    torch.testing.assert_close(made, newest[:, None].expand(-1, 3))


@pytest.mark.parametrize(
    "values",
    [
        [0.0] * 100,
        [5.0] * 100,
        [GAP] * 60 + [1.0, 2.0],
        [0.0] * 97 + [1e30, 1.0, 2.0],
        [1e-30] * 99 + [2e-30],
        list(np.arange(62.0)),
    ],
    ids=["zeros", "constant", "two values", "a huge value", "tiny values", "two days"],
)
def test_forecasts_are_finite_and_not_negative(values):
    made = forecasts(with_trees(BoostedTrees(WINDOW, 1)), panel_of(values + [GAP] * 3), step=1)
    assert made.values.isfinite().all()
    assert (made.values >= 0).all()
    assert (made.spread >= 0).all()


def test_a_missing_value_differs_from_a_low_one():
    net = BoostedTrees(WINDOW, 1)
    values = traffic(rows=1, gaps=0)
    gone = values.copy()
    gone[0, -30] = GAP
    windows = [WindowDataset(panel_of(one), WINDOW, "zero", lookback=net.lookback) for one in (values, gone)]
    rows = [net.prepare(each[torch.tensor([values.size - 3])]).inputs[0] for each in windows]
    assert (rows[1] == rows[1].min()).any()
    assert not (rows[0] == rows[1].min()).any()


@pytest.mark.parametrize("setting", [{"leaves": 1}, {"depth": 0}, {"rows": 2.5}, {"least_rows": True}])
def test_wrong_settings_are_named(setting):
    with pytest.raises(ValueError, match=f"^{next(iter(setting))} is "):
        BoostedTrees(WINDOW, 1, **setting)


def test_beside_a_network_the_trees_are_a_part_of_the_forecast():
    torch.manual_seed(0)
    settings = {"members": 1, "hidden": 8, "embedding": 2}
    net, panel = SeasonalTrees(WINDOW, 2, **settings).eval(), panel_of(traffic())
    alone = SeasonalMLP(WINDOW, 2, **settings).eval()
    state = {name: value for name, value in net.state_dict().items() if not name.startswith("trees.")}
    alone.load_state_dict(state)
    # Until the trees are grown, the forecast is that of the network.
    assert torch.equal(forecasts(net, panel).values, forecasts(alone, panel).values)
    with_trees(net.trees)
    made, of_trees, of_network = (forecasts(one, panel) for one in (net, net.trees, alone))
    assert net.parts == (*alone.parts, "trees")
    torch.testing.assert_close(made.parts, torch.cat([of_network.parts, of_trees.values[None]]))
    torch.testing.assert_close(made.values, (of_network.values + of_trees.values) / 2)


def test_a_network_may_look_further_back_than_its_trees(monkeypatch):
    net, panel = SeasonalTrees(WINDOW, 2).eval(), panel_of(traffic())
    with_trees(net.trees)
    # Seasons that reach out of the history are masked as a whole; these windows have none.
    usual = forecasts(net, panel, first=800).parts[-1]
    net.lookback = Lookback(recent=48, seasons=30, before=9, after=4)
    monkeypatch.setattr(
        SeasonalMLP, "forecast", lambda self, batch: Forecast(usual * 0, usual * 0, usual[None])
    )
    assert torch.equal(forecasts(net, panel, first=800).parts[-1], usual)
