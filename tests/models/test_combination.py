"""Combination weights of a network and naive forecasts: shares, fitted if a naive forecast is better."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kforecast.models.combination import Combination, fitted

HORIZON = 3
NETWORK = "network"


def candidates(seed: int, network: float, naive: float, count: int = 400):
    """Actual values, and forecasts with errors of the given sizes."""
    random = np.random.default_rng(seed)
    actual = random.uniform(50, 150, (count, HORIZON))
    forecasts = {
        NETWORK: actual + network * random.normal(size=actual.shape),
        "last value": actual + naive * random.normal(size=actual.shape),
        "moving average": actual + 80.0,
    }
    return forecasts, actual, np.full(count, 100.0)


def fit(forecasts: dict[str, np.ndarray], actual: np.ndarray, level: np.ndarray) -> Combination:
    """The combination of a network with one part and naive forecasts."""
    naive = {name: forecast for name, forecast in forecasts.items() if name != NETWORK}
    return fitted({NETWORK: forecasts[NETWORK]}, naive, actual, level)


def errors(forecast: np.ndarray, actual: np.ndarray) -> np.ndarray:
    return np.abs(forecast - actual).mean(axis=0)


@given(
    seed=st.integers(0, 2**32 - 1),
    network=st.floats(0.1, 50),
    naive=st.floats(0.1, 50),
    gaps=st.floats(0, 0.9),
)
@settings(max_examples=25, deadline=None)
def test_weights_are_shares_and_never_worse_than_the_best_alone(seed, network, naive, gaps):
    forecasts, actual, level = candidates(seed, network, naive)
    observed = np.random.default_rng(seed).random(actual.shape) >= gaps
    actual = np.where(observed, actual, np.nan)
    found = fit(forecasts, actual, level)
    weights = np.stack(list(found.weights.values()))
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=0), 1)
    made = np.abs(np.where(observed, found.of(forecasts) - actual, 0)).sum(axis=0)
    alone = [np.abs(np.where(observed, one - actual, 0)).sum(axis=0) for one in forecasts.values()]
    # 2 % tolerance, because the network is kept unless it is worse by more; weights below 1 % are dropped.
    assert (made <= 1.03 * np.min(alone, axis=0) + 1e-6).all()


def test_a_network_that_is_best_is_left_alone():
    forecasts, actual, level = candidates(0, network=5, naive=20)
    found = fit(forecasts, actual, level)
    assert found.as_dict() == {NETWORK: [1.0] * HORIZON}
    assert found.naive == []
    np.testing.assert_allclose(found.of(forecasts), forecasts[NETWORK], rtol=1e-6)


def test_a_network_that_is_worse_is_helped_out():
    forecasts, actual, level = candidates(0, network=20, naive=15)
    found = fit(forecasts, actual, level)
    assert (found.weights["last value"] > 0.3).all()
    assert (found.weights["moving average"] < 0.1).all()
    # Independent errors: the combination is better than either forecast.
    both = errors(found.of(forecasts), actual)
    assert (both < 0.9 * errors(forecasts["last value"], actual)).all()


def test_each_step_has_weights_of_its_own():
    forecasts, actual, level = candidates(0, network=5, naive=20)
    forecasts[NETWORK][:, 2] += 500
    found = fit(forecasts, actual, level).as_dict()
    assert found[NETWORK] == [1.0, 1.0, 0.0]
    assert found["last value"][:2] == [0.0, 0.0]
    assert found["last value"][2] > 0.9


def test_a_quiet_series_counts_as_much_as_a_busy_one():
    busy, actual, level = candidates(0, network=30, naive=5)
    quiet, other, small = candidates(1, network=5, naive=30, count=600)
    forecasts = {name: np.concatenate([busy[name] * 1e6, quiet[name]]) for name in busy}
    found = fit(forecasts, np.concatenate([actual * 1e6, other]), np.concatenate([level * 1e6, small]))
    assert all(weight > 0.5 for weight in found.as_dict()[NETWORK])


@pytest.mark.parametrize("better", ["past days", "context"])
def test_parts_are_weighed_where_no_naive_forecast_is_better(better):
    random = np.random.default_rng(0)
    actual = random.uniform(50, 150, (400, HORIZON))
    error = {name: 5.0 if name == better else 15.0 for name in ("past days", "context")}
    parts = {name: actual + size * random.normal(size=actual.shape) for name, size in error.items()}
    naive = {"last value": actual + 20 * random.normal(size=actual.shape)}
    found = fitted(parts, naive, actual, np.full(400, 100.0))
    assert found.naive == []
    assert (found.weights[better] > 0.7).all()
    # Independent errors: the combination is better than the better forecast.
    assert (errors(found.of(parts), actual) < errors(parts[better], actual)).all()


def test_without_naive_forecasts_and_with_one_part_there_is_nothing_to_weigh():
    forecasts, actual, level = candidates(0, network=5, naive=20)
    found = fitted({NETWORK: forecasts[NETWORK]}, {}, actual, level)
    assert found.as_dict() == {NETWORK: [1.0] * HORIZON}


def test_windows_without_any_level_say_nothing():
    forecasts, actual, level = candidates(0, network=5, naive=20)
    level[:200] = 0
    actual[:200], forecasts[NETWORK][:200] = 0, 1e9
    assert fit(forecasts, actual, level).naive == []


def test_as_dict_reads_back():
    forecasts, actual, level = candidates(0, network=20, naive=15)
    found = fit(forecasts, actual, level)
    read = Combination.from_dict(found.as_dict(), HORIZON)
    np.testing.assert_allclose(read.of(forecasts), found.of(forecasts), rtol=1e-5)


@pytest.mark.parametrize(
    "content, said",
    [
        ([], "mapping"),
        ({}, "mapping"),
        ({NETWORK: "all"}, "numbers"),
        ({NETWORK: [1.0, 1.0]}, "3 steps"),
        ({NETWORK: [1.0, 1.0, float("nan")]}, "add up to 1"),
        ({NETWORK: [0.5, 0.5, 0.5]}, "add up to 1"),
        ({NETWORK: [2.0, 1.0, 1.0], "last value": [-1.0, 0.0, 0.0]}, "add up to 1"),
    ],
)
def test_something_else_is_refused(content, said):
    with pytest.raises(ValueError, match=said):
        Combination.from_dict(content, HORIZON)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=4), st.floats(0, 1))
def test_weights_of_parts_are_drawn_towards_equal_ones(raw, share):
    total = sum(raw) + 0.5
    weights = {str(number): np.array([one / total]) for number, one in enumerate(raw)}
    found = Combination({**weights, "last value": np.array([0.5 / total])}).towards_equal([*weights], share)
    assert found.weights["last value"] == 0.5 / total
    each = np.concatenate([found.weights[name] for name in weights])
    np.testing.assert_allclose(each.sum(), sum(raw) / total)
    before = np.concatenate([*weights.values()])
    np.testing.assert_allclose(each - each.mean(), (1 - share) * (before - before.mean()), atol=1e-12)
