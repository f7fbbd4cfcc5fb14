"""The autoscaler over many lanes, against one service at a time in plain Python."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kforecast.autoscaling.hpa import HpaPolicy
from kforecast.autoscaling.policy import Pods, Reading

STEP = 15


@dataclass
class Plain:
    """A HorizontalPodAutoscaler of one service: lists of the past, and the rules of the documentation.

    https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/ and the API reference of
    ``autoscaling/v2``; the controller counts a time as past as soon as it is over.
    """

    least: int
    most: int
    tolerances: tuple[float, float]  # down, up
    behavior: dict[str, Any] | None
    window: int
    recommendations: list[tuple[int, float]] = field(default_factory=list)
    changes: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: {"up": [], "down": []})

    def decide(
        self, now: int, pods: tuple[int, int, int], metrics: list[tuple[str, float, float, int]]
    ) -> int:
        spec = pods[0]
        if not self.recommendations:
            self.recommendations.append((now, spec))
        if spec == 0 and self.least > 0:
            return 0
        if not self.least <= spec <= self.most:
            found = min(max(spec, self.least), self.most)
            self.remember(now, spec, found)
            return found
        asked = [self.asked(pods, *metric) for metric in metrics]
        known = [one for one in asked if one is not None]
        if not known or (len(known) < len(asked) and max(known) < spec):
            return spec
        desired = max(known)
        found = (
            self.limited(now, spec, desired) if self.behavior is not None else self.capped(now, spec, desired)
        )
        self.remember(now, spec, found)
        return found

    def asked(
        self, pods: tuple[int, int, int], kind: str, value: float, target: float, missing: int
    ) -> int | None:
        spec, ready, total = pods
        if not math.isfinite(value):
            return None
        if kind == "value_per_pod_total":
            milli, goal = int(value * 1000 + 1e-6), round(target * 1000)
            if total and self.tolerated(milli / (goal * total)):
                return total
            return math.ceil(milli / goal)
        if kind == "value":
            ratio = int(value * 1000 + 1e-6) / round(target * 1000)
            if spec == 0:
                return math.ceil(ratio)
            if self.tolerated(ratio):
                return spec
            return math.ceil(ratio * ready) if total else None
        measured, starting = ready - missing, total - ready
        if measured <= 0:
            return None
        utilised = kind == "utilization"
        whole = (lambda one: int(one + 1e-6)) if utilised else (lambda one: int(one * 1000 + 1e-6))
        goal = target if utilised else round(target * 1000)
        ratio = whole(value) / goal
        used, counted = value * measured, measured
        if ratio > 1:
            counted += missing + starting
        elif ratio < 1:
            counted += missing
            used += missing * (max(100.0, target) if utilised else target)
        if counted == measured:
            return spec if self.tolerated(ratio) else math.ceil(ratio * measured)
        after = whole(used / counted) / goal
        found = math.ceil(after * counted)
        if self.tolerated(after) or (ratio < 1 < after) or (after < 1 < ratio):
            return spec
        if (after < 1 and found > spec) or (after > 1 and found < spec):
            return spec
        return found

    def tolerated(self, ratio: float) -> bool:
        return 1 - self.tolerances[0] <= ratio <= 1 + self.tolerances[1]

    def recent(self, now: int, window: int) -> list[float]:
        return [one for second, one in self.recommendations if now - second < window]

    def capped(self, now: int, spec: int, desired: float) -> int:
        stabilised = max([desired, *self.recent(now, self.window)])
        self.recommendations.append((now, desired))
        return int(min(max(stabilised, self.least), self.most, max(2 * spec, 4)))

    def limited(self, now: int, spec: int, desired: float) -> int:
        assert self.behavior is not None
        up, down = self.behavior["up"], self.behavior["down"]
        floor = min([desired, *self.recent(now, up["window"])])
        ceiling = max([desired, *self.recent(now, down["window"])])
        self.recommendations.append((now, desired))
        found = min(max(spec, floor), ceiling)
        if found > spec:
            return int(min(found, self.most, self.reach(now, spec, up, 1)))
        if found < spec:
            return int(max(found, self.least, self.reach(now, spec, down, -1)))
        return spec

    def reach(self, now: int, spec: int, rules: dict[str, Any], sign: int) -> float:
        if rules["select"] == "Disabled":
            return spec
        allowed: list[float] = []
        for kind, value, period in rules["rates"]:
            start = spec
            start -= sum(one for second, one in self.changes["up"] if now - second < period)
            start += sum(one for second, one in self.changes["down"] if now - second < period)
            if kind == "Pods":
                allowed.append(start + sign * value)
            elif sign > 0:
                allowed.append(math.ceil(start * (1 + value / 100)))
            else:
                allowed.append(int(start * (1 - value / 100)))
        farthest = max if (rules["select"] == "Max") == (sign > 0) else min
        return max(farthest(allowed), spec) if sign > 0 else min(farthest(allowed), spec)

    def remember(self, now: int, spec: int, found: int) -> None:
        if found == spec or self.behavior is None:
            return
        side = "up" if found > spec else "down"
        longest = max(period for _, _, period in self.behavior[side]["rates"])
        outdated = [i for i, (second, _) in enumerate(self.changes[side]) if now - second >= longest]
        if outdated:
            self.changes[side][outdated[-1]] = (now, abs(found - spec))
        else:
            self.changes[side].append((now, abs(found - spec)))


rates = st.tuples(
    st.sampled_from(["Pods", "Percent"]), st.integers(1, 150), st.sampled_from([5, 15, 30, 40, 60, 120])
)
sides = st.fixed_dictionaries(
    {
        "window": st.sampled_from([0, 10, 15, 30, 45, 100, 300]),
        "select": st.sampled_from(["Max", "Max", "Min", "Disabled"]),
        "rates": st.lists(rates, min_size=1, max_size=3),
    }
)
kinds = st.sampled_from(["value_per_pod_total", "value", "value_per_pod", "utilization"])
TARGETS = {"value_per_pod_total": 20.0, "value": 50.0, "value_per_pod": 7.5, "utilization": 60.0}


def as_behavior(behavior: dict[str, Any] | None) -> dict[str, Any] | None:
    if behavior is None:
        return None
    names = {"scaleUp": "up", "scaleDown": "down"}
    return {
        name: {
            "stabilizationWindowSeconds": behavior[side]["window"],
            "selectPolicy": behavior[side]["select"],
            "policies": [
                {"type": kind, "value": value, "periodSeconds": period}
                for kind, value, period in behavior[side]["rates"]
            ],
        }
        for name, side in names.items()
    }


@given(
    behavior=st.none() | st.fixed_dictionaries({"up": sides, "down": sides}),
    chosen=st.lists(kinds, min_size=1, max_size=2),
    limits=st.tuples(st.integers(0, 4), st.integers(5, 60)),
    tolerances=st.tuples(st.sampled_from([0.0, 0.1, 0.3]), st.sampled_from([0.0, 0.1, 0.3])),
    window=st.sampled_from([0, 20, 60, 300]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_lanes_decide_like_single_services(
    behavior: dict[str, Any] | None,
    chosen: list[Any],
    limits: tuple[int, int],
    tolerances: tuple[float, float],
    window: int,
    seed: int,
) -> None:
    random, lanes, steps = np.random.default_rng(seed), 4, 40
    if behavior is not None:  # only there, each direction has its own tolerance
        rules = as_behavior(behavior) or {}
        rules["scaleDown"]["tolerance"], rules["scaleUp"]["tolerance"] = tolerances
        policy = HpaPolicy.model_validate(
            {"min_replicas": limits[0], "max_replicas": limits[1], "behavior": rules}
        )
    else:
        tolerances = (tolerances[0], tolerances[0])
        policy = HpaPolicy(
            min_replicas=limits[0],
            max_replicas=limits[1],
            tolerance=tolerances[0],
            downscale_stabilization=window,
        )
    singles = [Plain(*limits, tolerances, behavior, window) for _ in range(lanes)]
    spec = random.integers(0, 12, lanes)
    state = policy.begin(spec)
    for step in range(steps):
        total = np.maximum(spec + random.integers(-1, 2, lanes), 0)
        ready = np.minimum(random.integers(0, 14, lanes), total)
        readings = []
        for kind in chosen:
            # Round numbers, so that many ratios are exactly 1 or at the edge of the tolerance.
            value = np.round(TARGETS[kind] * random.choice([0.2, 0.5, 0.9, 1.0, 1.1, 1.5, 3.0], lanes), 3)
            if kind == "value_per_pod_total":
                value = value * np.maximum(spec, 1)
            value[random.random(lanes) < 0.1] = np.nan
            missing = np.minimum(random.integers(0, 3, lanes), ready) if random.random() < 0.5 else None
            readings.append(Reading(value, kind, TARGETS[kind], missing))
        found = policy.decide(state, STEP * step, Pods(spec, ready, total), readings)
        expected = [
            one.decide(
                STEP * step,
                (int(spec[i]), int(ready[i]), int(total[i])),
                [
                    (
                        r.kind,
                        float(r.value[i]),
                        float(r.target),
                        0 if r.missing is None else int(r.missing[i]),
                    )
                    for r in readings
                ],
            )
            for i, one in enumerate(singles)
        ]
        assert found.tolist() == expected
        spec = found
        if random.random() < 0.05:  # somebody scales by hand
            spec = random.integers(0, 70, lanes)


def test_a_limit_of_each_lane() -> None:
    policy = HpaPolicy(min_replicas=1, max_replicas=10, downscale_stabilization=0)
    spec = np.array([5, 5, 5])
    state = policy.begin(spec, least=np.array([1, 3, 5]))
    reading = Reading(np.array([10.0, 10.0, 10.0]), "value_per_pod_total", np.array([10.0, 10.0, 1.0]))
    assert policy.decide(state, 0, Pods(spec, spec, spec), [reading]).tolist() == [1, 3, 10]


def test_tolerance_keeps_ten_from_becoming_eleven() -> None:
    """A metric of wanted replicas with target 1, as contract 9 warns of."""
    spec = np.array([10])
    reading = Reading(np.array([11.0]), "value_per_pod_total", 1.0)
    policy = HpaPolicy()
    assert policy.decide(policy.begin(spec), 0, Pods(spec, spec, spec), [reading]).tolist() == [10]


@pytest.mark.parametrize("kind", ["value_per_pod_total", "value", "value_per_pod"])
def test_the_least_target_is_a_thousandth(kind: str) -> None:
    policy, spec = HpaPolicy(), np.array([3, 3])
    tiny, least = (
        policy.recommendation(Pods(spec, spec, spec), [Reading(np.array([0.0, 0.004]), kind, target)])
        for target in (1e-12, 0.001)
    )
    np.testing.assert_array_equal(tiny, least)
    assert np.isfinite(tiny).all()


def test_without_a_metric_nothing_changes() -> None:
    policy, spec = HpaPolicy(), np.array([3, 200])
    assert policy.decide(policy.begin(spec), 0, Pods(spec, spec, spec), []).tolist() == [3, 100]


def test_replicas_are_no_metric() -> None:
    policy, spec = HpaPolicy(), np.array([3])
    reading = Reading(np.array([5.0]), "replicas", 1.0, name="plan")
    with pytest.raises(ValueError, match="plan: replicas are no metric"):
        policy.decide(policy.begin(spec), 0, Pods(spec, spec, spec), [reading])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"min_replicas": 5, "max_replicas": 3}, "max_replicas (3) is less than min_replicas (5)"),
        ({"behavior": {"scaleUp": {"policies": []}}}, "at least 1 item"),
        ({"behavior": {"scaleDown": {"stabilizationWindowSeconds": 3601}}}, "less than or equal to 3600"),
        ({"metrics": [{"name": "qps", "kind": "value", "target": 0}]}, "greater than 0"),
        ({"interval": 0}, "greater than or equal to 1"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        HpaPolicy.model_validate(wrong)
    assert said in str(caught.value)
