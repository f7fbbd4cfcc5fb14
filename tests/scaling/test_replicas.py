"""Replicas from traffic: learned, per replica, or in proportion."""

import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kforecast.errors import DataError
from kforecast.scaling.replicas import Limits, Observed, Rule, at_target, learned, ratio

DAY = 1440
LIMITS = Limits(86_400, 0.9, 10.0)


def observed(traffic: np.ndarray, resource: np.ndarray, names: tuple[str, ...] = ("qps",)) -> Observed:
    """A row a minute of two replicas; traffic ``[rows, traffics]`` and resource are per replica."""
    columns = dict(zip(names, traffic.reshape(len(traffic), len(names)).T, strict=True)) | {"cpu": resource}
    seconds = 60 * np.arange(len(traffic))
    rows = {name: pd.DataFrame({"timestamp": seconds, "value": 2 * value}) for name, value in columns.items()}
    rows["pods"] = pd.DataFrame({"timestamp": seconds, "value": 2.0})
    history = pd.concat([frame.assign(metric=name) for name, frame in rows.items()])
    return Observed.of(history, [*names], "pods", "cpu")


def daily(days: int, low: float, high: float, seed: int = 0) -> np.ndarray:
    """Traffic per replica with a daily cycle."""
    minute = np.arange(days * DAY)
    wave = (1 - np.cos(2 * np.pi * minute / DAY)) / 2
    return low + (high - low) * wave * np.random.default_rng(seed).uniform(0.9, 1.0, len(minute))


def test_a_known_line_gives_the_smallest_number_of_replicas_below_the_target() -> None:
    traffic = daily(4, 10, 60)
    rule = learned(observed(traffic, 0.05 + 0.01 * traffic), 0.45, LIMITS)  # 40 a replica
    made = rule.replicas(np.array([[0.0], [39.0], [41.0], [79.0], [4_100.0]]))
    assert made.tolist() == [1, 1, 2, 2, 103]


@pytest.mark.parametrize("curve", [np.sqrt, np.square], ids=["concave", "convex"])
def test_a_bent_relation_is_followed(curve: np.ufunc) -> None:
    traffic = daily(4, 10, 60)
    noise = np.random.default_rng(1).normal(1, 0.02, len(traffic))
    rule = learned(observed(traffic, curve(traffic) * noise), float(curve(40.0)), LIMITS)
    assert 1 / rule.shares[0] == pytest.approx(40, rel=0.03)


def test_outliers_change_little() -> None:
    traffic, random = daily(4, 10, 60), np.random.default_rng(2)
    resource = 0.01 * traffic
    wrong = random.random(len(resource)) < 0.01
    resource[wrong] *= random.choice([0, 20], wrong.sum())
    rule = learned(observed(traffic, resource), 0.4, LIMITS)
    assert 1 / rule.shares[0] == pytest.approx(40, rel=0.02)


def test_several_traffics_add_up() -> None:
    random = np.random.default_rng(3)
    traffic = np.column_stack([daily(4, 5, 50, 1), random.uniform(0, 20, 4 * DAY)])
    resource = 0.02 + traffic @ [0.01, 0.03] + random.normal(0, 0.005, len(traffic))
    rule = learned(observed(traffic, resource, ("reads", "writes")), 0.52, LIMITS)
    assert rule.replicas(np.array([[99.0, 0.0], [0.0, 110.0], [90.0, 110.0]])).tolist() == [2, 7, 9]
    np.testing.assert_allclose(rule.shares, [0.02, 0.06], rtol=0.03)


def test_no_fewer_replicas_than_were_ever_enough(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is known above the highest traffic per replica, whatever the target allows."""
    traffic = daily(4, 10, 60)
    with caplog.at_level(logging.WARNING):
        rule = learned(observed(traffic, 0.01 * traffic), 5.0, LIMITS)
    assert 55 < 1 / rule.shares[0] <= 60
    assert "above all that was seen" in caplog.text


def test_a_target_below_all_that_was_seen_follows_the_line_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    traffic = daily(4, 30, 60)
    rule = learned(observed(traffic, 0.1 + 0.01 * traffic), 0.3, LIMITS)
    assert 1 / rule.shares[0] == pytest.approx(20, rel=0.05)
    assert "below all that was seen" in caplog.text


@pytest.mark.parametrize("target", [0.1, 0.29, 0.301])
def test_an_unattainable_target_is_an_error(target: float) -> None:
    traffic = daily(4, 10, 60)
    with pytest.raises(DataError, match=r"cannot be reached by any number .* without traffic .* takes 0\.3"):
        learned(observed(traffic, 0.3 + 0.01 * traffic), target, LIMITS)


def test_a_resource_that_does_not_follow_traffic_is_explained() -> None:
    """As where an autoscaler holds the resource at its target."""
    random = np.random.default_rng(4)
    traffic = daily(4, 10, 60)
    noise = 1e-4 * traffic + random.normal(0.5, 0.02, 4 * DAY)
    with pytest.raises(DataError) as refusal:
        learned(observed(traffic, noise), 0.5, LIMITS)
    said = str(refusal.value)
    assert said.startswith(
        "replicas estimation failed on 1,152 common moments (of 5 minutes) in 4.0 days: on the newest"
    )
    for word in ("correlation", "(at least 0.9)", "(at most 10)", "scale.replicas=per_replica", "ratio"):
        assert word in said


@pytest.mark.parametrize("days, old, new", [(0, 0, 0), (1, 0, 288)])
def test_too_short_a_history_is_explained(days: int, old: int, new: int) -> None:
    traffic = daily(days, 10, 60)
    with pytest.raises(DataError, match=f"{old:,} to learn from and {new:,} in the newest 86,400 s"):
        learned(observed(traffic, traffic), 0.5, LIMITS)


def test_traffic_that_rises_beyond_what_was_learned_is_judged_on_the_line() -> None:
    traffic = daily(4, 10, 60) * np.repeat([1, 1, 1, 1.5], DAY)
    rule = learned(observed(traffic, 0.01 * traffic), 0.4, LIMITS)
    assert 1 / rule.shares[0] == pytest.approx(40, rel=0.02)


@given(
    st.integers(0, 2**32 - 1),
    st.floats(0, 0.3),
    st.floats(1e-3, 10),
    st.floats(0.1, 0.85),
)
@settings(max_examples=25)
def test_of_any_noisy_line_the_target_is_met(seed: int, base: float, slope: float, where: float) -> None:
    random = np.random.default_rng(seed)
    traffic = daily(3, 5, 50, seed)
    top = slope * 50
    resource = (base * top + slope * traffic) * random.normal(1, 0.02, len(traffic))
    best = 5 + 45 * where
    rule = learned(observed(traffic, resource), base * top + slope * best, LIMITS)
    assert 1 / rule.shares[0] == pytest.approx(best, rel=0.05)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20), st.floats(0.01, 1e4), st.booleans())
def test_replicas_never_fall_as_traffic_rises(traffic: list[float], number: float, added: bool) -> None:
    rule = Rule(np.array([1 / number]), added)
    made = rule.replicas(np.sort(np.array(traffic))[:, None])
    assert (np.diff(made) >= 0).all()
    assert (made >= 1).all()
    assert (made * number >= np.sort(traffic) * (1 - 1e-5)).all()


def test_a_number_that_is_no_number_of_replicas_is_an_error() -> None:
    for traffic in (np.nan, np.inf, 1e30):
        with pytest.raises(DataError, match="which is no number of replicas"):
            Rule(np.array([1.0])).replicas(np.array([[traffic]]))


def test_the_largest_need_wins_where_numbers_are_given() -> None:
    rule = Rule(1 / np.array([10.0, 2.0]))
    assert rule.replicas(np.array([[100.0, 2.0], [10.0, 9.0], [-5.0, 0.0]])).tolist() == [10, 5, 1]


def test_the_traffic_per_replica_at_the_target_is_a_median() -> None:
    traffic = np.concatenate([np.full(500, 30.0), np.full(300, 50.0), np.full(45, 500.0)])
    resource = np.concatenate([np.full(500, 0.25), np.full(345, 0.5)])
    rule = at_target(observed(traffic, resource), 0.5)
    assert rule.replicas(np.array([[99.0], [101.0]])).tolist() == [2, 3]


def test_a_target_that_was_never_met_is_explained() -> None:
    traffic = daily(2, 10, 60)
    with pytest.raises(DataError, match=r"near its target, 5, at only 0 of 576 .*\(its median is"):
        at_target(observed(traffic, 0.01 * traffic), 5.0)


def test_the_ratio_keeps_the_newest_traffic_per_replica() -> None:
    traffic = np.append(np.full(100, 1.0), np.full(10, 20.0))
    rule = ratio(observed(traffic, traffic), 600)
    assert rule.replicas(np.array([[20.0], [60.0], [61.0]])).tolist() == [1, 3, 4]
    with pytest.raises(DataError, match="qps is 0 per replica in the newest moments"):
        ratio(observed(np.zeros(20), np.zeros(20)), 600)


def test_only_moments_with_all_metrics_and_a_replica_count() -> None:
    rows = [
        *((60 * k, 10.0 * k, "qps") for k in range(1, 6)),
        *((60 * k, 2.0, "pods") for k in range(2, 5)),
        *((300, 0.0, "pods"), (360, 1.0, "pods"), (360, 30.0, "qps"), (360, 1.0, "cpu")),
        *((60 * k, 1.0 if k != 3 else np.nan, "cpu") for k in range(6)),
    ]
    history = pd.DataFrame(rows, columns=["timestamp", "value", "metric"])
    found = Observed.of(history, ["qps"], "pods", "cpu")
    assert found.moments.tolist() == [240, 360]
    assert found.traffic.tolist() == [[15.0], [30.0]]
    assert found.resource is not None
    assert found.resource.tolist() == [0.5, 1.0]
    assert Observed.of(history, ["gone"], "pods", "cpu").moments.tolist() == []
