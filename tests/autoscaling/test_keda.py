"""KEDA: from and to zero, activation, cooldown, fallback and formulas, with the autoscaler behind them."""

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from kforecast.autoscaling.keda import KedaPolicy
from kforecast.autoscaling.policy import Pods, Reading

NONE = float("nan")


def policy(**settings: Any) -> KedaPolicy:
    """A ScaledObject with one trigger of 10 a replica, whose autoscaler does not wait."""
    trigger = {"name": "qps", "kind": "value_per_pod_total", "target": 10.0}
    return KedaPolicy.model_validate(
        {"triggers": [trigger], "polling_interval": 15, "downscale_stabilization": 0} | settings
    )


def orders(keda: KedaPolicy, values: list[Any], replicas: int = 1) -> list[int]:
    """The orders of one service; a step of the values is a number, or one for each trigger by name."""
    spec = np.array([replicas])
    state, found = keda.begin(spec), []
    names = [trigger.name for trigger in keda.triggers]
    for step, given in enumerate(values):
        by_name = given if isinstance(given, dict) else dict.fromkeys(names, given)
        readings = [
            Reading(np.array([float(by_name[one.name])]), one.kind, one.target, name=one.name)
            for one in keda.triggers
        ]
        spec = keda.decide(state, 15 * step, Pods(spec, spec, spec), readings)
        found.append(int(spec[0]))
    return found


def test_from_zero_one_replica_comes_first_and_then_the_autoscaler() -> None:
    assert orders(policy(), [0, 35, 35], replicas=0) == [0, 1, 4]
    assert orders(policy(min_replicas=3), [35, 35], replicas=0) == [3, 4]


def test_the_activation_value_counts_only_at_zero() -> None:
    trigger = {"name": "qps", "kind": "value_per_pod_total", "target": 10.0, "activation": 20.0}
    keda = policy(triggers=[trigger], cooldown_period=3600)
    assert orders(keda, [20, 21], replicas=0) == [0, 1]
    assert orders(keda, [35, 12], replicas=1) == [4, 2]


def test_zero_waits_for_the_cooldown_and_begins_again_with_activity() -> None:
    keda = policy(cooldown_period=45)
    assert orders(keda, [5, 0, 0, 0, 0]) == [1, 1, 1, 0, 0]
    assert orders(keda, [5, 0, 0, 5, 0, 0, 0]) == [1, 1, 1, 1, 1, 1, 0]


def test_a_service_that_was_never_active_waits_for_its_initial_cooldown() -> None:
    assert orders(policy(), [0, 0]) == [0, 0]
    assert orders(policy(initial_cooldown_period=30), [0, 0, 0]) == [1, 1, 0]


def test_triggers_are_looked_at_once_a_polling_interval() -> None:
    assert orders(policy(polling_interval=45), [0, 35, 35, 35, 35], replicas=0) == [0, 0, 0, 1, 4]


def test_idle_replicas_below_the_minimum() -> None:
    keda = policy(min_replicas=3, idle_replicas=0, cooldown_period=15)
    assert orders(keda, [5, 0, 0, 5], replicas=3) == [3, 0, 0, 3]
    assert orders(policy(min_replicas=3, cooldown_period=15), [5, 0, 0], replicas=3) == [3, 3, 3]


def test_without_a_fallback_a_failing_trigger_changes_nothing() -> None:
    assert orders(policy(cooldown_period=0), [50, NONE, NONE, NONE]) == [4, 4, 4, 4]


@pytest.mark.parametrize(
    ("behavior", "high", "low"),
    [
        ("static", 6, 6),
        ("currentReplicas", 10, 2),
        ("currentReplicasIfHigher", 10, 6),
        ("currentReplicasIfLower", 6, 2),
    ],
)
def test_fallback_counts_failures(behavior: str, high: int, low: int) -> None:
    fallback = {"failureThreshold": 2, "replicas": 6, "behavior": behavior}
    rate = {"policies": [{"type": "Pods", "value": 50, "periodSeconds": 15}]}
    keda = policy(fallback=fallback, behavior={"scaleUp": rate})
    assert orders(keda, [100, NONE, NONE, NONE], replicas=10) == [10, 10, 10, high]
    assert orders(keda, [20, NONE, NONE, NONE], replicas=2) == [2, 2, 2, low]
    # One success in between, and the count begins again.
    assert orders(keda, [20, NONE, NONE, 20, NONE, NONE], replicas=2) == [2] * 6


def test_the_fallback_of_a_value_counts_ready_pods() -> None:
    trigger = {"name": "qps", "kind": "value", "target": 10.0}
    fallback = {"failureThreshold": 0, "replicas": 6}
    keda = policy(triggers=[trigger], fallback=fallback)
    assert orders(keda, [10, NONE], replicas=3) == [3, 6]


def test_cpu_neither_activates_nor_falls_back() -> None:
    cpu = {"name": "cpu", "kind": "utilization", "target": 50.0}
    keda = policy(triggers=[cpu], min_replicas=2, fallback={"failureThreshold": 0, "replicas": 9})
    assert orders(keda, [100, NONE, NONE], replicas=2) == [4, 4, 4]


FORECAST = [
    {"name": "forecast", "kind": "value_per_pod_total", "target": 1.0},
    {"name": "traffic", "kind": "value_per_pod_total", "target": 1.0},
]


def test_a_formula_makes_one_metric() -> None:
    modifiers = {"formula": "max(forecast, traffic)", "target": 10.0}
    keda = policy(triggers=FORECAST, modifiers=modifiers)
    assert orders(keda, [{"forecast": 30, "traffic": 12}], replicas=3) == [3]
    assert orders(keda, [{"forecast": 30, "traffic": 60}], replicas=3) == [6]
    # One of both is missing: nothing is known.
    assert orders(keda, [{"forecast": NONE, "traffic": 60}], replicas=3) == [3]


def test_nil_needs_the_fallback_of_modifiers() -> None:
    modifiers = {"formula": "forecast ?? traffic", "target": 10.0}
    fallback = {"failureThreshold": 1, "replicas": 1, "behavior": "scalingModifiers"}
    keda = policy(triggers=FORECAST, modifiers=modifiers, fallback=fallback)
    lost = {"forecast": NONE, "traffic": 60}
    assert orders(keda, [{"forecast": 30, "traffic": 1}, lost, lost], replicas=3) == [3, 3, 6]
    static = policy(triggers=FORECAST, modifiers=modifiers, fallback=fallback | {"behavior": "static"})
    assert orders(static, [lost, lost], replicas=3) == [3, 1]


def test_the_activation_of_a_formula() -> None:
    modifiers = {"formula": "forecast + traffic", "target": 10.0, "activation": 15.0}
    keda = policy(triggers=FORECAST, modifiers=modifiers)
    assert orders(keda, [7, 8], replicas=0) == [0, 1]


def test_lanes_are_independent() -> None:
    keda = policy(cooldown_period=0, fallback={"failureThreshold": 0, "replicas": 6})
    spec = np.array([0, 0, 3, 3, 3])
    values = np.array([5.0, 0.0, 0.0, np.nan, 40.0])
    found = keda.decide(
        keda.begin(spec),
        0,
        Pods(spec, spec, spec),
        [Reading(values, "value_per_pod_total", 10.0, name="qps")],
    )
    assert found.tolist() == [1, 0, 0, 6, 4]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"min_replicas": 5, "max_replicas": 3}, "max_replicas (3) is less than min_replicas (5)"),
        ({"idle_replicas": 1}, "idle_replicas"),
        ({"idle_replicas": 0}, "idle_replicas (0) must be less than min_replicas (0)"),
        ({"triggers": [*FORECAST, FORECAST[0]]}, "the name forecast appears twice"),
        ({"modifiers": {"formula": "qps +", "target": 1.0}}, "it ends too early"),
        ({"modifiers": {"formula": "qsp", "target": 1.0}}, "there is no trigger qsp; known: qps"),
        (
            {"fallback": {"failureThreshold": 3, "replicas": 1, "behavior": "scalingModifiers"}},
            "scalingModifiers needs a formula",
        ),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        policy(**wrong)
    assert said in str(caught.value)
