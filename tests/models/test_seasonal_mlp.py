"""Forecasts of SeasonalMLP with different units, gaps, extreme values and unknown series."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kforecast.artifact import checkpoint_bytes
from kforecast.data.panel import Panel
from kforecast.data.windows import WindowDataset
from kforecast.models import NETWORKS, Fcnet
from kforecast.models.seasonal_mlp import QUANTILES, SeasonalMLP
from kforecast.training.gradients.automatic import AutomaticGradient, Chunk, FlatParameters
from kforecast.window import FREQUENCIES, Frequency, Window

START = 1_704_067_200
HOUR = Frequency.parse("1H")
WINDOW = Window(HOUR, 6, 3)
GAP = float("nan")


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """One thread: waiting threads make tiny networks slow when all cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network(window=WINDOW, num_series=2, seed=0, **settings):
    """A network with weights like a trained one; an untrained one forecasts the last value."""
    torch.manual_seed(seed)
    net = SeasonalMLP(window, num_series, **({"members": 2, "hidden": 16, "embedding": 4} | settings))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
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


def batch_of(panel, net, step=37):
    """Some windows of every series, including the first and the last."""
    window = net.window
    last = panel.num_bins - window.prediction_length
    origins = torch.tensor(sorted({*range(window.context_length, last, step), last}))
    cells = (torch.arange(panel.num_series)[:, None] * panel.num_bins + origins).flatten()
    return WindowDataset(panel, window, "zero", lookback=net.lookback)[cells]


@torch.no_grad()
def forecasts(net, panel):
    return net.forecast(batch_of(panel, net))


@pytest.mark.parametrize("frequency", FREQUENCIES.values(), ids=FREQUENCIES)
@pytest.mark.parametrize("context, horizon", [(12, 12), (1, 1), (30, 40)])
def test_shapes(frequency, context, horizon):
    net = network(Window(frequency, context, horizon))
    panel = panel_of(traffic(3 * frequency.season + 90, frequency=frequency), frequency)
    batch = batch_of(panel, net, step=frequency.season)
    count = len(batch.series)
    prepared = net.prepare(batch)
    made = net(*prepared.inputs)
    assert made.shape == (2 + 1, count, horizon, len(QUANTILES))
    assert net.losses(made, batch.target).shape == (count, horizon)
    assert [part.shape for part in (prepared.center, prepared.scale, prepared.alive)] == [(count, 1)] * 3
    found = net.forecast(batch)
    assert found.values.shape == found.spread.shape == (count, horizon)
    assert found.parts is not None
    assert found.parts.shape == (len(net.parts), count, horizon)
    assert found.values.dtype == found.spread.dtype == torch.float32
    assert torch.isfinite(found.values).all()
    assert (found.spread >= 0).all()


def test_training_begins_at_the_last_value():
    net = SeasonalMLP(WINDOW, 2).eval()
    batch = batch_of(panel_of(traffic(gaps=0)), net)
    assert torch.equal(net.forecast(batch).values, batch.context[:, -1:].expand(-1, 3))


@pytest.mark.parametrize("power", [-30, -1, 1, 30])
def test_a_unit_of_a_power_of_two_changes_no_bit(power):
    net, values = network(), traffic()
    one, other = forecasts(net, panel_of(values)), forecasts(net, panel_of(values * 2.0**power))
    assert torch.equal(one.values * 2.0**power, other.values)
    assert torch.equal(one.spread * 2.0**power, other.spread)


@pytest.mark.parametrize("factor", [1e-6, 0.001, 60, 1e9])
def test_units_make_no_difference(factor):
    net, values = network(), traffic()
    one, other = forecasts(net, panel_of(values)), forecasts(net, panel_of(values * np.float32(factor)))
    torch.testing.assert_close(other.values / factor, one.values, rtol=1e-3, atol=1e-3)


def test_what_was_below_zero_may_be_forecast_below_zero():
    found = forecasts(network(), panel_of(-traffic()))
    assert (found.values < 0).float().mean() > 0.8


def test_values_behind_unobserved_bins_make_no_difference():
    net, panel = network(), panel_of(traffic(gaps=0.3))
    dirty = replace(panel, values=np.where(panel.observed, panel.values, np.float32(1e6)))
    assert not np.array_equal(dirty.values, panel.values)
    for one, other in zip(forecasts(net, panel), forecasts(net, dirty), strict=True):
        assert torch.equal(one, other)


def test_nothing_behind_the_origin_makes_a_difference():
    net, panel, origin = network(), panel_of(traffic()), 700
    changed = replace(panel, values=panel.values.copy(), observed=panel.observed.copy())
    changed.values[:, origin:], changed.observed[:, origin:] = 1e6, True
    cells = torch.tensor([origin, panel.num_bins + origin])
    one, other = (WindowDataset(p, WINDOW, "zero", lookback=net.lookback)[cells] for p in (panel, changed))
    assert torch.equal(net.forecast(one).values, net.forecast(other).values)


SIZES = st.sampled_from([0.0, 1e-30, 1e-6, 1.0, 1e6, 1e30]) | st.floats(0, 1e30)
KINDS = ["constant", "shift", "zeros and ones", "noise", "one burst", "alternating", "wild"]


@st.composite
def extremes(draw):
    """Unusual series, with NaN for gaps."""
    bins = draw(st.integers(WINDOW.length, 60) | st.sampled_from([WINDOW.length, 200, 800]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size, other, kind = draw(SIZES), draw(SIZES), draw(st.sampled_from(KINDS))
    values = np.full(bins, size)
    if kind == "shift":
        values[draw(st.integers(0, bins - 1)) :] += 1e6
    elif kind == "zeros and ones":
        values = (rng.random(bins) < 0.2).astype(np.float64)
    elif kind == "noise":
        values = size * rng.random(bins)
    elif kind == "one burst":
        values[draw(st.integers(0, bins - 1))] = other
    elif kind == "alternating":
        values[::2] = other
    elif kind == "wild":
        values = 10.0 ** rng.uniform(-30, 30, bins)
    missing = draw(st.sampled_from([0.0, 0.1, 0.9]))
    return np.where(rng.random(bins) < missing, GAP, values).astype(np.float32)


@given(extremes())
@settings(deadline=None, max_examples=80)
def test_forecasts_are_finite_and_not_negative_whatever_the_traffic(values):
    net = network(num_series=1)
    batch = batch_of(panel_of(values), net, step=7)
    found = net.forecast(batch)
    for part in found:
        assert torch.isfinite(part).all()
        assert (part >= 0).all()
    prepared = net.prepare(batch)
    assert all(torch.isfinite(part).all() for part in prepared.inputs)
    assert (prepared.scale > 0).all()


@given(extremes())
@settings(deadline=None, max_examples=60)
def test_losses_and_gradients_are_finite_whatever_the_traffic(values):
    net = network(num_series=1).train()
    loss, gradient = loss_and_gradient(net, batch_of(panel_of(values), net, step=7))
    assert torch.isfinite(loss).all()
    assert torch.isfinite(gradient).all()


def loss_and_gradient(net, batch):
    """Windows as training sees them."""
    parameters = FlatParameters(net)
    gradient, chunk = AutomaticGradient(net), Chunk(net, batch, len(batch.series))
    gradient.begin(chunk)
    gradient.add(0, len(batch.series))
    return chunk.losses(), parameters.gradient.clone()


def test_whether_days_are_alike_makes_a_difference():
    net = network()
    batch = batch_of(panel_of(traffic(gaps=0)), net)
    past = batch.past
    found, other = (
        net.forecast(batch._replace(past=past._replace(alike=alike))).values
        for alike in (past.alike, ~past.alike)
    )
    assert not torch.isclose(other, found).any(dim=1).all()


def test_attention_begins_as_means_over_seven_days_four_weeks_and_like_days():
    """At first, other seasons and days of a different kind have hardly any weight."""
    net = SeasonalMLP(WINDOW, 1)
    weight = (net.ago[None] + net.like * torch.tensor([1.0, 0.0])[:, None, None]).softmax(dim=1)
    assert weight.shape == (2, 28, 3)
    torch.testing.assert_close(weight[:, :7, 0].sum(dim=1), torch.ones(2), atol=0.03, rtol=0)
    torch.testing.assert_close(weight[:, [6, 13, 20, 27], 1].sum(dim=1), torch.ones(2), atol=0.05, rtol=0)
    torch.testing.assert_close(weight[0, :, 2], torch.full((28,), 1 / 28))
    assert net.like[-1] == 5
    assert (net.weigh == 0).all()


def test_in_training_less_of_the_past_of_some_windows_is_known():
    net = network(dropout=0.0, history_dropout=0.5)
    batch = batch_of(panel_of(traffic(gaps=0)), net)
    known = batch.past.seasons_observed
    seen = net.train().prepare(batch).inputs[3]
    assert (seen <= known).all()
    hidden = (seen != known).flatten(1).any(dim=1)
    assert 0.1 < hidden.float().mean() < 0.5  # of some even less was there
    # The oldest history is hidden.
    depth = seen.any(dim=2).sum(dim=1)
    assert all(seen[row, :deep].equal(known[row, :deep]) for row, deep in enumerate(depth.tolist()))
    assert net.eval().prepare(batch).inputs[3].equal(known)


def test_no_traffic_is_forecast_after_no_traffic():
    assert (forecasts(network(num_series=1), panel_of(np.zeros(800))).values == 0).all()


def test_weights_that_are_no_numbers_are_not_a_forecast_of_zero():
    net = network()
    with torch.no_grad():
        net.linear.fill_(GAP)
    assert forecasts(net, panel_of(traffic())).values.isnan().all()


def test_a_stranger_is_forecast_the_same_whichever_row_it_has():
    net = network(num_series=5)
    batch = batch_of(panel_of(np.repeat(traffic(rows=1), 3, axis=0)), net)
    other = net.unknown_series()
    assert other == 5
    made = net.forecast(batch._replace(series=torch.full_like(batch.series, other))).values
    first, second, third = made.chunk(3)
    torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(first, third, rtol=1e-6, atol=1e-6)
    for row in range(5):
        known = net.forecast(batch._replace(series=torch.full_like(batch.series, row))).values
        assert not torch.allclose(known, made)


def test_in_training_some_windows_are_of_a_stranger():
    net = network(dropout=0.0, series_dropout=0.4)
    *features, series, of_context, unit = net.prepare(batch_of(panel_of(traffic()), net, step=2)).inputs
    known, unknown = (
        net(*features, series, of_context, unit),
        net(*features, torch.full_like(series, 2), of_context, unit),
    )
    drawn = net.train()(*features, series, of_context, unit)
    hidden, shown = (torch.isclose(drawn, one).all(dim=3).all(dim=2).all(dim=0) for one in (unknown, known))
    assert (hidden ^ shown).all()
    assert hidden.float().mean().item() == pytest.approx(0.4, abs=0.07)
    assert torch.equal(net.eval()(*features, series, of_context, unit), known)


def test_a_window_without_any_traffic_takes_no_part():
    values = traffic(gaps=0)
    values[1] = 0
    net = network()
    batch = batch_of(panel_of(values), net)
    dead = batch.series == 1
    alive = net.prepare(batch).alive
    assert alive is not None
    assert torch.equal(alive[:, 0], ~dead)
    loss, gradient = loss_and_gradient(net, batch)
    # Only its own windows use its row of the embedding.
    row = dict(net.named_parameters())["series"].grad
    assert row is not None
    assert (row[1] == 0).all()
    assert (row[0] != 0).any()
    loud = batch._replace(target=batch.target.masked_fill(dead[:, None], 1e9))
    other_loss, other_gradient = loss_and_gradient(net, loud)
    assert torch.equal(loss, other_loss)
    assert torch.equal(gradient, other_gradient)
    # Nor does it count in the mean.
    masked = batch._replace(observed=batch.observed & ~dead[:, None])
    assert torch.equal(loss, loss_and_gradient(net, masked)[0])


def test_the_loss_is_twice_the_pinball_loss():
    made, target = torch.randn(2, 4, 3, 5), torch.randn(4, 3)
    found = network().losses(made, target)
    for row, step in np.ndindex(4, 3):
        each = [
            2 * max(q * (target[row, step] - one), (q - 1) * (target[row, step] - one))
            for member in made[:, row, step]
            for q, one in zip(QUANTILES, member, strict=True)
        ]
        assert found[row, step].item() == pytest.approx(float(sum(each)) / 10, rel=1e-5)


def test_the_forecast_is_the_mean_of_the_medians_of_its_parts():
    net = network(members=3)
    batch = batch_of(panel_of(traffic(gaps=0)), net)
    prepared, found = net.prepare(batch), net.forecast(batch)
    made = net(*prepared.inputs)
    parts = [part.sort(dim=-1).values for part in (made[:3].mean(dim=0), made[3])]
    medians = [(prepared.center + prepared.scale * part[..., 2]).clamp_min(0) for part in parts]
    widths = [prepared.scale * (part[..., 4] - part[..., 0]) / 2 for part in parts]
    assert found.parts is not None
    torch.testing.assert_close(found.parts, torch.stack(medians))
    torch.testing.assert_close(found.values, 0.8 * medians[0] + 0.2 * medians[1])
    torch.testing.assert_close(found.spread, 0.8 * widths[0] + 0.2 * widths[1])


def test_the_part_that_sees_the_context_sees_no_past_days():
    net = network()
    batch = batch_of(panel_of(traffic(gaps=0)), net)
    past = batch.past
    other = batch._replace(past=past._replace(seasons=past.seasons * 1.1))
    before, after = net.forecast(batch), net.forecast(other)
    torch.testing.assert_close(before.parts[1], after.parts[1], rtol=1e-4, atol=1e-3)
    assert not torch.allclose(before.parts[0], after.parts[0], rtol=1e-4, atol=1e-3)


def test_a_window_that_moves_much_counts_no_more_than_five_usual_ones():
    """The gradient of the ContextMLP is proportional to the movement of its window, up to a limit."""
    net = network(dropout=0.0)
    panel = panel_of(traffic(gaps=0))
    batch = batch_of(panel, net)
    *inputs, of_context, unit = net.prepare(batch).inputs

    def size(times: float) -> float:
        net.zero_grad()
        made = net(*inputs, of_context, torch.full_like(unit, times))
        made[-1].sum().backward()
        gradient = net.context.last.bias.grad
        assert gradient is not None
        return gradient.abs().sum().item()

    assert size(2.0) == pytest.approx(2 * size(1.0), rel=1e-4)
    assert size(40.0) == pytest.approx(5 * size(1.0), rel=1e-4)


def test_the_default_is_small_enough_for_a_config_map():
    window = Window(Frequency.parse("10min"), 12, 12)
    assert len(checkpoint_bytes(SeasonalMLP(window, 25).artifact_state())) < 1 << 20


@pytest.mark.parametrize(
    "make",
    [
        lambda: network(members=3, hidden=8, layers=3, dropout=0.2, embedding=2, series_dropout=0.1),
        lambda: Fcnet(WINDOW, 2).eval(),
    ],
    ids=["SeasonalMLP", "Fcnet"],
)
def test_a_network_can_be_made_again_from_what_it_says_of_itself(make):
    net = make()
    again = NETWORKS[type(net).__name__](WINDOW, 2, **net.settings()).eval()
    again.load_state_dict(net.artifact_state())
    assert again.settings() == net.settings()
    batch = batch_of(panel_of(traffic(gaps=0)), network())
    assert torch.equal(net.forecast(batch).values, again.forecast(batch).values)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"members": 0}, ["members", "0"]),
        ({"hidden": -3}, ["hidden", "-3"]),
        ({"hidden": "96"}, ["hidden", "'96'"]),
        ({"hidden": 1e9}, ["hidden", "1000000000.0"]),
        ({"hidden": 10**9}, ["GiB"]),
        ({"hidden": 15_000, "members": 1, "layers": 1}, ["GiB"]),
        ({"layers": 10**9}, ["layers", "1000000000"]),
        ({"embedding": True}, ["embedding", "True"]),
        ({"dropout": 1.0}, ["dropout", "1.0"]),
        ({"series_dropout": "x", "dropout": GAP}, ["series_dropout", "'x'", "dropout", "nan"]),
    ],
)
def test_settings_that_make_no_network_are_refused(settings, words):
    with pytest.raises(ValueError, match=words[0]) as refusal:
        SeasonalMLP(WINDOW, 2, **settings)
    for word in words:
        assert word in str(refusal.value)
