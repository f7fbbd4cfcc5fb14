"""Kapacity's autoscaler: portraits, priorities, limits and gray changes."""

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from kforecast.autoscaling.kapacity import KapacityPolicy, TimeSeries
from kforecast.autoscaling.policy import Pods, Reading

NONE = float("nan")


def orders(
    policy: KapacityPolicy, steps: list[list[Reading]], replicas: int = 5, seconds: int = 15
) -> list[int]:
    spec = np.array([replicas])
    state, found = policy.begin(spec), []
    for step, readings in enumerate(steps):
        spec = policy.decide(state, seconds * step, Pods(spec, spec, spec), readings)
        found.append(int(spec[0]))
    return found


def predicted(value: float) -> Reading:
    return Reading(np.array([value]), "replicas", 1.0)


def reactive(total: float) -> Reading:
    return Reading(np.array([total]), "value_per_pod_total", 10.0)


def test_the_newest_point_counts_until_the_next_one() -> None:
    series = TimeSeries(np.array([100, 160, 220]), np.array([[4, 0, 6], [1, 2, 3]]), end=280)
    found = [series.at(second).tolist() for second in (100, 159, 160, 220, 279)]
    np.testing.assert_array_equal(found, [[4, 1], [4, 1], [NONE, 2], [6, 3], [6, 3]])
    for outside in (99, 280):
        assert np.isnan(series.at(outside)).all()


def test_replicas_are_ordered_as_they_are_within_the_limits() -> None:
    policy = KapacityPolicy(min_replicas=2, max_replicas=8)
    # No tolerance: 10 becomes 11 elsewhere, 5 becomes 6 here. Without a value nothing changes.
    steps = [[predicted(value)] for value in (6, NONE, 0, 1, 20, 4.2)]
    assert orders(policy, steps) == [6, 6, 6, 2, 8, 5]


def test_the_highest_priority_with_a_value_wins() -> None:
    policy = KapacityPolicy()
    steps = [[predicted(3), reactive(80)], [predicted(NONE), reactive(80)], [predicted(NONE), reactive(NONE)]]
    assert orders(policy, steps) == [3, 8, 8]


def test_of_equal_priorities_more_replicas_win() -> None:
    equal: Any = [{"type": "Predictive"}, {"type": "Reactive"}, {"type": "Static", "replicas": 4}]
    policy = KapacityPolicy(portraits=equal)
    steps = [[predicted(3), reactive(80)], [predicted(9), reactive(80)], [predicted(NONE), reactive(NONE)]]
    assert orders(policy, steps) == [8, 9, 4]


def test_a_gray_change_goes_in_steps() -> None:
    gray: Any = {"changeIntervalSeconds": 30, "changePercent": 40}
    policy = KapacityPolicy(scale_up=gray, scale_down=gray)
    # 5 to 15: 4 at once, 8 after 30 s, all after 60 s; then to 5 in the same way.
    steps = [[predicted(5)], *([[predicted(15)]] * 5), *([[predicted(5)]] * 5)]
    assert orders(policy, steps) == [5, 9, 9, 13, 13, 15, 11, 11, 7, 7, 5]
    # A change of one replica is made at once.
    assert orders(policy, [[predicted(5)], [predicted(6)]]) == [5, 6]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"min_replicas": 5, "max_replicas": 3}, "max_replicas (3) is less than min_replicas (5)"),
        ({"portraits": [{"type": "Static"}]}, "replicas belong to a Static portrait"),
        ({"portraits": [{"type": "Reactive"}, {"type": "Reactive"}]}, "Reactive appears twice"),
        ({"portraits": []}, "at least 1 item"),
        ({"scale_up": {"changeIntervalSeconds": 30, "changePercent": 101}}, "less than or equal to 100"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        KapacityPolicy.model_validate(wrong)
    assert said in str(caught.value)
