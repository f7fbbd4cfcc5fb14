"""Targets of a train-config.yaml: both generations, every type of metric, and the errors for mistakes."""

import pytest
import yaml

from kforecast.config.legacy_cli import read_train_config
from kforecast.errors import ConfigError
from kforecast.metrics.spec import MetricSpec, Target, api_group
from kforecast.validation import validate

REF = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "nginx"}
IDENTIFIER = {
    "name": "requests",
    "selector": {
        "matchLabels": {"app": "nginx"},
        "matchExpressions": [
            {"key": "code", "operator": "In", "values": ["200", "204"]},
            {"key": "canary", "operator": "DoesNotExist"},
        ],
    },
}
INGRESS = {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "nginx-server"}
OBJECT = {"type": "Object", "object": {"metric": {"name": "requests"}, "describedObject": INGRESS}}
METRICS = {
    "Object": OBJECT,
    "External": {"type": "External", "external": {"metric": IDENTIFIER}},
    "Pods": {"type": "Pods", "pods": {"metric": IDENTIFIER}},
    "Resource": {"type": "Resource", "resource": {"name": "cpu"}},
    "ContainerResource": {
        "type": "ContainerResource",
        "containerResource": {"name": "memory", "container": "main"},
    },
}
BLOCKS = {
    "Object": "object",
    "External": "external",
    "Pods": "pods",
    "Resource": "resource",
    "ContainerResource": "containerResource",
}
SERIES_NAMES = {
    "Object": "requests",
    "External": "requests",
    "Pods": "requests",
    "Resource": "cpu",
    "ContainerResource": "memory",
}


def _target(*metrics, **changes):
    target = {"workloadNamespace": "shop", "workloadRef": REF, "historyLength": "48H"} | changes
    return {key: value for key, value in target.items() if value is not None} | {"metrics": list(metrics)}


def _read(tmp_path, *targets):
    """The targets, written to YAML and read back."""
    path = tmp_path / "train-config.yaml"
    content = {"targets": list(targets), "freq": "10min", "predictionLength": 3, "contextLength": 7}
    path.write_text(yaml.safe_dump(content))
    return read_train_config(path).targets


def _refusal(tmp_path, *targets):
    with pytest.raises(ConfigError) as caught:
        _read(tmp_path, *targets)
    return str(caught.value)


def test_generation_one_names_the_workload(tmp_path):
    (target,) = _read(tmp_path, _target(OBJECT, workloadRef=None, workloadName="nginx"))
    assert target.workload == "shop/nginx"
    assert target.workloadRef is None
    assert target.metrics[0].series_name == "requests"


def test_generation_two_refers_to_the_workload(tmp_path):
    (target,) = _read(tmp_path, _target(OBJECT | {"name": "qps"}))
    assert target.workload == "shop/nginx"
    assert target.metrics[0].series_name == "qps"


def test_the_reference_goes_before_the_name(tmp_path):
    (target,) = _read(tmp_path, _target(OBJECT, workloadName="other"))
    assert target.workload == "shop/nginx"


@pytest.mark.parametrize("kind", METRICS)
def test_every_type_of_metric_is_valid(kind, tmp_path):
    (target,) = _read(tmp_path, _target(METRICS[kind]))
    assert target.metrics[0].type == kind
    assert target.metrics[0].series_name == SERIES_NAMES[kind]
    (target,) = _read(tmp_path, _target(METRICS[kind] | {"name": "mine"}))
    assert target.metrics[0].series_name == "mine"


@pytest.mark.parametrize("kind", METRICS)
def test_an_autoscalers_target_is_ignored(kind, tmp_path):
    block = METRICS[kind][BLOCKS[kind]] | {"target": {"type": "Value", "value": "10", "any": ["thing"]}}
    (target,) = _read(tmp_path, _target(METRICS[kind] | {BLOCKS[kind]: block}))
    assert target.metrics[0].series_name == SERIES_NAMES[kind]


@pytest.mark.parametrize("kind", METRICS)
def test_a_type_without_its_block_is_refused(kind, tmp_path):
    message = _refusal(tmp_path, _target({"type": kind, "name": "qps"}))
    assert f"targets[0].metrics[0]: type {kind} needs the block {BLOCKS[kind]!r}" in message


@pytest.mark.parametrize("kind", ["Pods", "Resource", "ContainerResource"])
def test_what_goes_by_group_and_kind_needs_the_reference(kind, tmp_path):
    message = _refusal(tmp_path, _target(OBJECT, METRICS[kind], workloadRef=None, workloadName="nginx"))
    assert "targets[0]" in message
    assert f"metrics[1] of type {kind} needs workloadRef" in message


@pytest.mark.parametrize("kind", ["Object", "External"])
def test_what_does_not_is_content_with_a_name(kind, tmp_path):
    (target,) = _read(tmp_path, _target(METRICS[kind], workloadRef=None, workloadName="nginx"))
    assert target.workload == "shop/nginx"


MISTAKES = {
    "unknown type": (_target(OBJECT | {"type": "Pod"}), ["targets[0].metrics[0].type", "'Pod'", "'Pods'"]),
    "no type": (_target({"object": OBJECT["object"]}), ["targets[0].metrics[0].type: missing"]),
    "no metrics": (_target(), ["targets[0].metrics"]),
    "no workload": (_target(OBJECT, workloadRef=None), ["targets[0]", "workloadRef", "workloadName"]),
    "no namespace": (_target(OBJECT, workloadNamespace=None), ["targets[0].workloadNamespace: missing"]),
    "empty namespace": (_target(OBJECT, workloadNamespace=""), ["targets[0].workloadNamespace", "''"]),
    "empty name": (_target(OBJECT | {"name": ""}), ["targets[0].metrics[0].name"]),
    "no history": (_target(OBJECT, historyLength=None), ["targets[0].historyLength: missing"]),
    "history of weeks": (
        _target(OBJECT, historyLength="2W"),
        ["targets[0].historyLength", "'2W' is not a duration", "48H"],
    ),
    "history as a number": (_target(OBJECT, historyLength=48), ["targets[0].historyLength", "48"]),
    "typo": (_target(OBJECT, workloadNamspace="x"), ["workloadNamspace: unknown key", "workloadNamespace?"]),
    "typo in a block": (
        _target({"type": "External", "external": {"metrc": IDENTIFIER}}),
        ["targets[0].metrics[0].external.metrc: unknown key; did you mean metric?", "metric: missing"],
    ),
    "a far unknown key": (_target(OBJECT | {"zzz": 1}), ["metrics[0].zzz: unknown key", "known: name, type"]),
    "no described object": (
        _target({"type": "Object", "object": {"metric": IDENTIFIER}}),
        ["targets[0].metrics[0].object.describedObject: missing"],
    ),
    "no container": (
        _target({"type": "ContainerResource", "containerResource": {"name": "cpu"}}),
        ["targets[0].metrics[0].containerResource.container: missing"],
    ),
    "metric is text": (
        _target({"type": "Pods", "pods": {"metric": "requests"}}),
        ["targets[0].metrics[0].pods.metric: 'requests' is not a mapping"],
    ),
    "reference without kind": (
        _target(OBJECT, workloadRef={"apiVersion": "v1", "name": "x"}),
        ["targets[0].workloadRef.kind: missing"],
    ),
}


@pytest.mark.parametrize("target, words", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named_with_its_path(target, words, tmp_path):
    message = _refusal(tmp_path, target)
    assert "train-config.yaml" in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    "expression, words",
    [
        ({"key": "a", "operator": "Is", "values": ["x"]}, ["matchExpressions[0].operator", "'Is'"]),
        ({"key": "a", "operator": "In"}, ["matchExpressions[0]", "operator In needs values"]),
        ({"key": "a", "operator": "NotIn", "values": []}, ["operator NotIn needs values"]),
        ({"key": "a", "operator": "Exists", "values": ["x"]}, ["operator Exists takes no values"]),
        ({"operator": "Exists"}, ["matchExpressions[0].key: missing"]),
    ],
)
def test_a_selector_follows_the_rules_of_kubernetes(expression, words, tmp_path):
    metric = {"name": "requests", "selector": {"matchExpressions": [expression]}}
    message = _refusal(tmp_path, _target({"type": "External", "external": {"metric": metric}}))
    for word in words:
        assert word in message


def test_every_problem_is_told_at_once(tmp_path):
    message = _refusal(
        tmp_path, _target(OBJECT, historyLength="soon"), _target({"type": "Resource"}, workloadNamespace="")
    )
    assert "has 3 problems:" in message
    for place in ("targets[0].historyLength", "targets[1].workloadNamespace", "targets[1].metrics[0]"):
        assert f"\n  {place}" in message


def test_metrics_of_one_workload_need_different_names(tmp_path):
    message = _refusal(tmp_path, _target(OBJECT, METRICS["External"]))
    assert (
        "targets[0].metrics[0] and targets[0].metrics[1] have the same series key 'shop/nginxrequests'"
        in message
    )
    first, second = _read(tmp_path, _target(OBJECT, METRICS["External"] | {"name": "ext"}))[0].metrics
    assert (first.series_name, second.series_name) == ("requests", "ext")


def test_series_that_only_differ_in_where_the_names_meet_collide(tmp_path):
    one = _target(OBJECT | {"name": "c"}, workloadRef=REF | {"name": "ab"})
    two = _target(OBJECT | {"name": "bc"}, workloadRef=REF | {"name": "a"})
    message = _refusal(tmp_path, one, two)
    assert "targets[0].metrics[0] and targets[1].metrics[0]" in message
    assert "'shop/abc'" in message


def test_the_same_metric_of_two_workloads_does_not_collide(tmp_path):
    assert len(_read(tmp_path, _target(OBJECT), _target(OBJECT, workloadNamespace="other"))) == 2


@pytest.mark.parametrize(
    "version, group",
    [
        ("v1", ""),
        ("apps/v1", "apps"),
        ("networking.k8s.io/v1", "networking.k8s.io"),
        ("batch/v1beta1", "batch"),
    ],
)
def test_the_group_is_what_stands_before_the_slash(version, group):
    assert api_group(version) == group


def test_defaults_of_what_may_be_absent():
    metric = validate(MetricSpec, METRICS["Pods"] | {"pods": {"metric": {"name": "m"}}}, "a metric")
    assert metric.name is None
    assert metric.pods.metric.selector is None
    described = {"kind": "Ingress", "name": "x"}
    block = {"metric": {"name": "m"}, "describedObject": described}
    metric = validate(MetricSpec, {"type": "Object", "object": block}, "a metric")
    assert metric.object.describedObject.apiVersion == ""


def test_a_target_cannot_be_changed_later():
    target = validate(Target, _target(OBJECT), "a target")
    with pytest.raises(ValueError, match="frozen"):
        target.workloadNamespace = "other"
