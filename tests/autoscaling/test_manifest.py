"""Policies from the YAML of a cluster: what is read, what is left aside, and what is refused by name."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from kforecast.autoscaling.hpa import HpaPolicy
from kforecast.autoscaling.kapacity import KapacityPolicy
from kforecast.autoscaling.keda import KedaPolicy
from kforecast.autoscaling.quantity import quantity
from kforecast.config.checks import CONF_DIR, built
from kforecast.errors import ConfigError

ROOT = Path(__file__).parents[2]
POLICIES: dict[str, Any] = {"hpa": HpaPolicy, "keda": KedaPolicy, "kapacity": KapacityPolicy}
TARGET = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
DYNAMIC = {
    "portraitType": "Reactive",
    "metrics": [
        {
            "type": "Resource",
            "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}},
        }
    ],
    "algorithm": {"type": "KubeHPA", "kubeHPA": {"syncPeriod": "1m30s", "tolerance": "0.2"}},
}
WHOLE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "hpa": (
        "autoscaling/v2",
        "HorizontalPodAutoscaler",
        {
            "scaleTargetRef": TARGET,
            "minReplicas": 2,
            "maxReplicas": 30,
            "metrics": [
                {
                    "type": "External",
                    "external": {
                        "metric": {"name": "qps", "selector": {"matchLabels": {"app": "web"}}},
                        "target": {"type": "AverageValue", "averageValue": "2k"},
                    },
                },
                {
                    "type": "Object",
                    "object": {
                        "metric": {"name": "queue"},
                        "describedObject": {"kind": "Ingress", "name": "web"},
                        "target": {"type": "Value", "value": "1500m"},
                    },
                },
                {
                    "type": "ContainerResource",
                    "containerResource": {
                        "name": "memory",
                        "container": "app",
                        "target": {"type": "AverageValue", "averageValue": "1Gi"},
                    },
                },
            ],
            "behavior": {
                "scaleDown": {
                    "stabilizationWindowSeconds": 120,
                    "selectPolicy": "Min",
                    "tolerance": "50m",
                    "policies": [{"type": "Percent", "value": 10, "periodSeconds": 60}],
                }
            },
        },
    ),
    "keda": (
        "keda.sh/v1alpha1",
        "ScaledObject",
        {
            "scaleTargetRef": {"name": "web"},
            "pollingInterval": 20,
            "cooldownPeriod": 60,
            "minReplicaCount": 1,
            "maxReplicaCount": 40,
            "idleReplicaCount": 0,
            "fallback": {"failureThreshold": 3, "replicas": 5, "behavior": "scalingModifiers"},
            "advanced": {
                "restoreToOriginalReplicaCount": True,
                "horizontalPodAutoscalerConfig": {
                    "behavior": {"scaleUp": {"stabilizationWindowSeconds": 30}}
                },
                "scalingModifiers": {
                    "formula": "forecast ?? traffic",
                    "target": "5",
                    "activationTarget": "2",
                },
            },
            "triggers": [
                {
                    "type": "metrics-api",
                    "name": "forecast",
                    "metadata": {"url": "http://server", "targetValue": "10", "activationTargetValue": "3"},
                    "authenticationRef": {"name": "token"},
                },
                {
                    "type": "prometheus",
                    "name": "traffic",
                    "metricType": "Value",
                    "metadata": {"threshold": "7.5"},
                },
                {"type": "cpu", "metricType": "Utilization", "metadata": {"value": "80"}},
            ],
        },
    ),
    "kapacity": (
        "autoscaling.kapacitystack.io/v1alpha1",
        "IntelligentHorizontalPodAutoscaler",
        {
            "scaleTargetRef": TARGET,
            "minReplicas": 1,
            "maxReplicas": 20,
            "portraitProviders": [
                {"type": "Static", "priority": 0, "static": {"replicas": 3}},
                {"type": "Dynamic", "priority": 1, "dynamic": DYNAMIC},
            ],
            "behavior": {
                "scaleDown": {
                    "grayStrategy": {"grayState": "Deleted", "changeIntervalSeconds": 60, "changePercent": 50}
                }
            },
        },
    ),
}


def manifest(option: str, **changes: Any) -> dict[str, Any]:
    version, kind, spec = WHOLE[option]
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": spec | changes,
    }


def written(path: Path, *documents: Any) -> str:
    file = path / "policy.yaml"
    file.write_text(yaml.safe_dump_all(documents), encoding="utf-8")
    return str(file)


def test_an_hpa(tmp_path: Path) -> None:
    found = HpaPolicy(manifest=written(tmp_path, manifest("hpa")))
    assert (found.min_replicas, found.max_replicas) == (2, 30)
    assert [(one.name, one.kind, one.target) for one in found.metrics] == [
        ("qps", "value_per_pod_total", 2000.0),
        ("queue", "value", 1.5),
        ("memory", "value_per_pod", 2.0**30),
    ]
    assert found.behavior is not None
    assert found.behavior.scaleDown is not None
    assert found.behavior.scaleUp is None
    assert (found.behavior.scaleDown.tolerance, found.behavior.scaleDown.selectPolicy) == (0.05, "Min")


def test_an_hpa_without_metrics_scales_on_the_cpu(tmp_path: Path) -> None:
    document = manifest("hpa")
    del document["spec"]["metrics"], document["spec"]["behavior"], document["spec"]["minReplicas"]
    found = HpaPolicy(manifest=written(tmp_path, document))
    assert [(one.name, one.kind, one.target) for one in found.metrics] == [("cpu", "utilization", 80.0)]
    assert (found.min_replicas, found.behavior) == (1, None)


def test_a_scaled_object(tmp_path: Path) -> None:
    found = KedaPolicy(manifest=written(tmp_path, manifest("keda")))
    assert (found.min_replicas, found.max_replicas, found.idle_replicas) == (1, 40, 0)
    assert (found.polling_interval, found.cooldown_period) == (20, 60)
    assert [(one.name, one.kind, one.target, one.activation) for one in found.triggers] == [
        ("forecast", "value_per_pod_total", 10.0, 3.0),
        ("traffic", "value", 7.5, 0.0),
        ("s2-cpu", "utilization", 80.0, 0.0),
    ]
    assert found.modifiers is not None
    assert (found.modifiers.formula, found.modifiers.target, found.modifiers.activation) == (
        "forecast ?? traffic",
        5.0,
        2.0,
    )
    assert found.fallback is not None
    assert (found.fallback.replicas, found.fallback.behavior) == (5, "scalingModifiers")
    assert found.behavior is not None


def test_an_ihpa(tmp_path: Path) -> None:
    found = KapacityPolicy(manifest=written(tmp_path, manifest("kapacity")))
    assert (found.min_replicas, found.max_replicas, found.interval, found.tolerance) == (1, 20, 90, 0.2)
    assert [(one.type, one.priority, one.replicas) for one in found.portraits] == [
        ("Static", 0, 3),
        ("Reactive", 1, None),
    ]
    assert found.scale_up is None
    assert found.scale_down is not None
    assert found.scale_down.changePercent == 50


def test_a_horizontal_portrait_has_no_limits(tmp_path: Path) -> None:
    portrait = manifest("kapacity") | {
        "kind": "HorizontalPortrait",
        "spec": {"scaleTargetRef": TARGET, **DYNAMIC},
    }
    found = KapacityPolicy(manifest=written(tmp_path, portrait), max_replicas=7)
    assert (found.max_replicas, found.interval, [one.type for one in found.portraits]) == (
        7,
        90,
        ["Reactive"],
    )
    # Beside an IHPA, which makes its portraits itself, it does not count.
    both = KapacityPolicy(manifest=written(tmp_path, portrait, manifest("kapacity")))
    assert len(both.portraits) == 2


@pytest.mark.skipif(not (ROOT / "deploy").is_dir(), reason="not a checkout")
@pytest.mark.parametrize(
    ("option", "file"),
    [
        ("hpa", "serve/hpa/hpa.yaml"),
        ("keda", "serve/keda/metrics-api.yaml"),
        ("keda", "serve/keda/prometheus.yaml"),
        ("keda", "serve/keda/external.yaml"),
        ("kapacity", "kapacity/ihpa.yaml"),
    ],
)
def test_our_own_examples(option: str, file: str) -> None:
    assert POLICIES[option](manifest=str(ROOT / "deploy" / file)).min_replicas == 2


def test_keys_that_are_given_count_in_its_place(tmp_path: Path) -> None:
    found = HpaPolicy(manifest=written(tmp_path, manifest("hpa")), max_replicas=9, interval=30)
    assert (found.min_replicas, found.max_replicas, found.interval) == (2, 9, 30)


def test_the_one_that_fits_is_taken_from_several_documents(tmp_path: Path) -> None:
    documents = [{"kind": "Service", "apiVersion": "v1"}, manifest("keda"), None, manifest("hpa")]
    file = written(tmp_path, *documents)
    assert HpaPolicy(manifest=file).max_replicas == 30
    assert KedaPolicy(manifest=file).max_replicas == 40
    listed = written(tmp_path, {"kind": "List", "apiVersion": "v1", "items": documents})
    assert HpaPolicy(manifest=listed).max_replicas == 30


def refused(option: str, file: str) -> str:
    with pytest.raises(ConfigError) as caught:
        POLICIES[option](manifest=file)
    return str(caught.value).replace(file, "FILE")


def test_several_that_fit_are_refused(tmp_path: Path) -> None:
    other = manifest("hpa")
    other["metadata"] = {"name": "cart"}
    said = refused("hpa", written(tmp_path, manifest("hpa"), other))
    assert said == "manifest FILE: 2 objects are a HorizontalPodAutoscaler (shop/web, cart); keep one"


def test_another_kind_is_named_with_its_policy(tmp_path: Path) -> None:
    said = refused("hpa", written(tmp_path, manifest("keda")))
    assert said == (
        "manifest FILE: no HorizontalPodAutoscaler is in it, but a ScaledObject; read it with policy=keda"
    )
    said = refused("keda", written(tmp_path, {"kind": "Service"}))
    assert said == "manifest FILE: no ScaledObject is in it (but: Service)"


def external(target: dict[str, Any]) -> dict[str, Any]:
    return {"type": "External", "external": {"metric": {"name": "qps"}, "target": target}}


CUTOFF = {"grayState": "Cutoff", "changeIntervalSeconds": 1, "changePercent": 1}
BY_JOB = DYNAMIC | {"algorithm": {"type": "ExternalJob"}}
PLACE = "manifest FILE, HorizontalPodAutoscaler shop/web"


@pytest.mark.parametrize(
    ("option", "changes", "said"),
    [
        ("hpa", {"maxReplicaz": 3}, "spec: maxReplicaz: unknown key; did you mean maxReplicas?"),
        ("hpa", {"maxReplicas": "3"}, "spec: maxReplicas: '3' is wrong"),
        ("hpa", {"behavior": {"scaleDown": {"window": 3}}}, "spec: behavior.scaleDown.window: unknown key"),
        (
            "hpa",
            {"metrics": [external({"type": "Utilization", "averageUtilization": 3})]},
            "external.target.type: Utilization does not fit External; it is AverageValue or Value",
        ),
        (
            "hpa",
            {"metrics": [external({"type": "AverageValue", "averageValue": "much"})]},
            "'much' is not a quantity like 500m",
        ),
        (
            "hpa",
            {"metrics": [external({"type": "Value", "averageValue": "1"})]},
            "type Value needs value, and nothing else",
        ),
        (
            "keda",
            {"triggers": [{"type": "cron", "metadata": {}}]},
            "triggers[0]: type: cron is not simulated; known: metrics-api, prometheus",
        ),
        (
            "keda",
            {"triggers": [{"type": "prometheus", "metadata": {"query": "up"}}]},
            "triggers[0]: metadata.threshold: missing",
        ),
        (
            "keda",
            {"triggers": [{"type": "prometheus", "useCachedMetrics": True, "metadata": {"threshold": "1"}}]},
            "triggers[0].useCachedMetrics",
        ),
        ("keda", {"idleReplicaCount": 1}, "idleReplicaCount: 1 is wrong"),
        ("kapacity", {"scaleMode": "Preview"}, "scaleMode: 'Preview' is wrong"),
        ("kapacity", {"stabilityCheckers": []}, "stabilityCheckers: unknown key"),
        (
            "kapacity",
            {"portraitProviders": [{"type": "Cron", "priority": 1}]},
            "portraitProviders[0]: type: Cron is not simulated",
        ),
        (
            "kapacity",
            {"behavior": {"scaleDown": {"grayStrategy": CUTOFF}}},
            "behavior.scaleDown.grayStrategy.grayState: 'Cutoff' is wrong",
        ),
        (
            "kapacity",
            {"portraitProviders": [{"type": "Dynamic", "priority": 1, "dynamic": BY_JOB}]},
            "algorithm.type: ExternalJob for a Reactive portrait is not simulated; KubeHPA is",
        ),
    ],
)
def test_fields_that_are_wrong_or_not_simulated(
    tmp_path: Path, option: str, changes: dict[str, Any], said: str
) -> None:
    found = refused(option, written(tmp_path, manifest(option, **changes)))
    assert found.startswith(f"manifest FILE, {WHOLE[option][1]} shop/web: spec")
    assert said in found


def test_all_problems_are_said_at_once(tmp_path: Path) -> None:
    said = refused(
        "hpa", written(tmp_path, manifest("hpa", maxReplicas=0, minReplica=1, metrics=[{"type": "Pod"}]))
    )
    assert said.startswith(f"{PLACE}: spec has 3 problems:")
    assert all(f"\n  {key}" in said for key in ("maxReplicas", "minReplica:", "metrics[0].type"))


def test_other_objects_and_files_are_refused(tmp_path: Path) -> None:
    old = manifest("hpa") | {"apiVersion": "autoscaling/v1"}
    assert refused("hpa", written(tmp_path, old)) == (
        f"{PLACE}: apiVersion: 'autoscaling/v1' is not read; autoscaling/v2 is"
    )
    assert refused("hpa", written(tmp_path, manifest("hpa") | {"sepc": {}})) == f"{PLACE}: sepc: unknown key"
    paused = manifest("keda")
    paused["metadata"] = {"annotations": {"autoscaling.keda.sh/paused": "true"}}
    assert "paused object does not scale" in refused("keda", written(tmp_path, paused))
    assert refused("hpa", str(tmp_path / "none.yaml")) == "manifest FILE: No such file or directory"
    assert refused("hpa", str(tmp_path)) == "manifest FILE: Is a directory"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: A\n---\nkind: [", "line 3: "),
        ("a: 1\na: 2\n", "'a' appears twice"),
        ("!!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("[" * 100, "nested more than 64 levels deep"),
        ("", "no HorizontalPodAutoscaler is in it"),
        ("- just\n- a list\n", "no HorizontalPodAutoscaler is in it"),
        ("just text", "no HorizontalPodAutoscaler is in it, nor any other object of Kubernetes"),
        ("kind: HorizontalPodAutoscaler\n", "apiVersion: 'None' is not read"),
        (
            "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\n"
            "metadata: {annotations: 5}\nspec: {}\n",
            "maxReplicas: missing",
        ),
    ],
)
def test_text_that_is_no_manifest(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(text, encoding="utf-8")
    assert said in refused("hpa", str(file))


@pytest.mark.parametrize("option", POLICIES)
def test_the_options_of_the_configuration(tmp_path: Path, option: str) -> None:
    node: Any = OmegaConf.load(CONF_DIR / "policy" / f"{option}.yaml")
    assert {key for key in node if not key.startswith("_")} == {*POLICIES[option].model_fields}
    assert built(node, "policy") == POLICIES[option]()
    node.manifest = written(tmp_path, manifest(option))
    assert built(node, "policy").max_replicas == WHOLE[option][2].get("maxReplicas", 40)
    node.manifest = None
    if option == "keda":
        node.triggers = [{"name": "qps", "kind": "value", "target": 3}]
        node.fallback = {"failureThreshold": 3, "replicas": 2}
    if option != "kapacity":
        node.behavior = {"scaleUp": {"policies": [{"type": "Pods", "value": 2, "periodSeconds": 60}]}}
    assert built(node, "policy") != POLICIES[option]() or option == "kapacity"
    node.max_replicas = 0
    with pytest.raises(ConfigError, match=r"policy\.max_replicas: 0 is wrong"):
        built(node, "policy")


@pytest.mark.parametrize(
    ("text", "number"),
    [("500m", 0.5), ("2k", 2000.0), ("1.5Gi", 1.5 * 2**30), (3, 3.0), ("1e3", 1000.0), ("-2", -2.0)],
)
def test_quantities(text: object, number: float) -> None:
    assert quantity(text) == number
