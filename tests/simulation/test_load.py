"""The load inside the bins, and the numbers that drivers derive from it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kforecast.simulation.chance import normal, uniform
from kforecast.simulation.drivers import Served, mimir, schedule, scheduled, sliding_max, spans
from kforecast.simulation.load import Load, held

START = 1_704_067_200  # a Monday, 00:00 UTC
HOUR, DAY = 3600, 86_400


def load_of(values: np.ndarray, width: int = 60, variability: float = 0.0, seed: int = 0) -> Load:
    values = np.atleast_2d(values).astype(np.float32)
    return Load(values, np.ones(values.shape, bool), START, width, variability, seed, np.arange(len(values)))


@given(
    arrays(np.float32, (3, 12), elements=st.floats(0, 1e6, width=32)),
    st.sampled_from([15, 60, 600]),
    st.sampled_from([0.0, 0.1, 1.0]),
)
def test_steps_keep_the_mean_of_their_bin_and_any_part_is_the_same(
    values: np.ndarray, width: int, variability: float
) -> None:
    load = load_of(values, width, variability)
    per_bin = width // load.step
    steps = load.demand(0, load.steps)
    assert (steps >= 0).all()
    np.testing.assert_allclose(steps.reshape(12, per_bin, 3).mean(axis=1), values.T, rtol=1e-5, atol=1e-9)
    np.testing.assert_array_equal(load.demand(4 * per_bin, 7 * per_bin), steps[4 * per_bin : 7 * per_bin])
    some = load.of(np.array([2, 0]))
    np.testing.assert_array_equal(some.demand(0, some.steps), steps[:, [2, 0]])


def test_load_grows_on_a_line_inside_a_bin_and_stays_flat_at_a_peak() -> None:
    steps = load_of(np.array([4.0, 8.0, 12.0, 4.0])).demand(0, 16)[:, 0]
    np.testing.assert_allclose(steps[4:8], [6.5, 7.5, 8.5, 9.5])
    np.testing.assert_allclose(steps[8:12], 12)


def test_the_seed_decides_and_variability_is_a_share_of_the_mean() -> None:
    one, same, other = (
        load_of(np.full(2000, 50.0), variability=0.1, seed=seed).demand(0, 8000) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    # Four steps around their own mean keep three quarters of the variance.
    assert abs(one.std() / 50 - 0.1 * 0.75**0.5) < 0.003


def test_chance_looks_like_chance() -> None:
    keys = np.arange(200_000)
    even, bell = uniform(3, keys), normal(3, keys)
    assert abs(even.mean() - 0.5) < 0.005
    assert abs(even.std() - 12**-0.5) < 0.005
    assert abs(bell.mean()) < 0.01
    assert abs(bell.std() - 1) < 0.01
    assert abs(np.corrcoef(bell[1:], bell[:-1])[0, 1]) < 0.01


def test_a_gap_holds_the_newest_value() -> None:
    values = np.array([[0, 3, 0, 5], [0, 0, 0, 0]], np.float32)
    observed = np.array([[False, True, False, True], [False] * 4])
    np.testing.assert_array_equal(held(values, observed), [[3, 3, 3, 5], [0, 0, 0, 0]])


@given(arrays(np.float64, (9, 2), elements=st.floats(-5, 5)), st.integers(1, 9))
def test_the_sliding_maximum_is_that_of_a_loop(values: np.ndarray, length: int) -> None:
    expected = [values[at : at + length].max(axis=0) for at in range(10 - length)]
    np.testing.assert_array_equal(sliding_max(values, length), expected)


def test_mimir_sees_the_same_time_last_week_and_yesterday_over_the_window() -> None:
    hourly = np.arange(24.0 * 16)
    found = mimir(load_of(hourly, HOUR), 24 * 10, 24 * 16, 3 * HOUR)[:, 0]
    # Yesterday is later than last week, so its last hour of the window is the largest.
    np.testing.assert_array_equal(found, hourly[24 * 10 - 24 + 2 : 24 * 16 - 24 + 2])
    young = mimir(load_of(hourly, HOUR), 12, 30, HOUR)[:, 0]
    assert np.isnan(young[:12]).all()
    np.testing.assert_array_equal(young[12:], hourly[:6])


def test_the_schedule_is_the_mean_week_and_starts_pods_in_time() -> None:
    values = np.tile(np.arange(168.0), 3)
    table = schedule(load_of(values, HOUR), 2 * 168)
    at = START + np.array([5 * HOUR, 5 * HOUR + 3300])
    np.testing.assert_array_equal(scheduled(table, at, 600)[:, 0], [5, 6])
    young = schedule(load_of(np.arange(24.0), HOUR), 24)
    assert scheduled(young, np.array([START + 3 * DAY + 7 * HOUR]), 0).item() == 7


@given(
    st.sampled_from([60, 300, 600]),
    st.integers(0, 4000),
    st.sampled_from([0, 15, 20, 45]),
    st.integers(2, 12),
)
def test_answers_are_those_of_the_server(width: int, window: int, settle: int, horizon: int) -> None:
    from kforecast.serving.snapshot import Snapshot

    window = min(window, horizon * width)
    rng = np.random.default_rng(0)
    forecasts = rng.uniform(1, 9, (6, horizon)).astype(np.float32)  # by origin
    found, kind = spans(width, 15, window, settle, horizon)
    values = np.full((len(found), 6, 1), np.nan, np.float32)
    for number, span in enumerate(found):
        for at in range(1, 6):
            made = forecasts[at] if span.start == 0 else forecasts[at - 1]
            shift = -span.start
            values[number, at, 0] = made[shift : span.stop + shift].max()
    served = Served(values, kind, START, width, 15)
    for at in range(1, 6):
        for inside in range(0, width, 15):
            origin = at - (inside < settle)
            starts = START + (origin + np.arange(horizon + 1)) * width
            snapshot = Snapshot(
                (("a", "b"),), starts, forecasts[origin][None], np.zeros(1), starts[:1], {}, {}, "",
                None, (np.zeros(0),) * 3,
            )  # fmt: skip
            now = START + at * width + inside
            answer = snapshot.answer(0, now, quantile=None, window=window, rule="forecast")
            assert served.at(np.array([now])).item() == np.float32(answer.forecast)
