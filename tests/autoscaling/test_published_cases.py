"""The cases that Kubernetes' own tests of its autoscaler publish: inputs and expected replicas.

From ``replica_calculator_test.go`` and ``horizontal_test.go`` in ``pkg/controller/podautoscaler``. Cases
about names, selectors, events, errors of servers and the grouping of pods by phase are not about arithmetic,
and are missing here; so are those whose result is the largest number of 32 bits.
"""

from typing import Any

import numpy as np
import pytest

from kforecast.autoscaling.calculator import UNKNOWN, Band, Counts, wanted
from kforecast.autoscaling.hpa import HpaPolicy
from kforecast.autoscaling.policy import Pods, Reading
from kforecast.autoscaling.stabilisation import Changes

CPU, PODS, TOTAL, VALUE = "utilization", "value_per_pod", "value_per_pod_total", "value"
NOTHING = float(UNKNOWN)
# Name; kind; replicas ordered, pods ready, pods; ready pods without a metric; value; target; replicas.
# Utilisation is the sum of the levels over that of the requests. Metrics of pods count those that run.
CALCULATED = [
    ("scale up", CPU, 3, 3, 3, 0, 50, 30, 5),
    ("scale up: container metric", CPU, 3, 3, 3, 0, 50, 30, 5),
    ("scale up: unready pod scales less", CPU, 3, 2, 3, 0, 60, 30, 4),
    ("scale up: hot-CPU container scales less", CPU, 3, 2, 3, 0, 60, 30, 4),
    ("scale up: hot-CPU pod scales less", CPU, 3, 2, 3, 0, 60, 30, 4),
    ("no scale: unready pods ignored", CPU, 3, 1, 3, 0, 40, 30, 3),
    ("no scale: hot-CPU pods ignored", CPU, 3, 1, 3, 0, 40, 30, 3),
    ("scale up: failed pods ignored", CPU, 2, 2, 2, 0, 60, 30, 4),
    ("scale up: failed pods ignored with missing container metric", CPU, 2, 2, 2, 0, 60, 30, 4),
    ("scale up: container metrics with failed pods ignored", CPU, 2, 2, 2, 0, 60, 30, 4),
    ("scale up: pods being deleted are ignored", CPU, 2, 2, 2, 0, 60, 30, 4),
    ("scale up: container metrics with pods being deleted ignored", CPU, 2, 2, 2, 0, 60, 30, 4),
    ("scale down", CPU, 5, 5, 5, 0, 28, 50, 3),
    ("scale down: container metric", CPU, 5, 5, 5, 0, 28, 50, 3),
    ("scale down: exclude unready pods", CPU, 5, 3, 5, 0, 30, 50, 2),
    ("scale down: container metric excludes unready pods", CPU, 5, 3, 5, 0, 30, 50, 2),
    ("scale down: exclude unscheduled pods", CPU, 5, 1, 5, 0, 10, 50, 1),
    ("scale down: container metric excludes unscheduled pods", CPU, 5, 1, 5, 0, 10, 50, 1),
    ("scale down: ignore hot-CPU pods", CPU, 5, 3, 5, 0, 30, 50, 2),
    ("scale down: container metric ignores hot-CPU pods", CPU, 5, 3, 5, 0, 30, 50, 2),
    ("scale down: failed pods ignored", CPU, 5, 5, 5, 0, 28, 50, 3),
    ("scale down: container metric with failed pods ignored", CPU, 5, 5, 5, 0, 28, 50, 3),
    ("scale down: pods being deleted are ignored", CPU, 5, 5, 5, 0, 28, 50, 3),
    ("scale down: still-running pods being deleted are ignored", CPU, 5, 5, 5, 0, 28, 50, 3),
    ("DisjointResourcesMetrics", CPU, 1, 1, 1, 1, 10, 100, NOTHING),
    ("ExternalPerPodMetricUsageOverflow", TOTAL, 1, 1, 1, 0, (2**63 - 1) / 1000, (2**63 - 1) / 1000, 1),
    ("ExternalMetricUsageOverflow", VALUE, 3, 3, 3, 0, 2**63 / 1000, (2**63 - 1) / 1000, 3),
    ("ScaleUpCM", PODS, 3, 3, 3, 0, 20, 15, 4),
    ("ScaleUpCMUnreadyHotCpuNoLessScale", PODS, 3, 3, 3, 0, 30, 15, 6),
    ("ScaleUpCMUnreadyHotCpuScaleWouldScaleDown", PODS, 3, 3, 3, 0, 95 / 3, 15, 7),
    ("ScaleUpCMObject", VALUE, 3, 3, 3, 0, 20, 15, 4),
    ("ScaleUpCMPerPodObject", TOTAL, 3, 3, 3, 0, 20, 5, 4),
    ("ScaleUpCMObjectIgnoresUnreadyPods", VALUE, 3, 1, 3, 0, 50, 10, 5),
    ("ScaleUpCMExternalIgnoresUnreadyPods", VALUE, 3, 1, 3, 0, 8.6, 4.4, 2),
    ("ScaleUpPerPodCMExternal", TOTAL, 3, 3, 3, 0, 8.6, 2.15, 4),
    ("ScaleDownCM", PODS, 5, 5, 5, 0, 12, 20, 3),
    ("ScaleDownPerPodCMObject", TOTAL, 5, 5, 5, 0, 6, 2, 3),
    ("ScaleDownCMObject", VALUE, 5, 5, 5, 0, 12, 20, 3),
    ("ScaleDownCMExternal", VALUE, 5, 5, 5, 0, 8.6, 14.334, 3),
    ("ScaleDownPerPodCMExternal", TOTAL, 5, 5, 5, 0, 8.6, 2.867, 3),
    ("Tolerance", CPU, 3, 3, 3, 0, 102, 100, 3),
    ("ToleranceCM", PODS, 3, 3, 3, 0, 62 / 3, 20, 3),
    ("ToleranceCMObject", VALUE, 3, 3, 3, 0, 20.666, 20, 3),
    ("TolerancePerPodCMObject", TOTAL, 4, 4, 4, 0, 20.166, 5, 4),
    ("ToleranceCMExternal", VALUE, 3, 3, 3, 0, 8.6, 8.888, 3),
    ("TolerancePerPodCMExternal", TOTAL, 3, 3, 3, 0, 8.6, 2.9, 3),
    ("SuperfluousMetrics", CPU, 4, 4, 4, 0, 587.5, 100, 24),
    ("MissingMetrics", CPU, 4, 4, 4, 2, 24.75, 100, 3),
    ("EmptyMetrics", CPU, 4, 4, 4, 4, np.nan, 100, NOTHING),
    ("EmptyCPURequest", CPU, 1, 1, 1, 0, np.nan, 100, NOTHING),
    ("PlainMetricMissingMetricsNoChangeEq", PODS, 5, 5, 5, 2, 20, 20, 5),
    ("MissingMetricsNoChangeEq", CPU, 2, 2, 2, 1, 100, 100, 2),
    ("MissingMetricsNoChangeGt", CPU, 2, 2, 2, 1, 190, 100, 2),
    ("MissingMetricsNoChangeLt", CPU, 2, 2, 2, 1, 60, 100, 2),
    ("MissingMetricsUnreadyChange", CPU, 3, 2, 3, 1, 45, 50, 3),
    ("MissingMetricsHotCpuNoChange", CPU, 3, 2, 3, 1, 45, 50, 3),
    ("MissingMetricsUnreadyScaleUp", CPU, 3, 2, 3, 1, 200, 50, 4),
    ("MissingMetricsHotCpuScaleUp", CPU, 3, 2, 3, 1, 200, 50, 4),
    ("MissingMetricsUnreadyScaleDown", CPU, 4, 3, 4, 1, 10, 50, 3),
    ("MissingMetricsScaleDownTargetOver100", CPU, 4, 3, 4, 1, 20 / 3, 300, 2),
    ("DuringRollingUpdateWithMaxSurge", CPU, 2, 3, 3, 1, 10, 50, 2),
    ("DuringRollingUpdateWithMaxSurgeCM", PODS, 2, 3, 3, 1, 10, 17, 2),
    ("ComputedToleranceAlgImplementation: outside", CPU, 10, 10, 10, 0, 50, 56, 9),
    ("ComputedToleranceAlgImplementation: within", CPU, 10, 10, 10, 0, 50, 55, 10),
]
# The same, for tolerances of scaling down and up.
TOLERATED = [
    ("Outside of a 0% tolerance", (0.0, 0.0), CPU, 3, 101, 100, 4),
    ("Within a 200% scale-up tolerance", (0.1, 2.0), CPU, 3, 190, 100, 3),
    ("Outside 8% scale-up tolerance", (2.0, 0.08), CPU, 3, 109, 100, 4),
    ("Within a 36% scale-down tolerance", (0.36, 0.1), CPU, 3, 65, 100, 3),
    ("Outside a 34% scale-down tolerance", (0.34, 0.1), CPU, 3, 65, 100, 2),
    ("ConfigurableToleranceCM", (0.1, 0.01), PODS, 3, 62 / 3, 20, 4),
    ("ConfigurableToleranceCMObject", (0.1, 0.01), VALUE, 3, 20.666, 20, 4),
    ("ConfigurableTolerancePerPodCMObject", (0.1, 0.01), TOTAL, 4, 20.208, 5, 5),
    ("ConfigurableToleranceCMExternal", (0.1, 0.01), VALUE, 3, 8.9, 8.8, 4),
    ("ConfigurableTolerancePerPodCMExternal", (0.1, 0.01), TOTAL, 3, 8.6, 2.8, 4),
]


def lane(*numbers: int) -> list[np.ndarray]:
    return [np.array([number]) for number in numbers]


def calculated(reading: Reading, spec: int, ready: int, total: int, band: Band) -> float:
    return float(wanted(reading, Counts(*(one.astype(float) for one in lane(spec, ready, total))), band)[0])


@pytest.mark.parametrize("case", CALCULATED, ids=lambda case: case[0])
def test_replicas_of_one_metric(case: tuple[Any, ...]) -> None:
    _, kind, spec, ready, total, missing, value, target, expected = case
    absent = np.array([missing]) if missing else None
    with np.errstate(all="ignore"):
        found = calculated(
            Reading(np.array([float(value)]), kind, target, absent), spec, ready, total, Band.of(0.1, 0.1)
        )
    assert found == expected


@pytest.mark.parametrize("case", TOLERATED, ids=lambda case: case[0])
def test_replicas_of_one_metric_with_own_tolerances(case: tuple[Any, ...]) -> None:
    _, tolerances, kind, replicas, value, target, expected = case
    reading = Reading(np.array([float(value)]), kind, target)
    assert calculated(reading, replicas, replicas, replicas, Band.of(*tolerances)) == expected


def cpu(value: float, target: float, missing: int = 0) -> Reading:
    return Reading(np.array([value]), CPU, target, np.array([missing]) if missing else None)


def metric(kind: Any, value: float, target: float) -> Reading:
    return Reading(np.array([value]), kind, target)


UNKNOWN_METRIC = metric(VALUE, np.nan, 1)
UP_700 = {"scaleUp": {"policies": [{"type": "Percent", "value": 700, "periodSeconds": 60}]}}
# Name; limits; replicas ordered, pods ready, pods; metrics; replicas. Without earlier recommendations.
RECONCILED = [
    ("ScaleUp", (2, 6), (3, 3, 3), [cpu(50, 30)], 5),
    ("ScaleUpContainer", (2, 6), (3, 3, 3), [cpu(50, 30)], 5),
    ("ScaleUpUnreadyLessScale", (2, 6), (3, 2, 3), [cpu(60, 30)], 4),
    ("ScaleUpHotCpuLessScale", (2, 6), (3, 2, 3), [cpu(60, 30)], 4),
    ("ScaleUpUnreadyNoScale", (2, 6), (3, 1, 3), [cpu(40, 30)], 3),
    ("ScaleUpHotCpuNoScale", (2, 6), (3, 1, 3), [cpu(40, 30)], 3),
    ("ScaleUpIgnoresFailedPods", (2, 6), (2, 2, 2), [cpu(60, 30)], 4),
    ("ScaleUpIgnoresDeletionPods", (2, 6), (2, 2, 2), [cpu(60, 30)], 4),
    ("ScaleUpDeployment", (2, 6), (3, 3, 3), [cpu(50, 30)], 5),
    ("ScaleUpReplicaSet", (2, 6), (3, 3, 3), [cpu(50, 30)], 5),
    ("ScaleUpCM", (2, 6), (3, 3, 3), [metric(PODS, 20, 15)], 4),
    ("ScaleUpCMUnreadyAndHotCpuNoLessScale", (2, 6), (3, 3, 3), [metric(PODS, 30, 15)], 6),
    ("ScaleUpCMUnreadyandCpuHot", (2, 6), (3, 3, 3), [metric(PODS, 95 / 3, 15)], 6),
    ("ScaleUpHotCpuNoScaleWouldScaleDown", (2, 6), (3, 3, 3), [metric(PODS, 95 / 3, 15)], 6),
    ("ScaleUpCMObject", (2, 6), (3, 3, 3), [metric(VALUE, 20, 15)], 4),
    ("ScaleUpFromZeroCMObject", (0, 6), (0, 0, 0), [metric(VALUE, 20, 15)], 2),
    ("ScaleUpFromZeroIgnoresToleranceCMObject", (0, 6), (0, 0, 0), [metric(VALUE, 1, 1)], 1),
    ("ScaleUpPerPodCMObject", (2, 6), (3, 3, 3), [metric(TOTAL, 40, 10)], 4),
    ("ScaleUpCMExternal", (2, 6), (3, 3, 3), [metric(VALUE, 8.6, 6.666)], 4),
    ("ScaleUpPerPodCMExternal", (2, 6), (3, 3, 3), [metric(TOTAL, 8.6, 2.222)], 4),
    ("ScaleDown", (2, 6), (5, 5, 5), [cpu(28, 50)], 3),
    ("ScaleDownContainerResource", (2, 6), (5, 5, 5), [cpu(28, 50)], 3),
    ("ScaleUpOneMetricInvalid", (2, 6), (3, 3, 3), [UNKNOWN_METRIC, cpu(40, 30)], 4),
    ("ScaleUpFromZeroOneMetricInvalid", (0, 6), (0, 3, 3), [UNKNOWN_METRIC, cpu(40, 30)], 4),
    ("ScaleUpBothMetricsEmpty", (2, 6), (3, 3, 3), [UNKNOWN_METRIC, cpu(np.nan, 30)], 3),
    ("ScaleDownCM", (2, 6), (5, 5, 5), [metric(PODS, 12, 20)], 3),
    ("ScaleDownCMObject", (2, 6), (5, 5, 5), [metric(VALUE, 12, 20)], 3),
    ("ScaleDownToZeroCMObject", (0, 6), (5, 5, 5), [metric(VALUE, 0, 20)], 0),
    ("ScaleDownPerPodCMObject", (2, 6), (5, 5, 5), [metric(TOTAL, 60, 20)], 3),
    ("ScaleDownCMExternal", (2, 6), (5, 5, 5), [metric(VALUE, 8.6, 14.4)], 3),
    ("ScaleDownToZeroCMExternal", (0, 6), (5, 5, 5), [metric(VALUE, 0, 14.4)], 0),
    ("ScaleDownPerPodCMExternal", (2, 6), (5, 5, 5), [metric(TOTAL, 8.6, 3)], 3),
    ("ScaleDownIncludeUnreadyPods", (2, 6), (5, 3, 5), [cpu(30, 50)], 2),
    ("ScaleDownIgnoreHotCpuPods", (2, 6), (5, 3, 5), [cpu(30, 50)], 2),
    ("ScaleDownIgnoresFailedPods", (2, 6), (5, 5, 5), [cpu(28, 50)], 3),
    ("ScaleDownIgnoresDeletionPods", (2, 6), (5, 5, 5), [cpu(28, 50)], 3),
    ("Tolerance", (1, 5), (3, 3, 3), [cpu(102, 100)], 3),
    ("ToleranceCM", (1, 5), (3, 3, 3), [metric(PODS, 61.001 / 3, 20)], 3),
    ("ToleranceCMObject", (1, 5), (3, 3, 3), [metric(VALUE, 20.05, 20)], 3),
    ("ToleranceCMExternal", (2, 6), (4, 4, 4), [metric(VALUE, 8.6, 8.666)], 4),
    ("TolerancePerPodCMObject", (2, 6), (4, 4, 4), [metric(TOTAL, 8.6, 2.2)], 4),
    ("TolerancePerPodCMExternal", (2, 6), (4, 4, 4), [metric(TOTAL, 8.6, 2.2)], 4),
    ("MinReplicas", (2, 5), (3, 3, 3), [cpu(100 * 115 / 3000, 90)], 2),
    ("ZeroMinReplicasDesiredZero", (0, 5), (3, 3, 3), [cpu(0, 90)], 0),
    ("MinReplicasDesiredZero", (2, 5), (3, 3, 3), [cpu(0, 90)], 2),
    ("ZeroReplicas", (3, 5), (0, 0, 0), [cpu(np.nan, 90)], 0),
    ("TooFewReplicas", (3, 5), (2, 2, 2), [cpu(np.nan, 90)], 3),
    ("TooManyReplicas", (3, 5), (10, 10, 10), [cpu(np.nan, 90)], 5),
    ("MaxReplicas", (2, 5), (3, 3, 3), [cpu(100 * 18500 / 3000, 90)], 5),
    ("SuperfluousMetrics", (2, 6), (4, 4, 4), [cpu(587.5, 100)], 6),
    ("MissingMetrics", (2, 6), (4, 4, 4), [cpu(24.75, 100, missing=2)], 3),
    ("EmptyMetrics", (2, 6), (4, 4, 4), [cpu(np.nan, 100)], 4),
    ("EmptyCPURequest", (1, 5), (1, 1, 1), [cpu(np.nan, 100)], 1),
    ("EventCreated", (1, 5), (1, 1, 1), [cpu(100, 50)], 2),
    ("EventNotCreated", (1, 5), (2, 2, 2), [cpu(50, 50)], 2),
    ("MissingReports", (1, 5), (4, 1, 1), [cpu(100, 50)], 2),
    ("MoreReplicasThanSpecNoScale", (1, 8), (4, 5, 5), [cpu(50, 50)], 4),
    ("ConditionFailedGetMetrics", (1, 100), (3, 3, 3), [metric(TOTAL, np.nan, 15)], 3),
    ("NoBackoffUpscaleCM", (1, 5), (3, 3, 3), [metric(PODS, 20, 15)], 4),
    ("NoBackoffUpscaleCMNoBackoffCpu", (1, 5), (3, 3, 3), [metric(PODS, 20, 15), cpu(2000, 10)], 5),
    ("ComputedToleranceAlgImplementation: outside", (0, 1000), (10, 10, 10), [cpu(50, 56)], 9),
    ("ComputedToleranceAlgImplementation: within", (0, 1000), (10, 10, 10), [cpu(50, 55)], 10),
    ("ScaleUpRCImmediately", (2, 6), (1, 1, 1), [cpu(0, 50)], 2),
    ("ScaleDownRCImmediately", (2, 5), (6, 6, 6), [cpu(100 * 18500 / 3000, 50)], 5),
    ("ScaleUpOneMetricEmpty", (2, 6), (3, 3, 3), [cpu(40, 30), UNKNOWN_METRIC], 4),
    ("NoScaleDownOneMetricInvalid", (2, 6), (5, 5, 5), [UNKNOWN_METRIC, cpu(28, 50)], 5),
    ("NoScaleDownOneMetricEmpty", (2, 6), (5, 5, 5), [cpu(28, 50), UNKNOWN_METRIC], 5),
]


def one_decision(
    policy: HpaPolicy, pods: tuple[int, int, int], readings: list[Reading], first: bool = False
) -> int:
    spec, ready, total = lane(*pods)
    state = policy.begin(spec)
    state.first = first
    return int(policy.decide(state, 0, Pods(spec, ready, total), readings)[0])


@pytest.mark.parametrize("case", RECONCILED, ids=lambda case: case[0])
def test_one_decision_of_the_controller(case: tuple[Any, ...]) -> None:
    _, (least, most), pods, readings, expected = case
    assert one_decision(HpaPolicy(min_replicas=least, max_replicas=most), pods, readings) == expected


@pytest.mark.parametrize(("most", "expected"), [(100, 24), (20, 20)])
def test_a_policy_caps_scaling_up(most: int, expected: int) -> None:
    policy = HpaPolicy(max_replicas=most, behavior=UP_700)  # type: ignore[arg-type]
    assert one_decision(policy, (3, 3, 3), [cpu(200, 10)]) == expected


def test_scaling_down_is_not_slowed_by_rules_of_scaling_up() -> None:
    rate = {"type": "Percent", "value": 100, "periodSeconds": 15}
    rules = {"scaleUp": {"stabilizationWindowSeconds": 30, "policies": [rate]}}
    policy = HpaPolicy(min_replicas=2, max_replicas=6, behavior=rules)  # type: ignore[arg-type]
    assert one_decision(policy, (5, 5, 5), [cpu(28, 50)]) == 3


def test_the_first_recommendation_is_the_size_found() -> None:
    policy = HpaPolicy(min_replicas=2, max_replicas=6)
    assert one_decision(policy, (5, 5, 5), [cpu(28, 50)], first=True) == 5


# Replicas now, wanted, least, most, ordered: without behavior.
@pytest.mark.parametrize(
    ("now", "asked", "least", "most", "expected"),
    [(5, 7, 3, 8, 7), (3, 1, 2, 8, 2), (1, 0, 0, 10, 0), (20, 1000, 1, 10, 10), (3, 1000, 1, 2000, 6)],
)
def test_limits_without_behavior(now: int, asked: int, least: int, most: int, expected: int) -> None:
    policy = HpaPolicy(min_replicas=least, max_replicas=most, tolerance=0.0)
    assert one_decision(policy, (now, now, now), [metric(TOTAL, asked, 1)]) == expected


def rules(pods: int = 0, period: int = 60, percent: int = 0, percent_period: int = 60) -> dict[str, Any]:
    rates = [("Pods", pods, period), ("Percent", percent, percent_period)]
    return {
        "selectPolicy": "Max",
        "policies": [{"type": t, "value": v, "periodSeconds": p} for t, v, p in rates if v],
    }


# Limits; rules up and down; changes up and down, spread over the last 120 s; replicas now, wanted, ordered.
LIMITED = [
    ("within range", (3, 8), {}, {}, [], [], 5, 7, 7),
    ("desired < minReplicas", (2, 8), {}, {}, [], [], 3, 1, 2),
    ("within range when minReplicas is 0", (0, 10), {}, {}, [], [], 1, 0, 0),
    ("maxReplicas is the limit", (1, 10), {}, {}, [], [], 20, 1000, 10),
    ("desired is more than maxReplicas", (100, 150), {}, {}, [], [], 100, 1000, 150),
    ("scaleUpLimit with user policies", (1, 2000), rules(percent=1), {}, [], [], 3, 1000, 4),
    ("scaleDownLimit with user policies", (3, 2000), {}, rules(20), [], [], 1000, 3, 980),
    ("scaleUp with default behavior", (1, 1000), {}, {}, [], [], 10, 50, 20),
    ("up: pods larger than percent", (1, 1000), rules(100, percent=100), {}, [], [], 10, 500, 110),
    ("up: percent larger than pods", (1, 1000), rules(2, percent=100), {}, [], [], 10, 500, 20),
    ("up: large pod policy", (1, 1000), rules(100), {}, [], [], 10, 50, 50),
    ("up: large percent policy", (1, 1000), rules(10000), {}, [], [], 10, 50, 50),
    ("up: pod policy", (1, 1000), rules(30), {}, [], [], 10, 50, 40),
    ("up: percent policy", (1, 1000), rules(percent=200), {}, [], [], 10, 50, 30),
    ("down: percent and larger pods", (1, 1000), {}, rules(20, percent=1), [], [], 100, 2, 80),
    ("down: pods larger than percent", (1, 1000), {}, rules(2, percent=1), [], [], 100, 2, 98),
    ("down: minReplicas=nil, large pods", (1, 1000), {}, rules(100), [], [], 10, 0, 1),
    ("down: minReplicas, large pods", (1, 1000), {}, rules(100), [], [], 10, 0, 1),
    ("down: minReplicas, large percent", (5, 1000), {}, rules(percent=100), [], [], 10, 2, 5),
    ("down: pod policy", (1, 1000), {}, rules(5), [], [], 10, 2, 5),
    ("down: percent policy", (1, 1000), {}, rules(percent=50), [], [], 10, 5, 5),
    ("up: large pods and events", (1, 200), rules(300), {}, [1, 5, 9], [], 100, 500, 200),
    ("up: large percent and events", (1, 200), rules(percent=10000), {}, [1, 5, 9], [], 100, 500, 200),
    ("up: many recent events", (1, 1000), rules(5, 120), {}, [1, 5, 9], [], 100, 500, 100),
    ("up: pods and events", (1, 1000), rules(150, 120), {}, [1, 5, 9], [], 100, 500, 235),
    ("up: percent and events", (1, 1000), rules(0, 0, 200, 120), {}, [1, 5, 9], [], 100, 500, 255),
    ("up: events both ways", (1, 1000), rules(0, 0, 300, 300), {}, [4], [2], 6, 24, 16),
    ("down: default policy and events", (1, 1000), {}, {}, [], [1, 5, 9], 10, 5, 5),
    ("down: minReplicas=nil and events", (1, 1000), {}, rules(115, 120), [], [1, 5, 9], 100, 0, 1),
    ("down: minReplicas and events", (5, 1000), {}, rules(130, 120), [], [1, 5, 9], 100, 0, 5),
    ("down: 100% and events", (5, 1000), {}, rules(0, 0, 100, 120), [], [1, 5, 9], 100, 2, 5),
    ("down: pods and events", (1, 1000), {}, rules(5, 120), [], [1, 5, 9], 100, 2, 100),
    ("down: percent and events", (1, 1000), {}, rules(0, 0, 50, 120), [], [2, 4, 6], 100, 0, 56),
    ("down: events both ways", (1, 1000), {}, rules(0, 0, 50, 180), [2], [4], 10, 1, 6),
    ("down: events prevent more", (1, 1000), {}, rules(0, 0, 10, 120), [], [10, 10, 10], 100, 0, 100),
    ("down: events allow more", (1, 1000), {}, rules(0, 0, 1000, 120), [], [10, 10, 10], 10, 5, 5),
    ("up: outdated, one policy", (1, 1000), rules(1000), {}, [8, 12, 9, 11], [], 100, 200, 200),
    ("up: not outdated", (1, 1000), rules(1000, 120, 100), {}, [8, 12, 9, 11], [], 100, 200, 200),
    ("up: outdated, two policies", (1, 1000), rules(1000, 30, 100), {}, [8, 12, 9, 11], [], 100, 200, 200),
    ("down: outdated, one policy", (1, 1000), {}, rules(1000), [], [8, 12, 9, 11], 100, 5, 5),
    ("down: not outdated", (1, 1000), {}, rules(1000, 120, 100), [], [8, 12, 9, 11], 100, 5, 5),
    ("down: outdated, two policies", (1, 1000), {}, rules(1000, 30, 100), [], [8, 12, 9, 11], 100, 5, 5),
]


def spread(changes: list[int]) -> list[tuple[int, int]]:
    """The second of each change: in the middle of its share of the last 120 s."""
    share = 120 / len(changes) if changes else 0.0
    return [(-int(120 - share * (number + 1) + share / 2), one) for number, one in enumerate(changes)]


@pytest.mark.parametrize("case", LIMITED, ids=lambda case: case[0])
def test_policies_limit_a_change(case: tuple[Any, ...]) -> None:
    _, (least, most), up, down, ups, downs, now, asked, expected = case
    behavior = {"scaleUp": up, "scaleDown": down | {"stabilizationWindowSeconds": 0}}
    policy = HpaPolicy(min_replicas=least, max_replicas=most, behavior=behavior, tolerance=0.0)
    (spec,) = lane(now)
    state = policy.begin(spec)
    for changes, remembered in ((ups, state.ups), (downs, state.downs)):
        for second, change in spread(changes):
            if remembered is not None:
                remembered.add(second, np.array([float(change)]))
    assert int(policy.decide(state, 0, Pods(spec, spec, spec), [metric(TOTAL, asked, 1)])[0]) == expected


@pytest.mark.parametrize(("up", "least_change"), [(True, 2), (False, 3)])
def test_the_smallest_change_of_several_policies(up: bool, least_change: int) -> None:
    chosen = rules(2, percent=50) | {"selectPolicy": "Min", "stabilizationWindowSeconds": 0}
    policy = HpaPolicy(min_replicas=0, behavior={"scaleUp" if up else "scaleDown": chosen}, tolerance=0.0)  # type: ignore[arg-type]
    now, asked = (1, 50) if up else (5, 0)
    assert one_decision(policy, (now, now, now), [metric(TOTAL, asked, 1)]) == least_change


# Seconds ago and recommendation; replicas wanted; stabilised. Without behavior, window 300 s.
@pytest.mark.parametrize(
    ("earlier", "asked", "expected"),
    [
        ([], 5, 5),
        ([(120, 4), (60, 5)], 3, 5),
        ([(120, 1), (60, 2)], 3, 3),
        ([(600, 10), (540, 9)], 3, 3),
        ([(600, 10), (60, 4), (120, 5), (540, 9)], 3, 5),
        ([(600, 10), (60, 4)], 2, 4),
    ],
)
def test_stabilisation_without_behavior(earlier: list[tuple[int, int]], asked: int, expected: int) -> None:
    assert stabilised(HpaPolicy(max_replicas=1000, tolerance=0.0), earlier, 100, asked) == expected


# Windows up and down; seconds ago and recommendation; replicas now, wanted; stabilised.
@pytest.mark.parametrize(
    ("windows", "earlier", "now", "asked", "expected"),
    [
        ((0, 0), [], 100, 5, 5),
        ((0, 180), [(120, 4), (60, 5)], 100, 3, 5),
        ((300, 0), [(120, 4), (60, 5)], 1, 7, 4),
        ((300, 0), [(120, 1), (60, 2)], 100, 3, 3),
        ((0, 300), [(120, 4), (60, 5)], 1, 3, 3),
        ((0, 0), [(600, 10), (540, 9)], 100, 3, 3),
        ((0, 0), [(600, 10), (540, 9)], 1, 100, 100),
        ((0, 180), [(600, 10), (60, 4), (120, 5), (540, 9)], 100, 3, 5),
        ((300, 0), [(6000, 10), (60, 6), (120, 5), (180, 9)], 1, 100, 5),
        ((300, 300), [(6000, 2), (180, 3)], 2, 1, 2),
        ((300, 300), [(6000, 2), (180, 1)], 2, 3, 2),
    ],
)
def test_stabilisation_with_behavior(
    windows: tuple[int, int], earlier: list[tuple[int, int]], now: int, asked: int, expected: int
) -> None:
    sides = {
        name: {"stabilizationWindowSeconds": seconds} | rules(100_000)
        for name, seconds in zip(("scaleUp", "scaleDown"), windows, strict=True)
    }
    policy = HpaPolicy(max_replicas=1000, behavior=sides, tolerance=0.0)  # type: ignore[arg-type]
    assert stabilised(policy, earlier, now, asked) == expected


def stabilised(policy: HpaPolicy, earlier: list[tuple[int, int]], now: int, asked: int) -> int:
    """A decision after recommendations in the past, with unknown metrics in between."""
    (spec,) = lane(now)
    state = policy.begin(spec)
    state.first = False
    past = dict(earlier)
    found = spec
    for ago in range(6000, -1, -policy.interval):
        value = float(past.get(ago, np.nan)) if ago else float(asked)
        found = policy.decide(state, -ago, Pods(spec, spec, spec), [metric(TOTAL, value, 1)])
    return int(found[0])


# Earlier changes (seconds ago, replicas); longest period; replicas in the last 60 s before a change of 5, and
# in the last 62 s after it.
@pytest.mark.parametrize(
    ("earlier", "longest", "before", "after"),
    [
        ([], 60, 0, 5),
        ([(61, 7)], 60, 0, 5),
        ([(58, 7)], 60, 7, 12),
        ([(61, 7), (59, 6)], 60, 6, 11),
        ([(29, 8), (59, 6), (61, 7), (61, 9)], 60, 14, 26),
        ([(58, 7), (59, 6)], 120, 13, 18),
    ],
)
def test_a_change_takes_the_place_of_an_outdated_one(
    earlier: list[tuple[int, int]], longest: int, before: int, after: int
) -> None:
    changes, (first,) = Changes(longest, 1, 1), lane(0)
    for ago, change in earlier:
        changes.add(-ago, np.array([float(change)]))
    assert changes.within(60, 0, first) == before
    changes.add(0, np.array([5.0]))
    assert changes.within(62, 0, first) == after
