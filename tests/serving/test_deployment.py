"""deploy/serve/: the server's manifests fit each other, and autoscalers' objects have only known fields."""

import copy
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import yaml

from conftest import run_command
from test_deploy import DEPLOY, VERSIONS, Manifest, documents, rendered, validate

SERVE = DEPLOY / "serve"
pytestmark = pytest.mark.skipif(not DEPLOY.is_dir(), reason="not a checkout")

REQUIRED = object()
# Fields of others' objects that we use, by their documentation: KEDA 2.20, Prometheus operator 0.80.
KNOWN: dict[str, dict[str, Any]] = {
    "ScaledObject": {
        "scaleTargetRef": {"apiVersion": None, "kind": None, "name": REQUIRED},
        "minReplicaCount": None,
        "maxReplicaCount": None,
        "pollingInterval": None,
        "cooldownPeriod": None,
        "fallback": {"failureThreshold": REQUIRED, "replicas": REQUIRED, "behavior": None},
        "triggers": {
            "type": REQUIRED,
            "name": None,
            "metricType": None,
            "metadata": REQUIRED,
            "authenticationRef": {"name": REQUIRED, "kind": None},
        },
    },
    "TriggerAuthentication": {"secretTargetRef": {"parameter": REQUIRED, "name": REQUIRED, "key": REQUIRED}},
    "PodMonitor": {
        "selector": {"matchLabels": None},
        "podMetricsEndpoints": {"port": REQUIRED, "path": None, "interval": None, "authorization": None},
    },
}
# The metadata of KEDA's scalers; those of "external" beside scalerAddress are read by our server.
METADATA: dict[str, dict[str, Any]] = {
    "metrics-api": {
        **dict.fromkeys(("url", "valueLocation", "targetValue"), REQUIRED),
        **dict.fromkeys(("format", "activationTargetValue", "timeout", "authMode", "unsafeSsl")),
    },
    "prometheus": {
        **dict.fromkeys(("serverAddress", "query", "threshold", "ignoreNullValues"), REQUIRED),
        **dict.fromkeys(("activationThreshold", "timeout", "authModes")),
    },
    "external": {
        **dict.fromkeys(("scalerAddress", "workload", "metric", "target"), REQUIRED),
        **dict.fromkeys(("quantile", "window")),
    },
}


def the(file: str, kind: str | None = None) -> Manifest:
    """The only object, or the only one of a kind, in a file."""
    found = documents((SERVE / file).read_text(encoding="utf-8"))
    (manifest,) = [one for one in found if kind in (None, one.get("kind"))]
    return manifest


def check(value: Any, known: Any, where: str) -> None:
    """Refuse fields that are unknown or missing; a list is checked item by item."""
    if not isinstance(known, dict):
        return
    for item in value if isinstance(value, list) else [value]:
        if unknown := set(item) - set(known):
            raise ValueError(f"{where}: unknown {sorted(unknown)}")
        if missing := {name for name, below in known.items() if below is REQUIRED} - set(item):
            raise ValueError(f"{where}: missing {sorted(missing)}")
        for name, below in item.items():
            check(below, known[name], f"{where}.{name}")


def judge(manifest: Manifest) -> None:
    """Check an object of a kind whose schema is not at hand."""
    check(manifest, dict.fromkeys(("apiVersion", "kind", "metadata", "spec"), REQUIRED), manifest["kind"])
    check(manifest["spec"], KNOWN[manifest["kind"]], manifest["kind"])
    for trigger in manifest["spec"].get("triggers", []):
        check(trigger["metadata"], METADATA[trigger["type"]], trigger["type"])
        wrong = {name for name, value in trigger["metadata"].items() if not isinstance(value, str)}
        if wrong:
            raise ValueError(f"{trigger['type']}: not texts: {sorted(wrong)}")


SCALED = ("metrics-api", "prometheus", "external")
CUSTOM = (*(f"keda/{name}.yaml" for name in SCALED), "token/authentication.yaml", "podmonitor.yaml")


@pytest.mark.parametrize("file", CUSTOM)
def test_objects_of_others_have_known_fields(file: str) -> None:
    judge(the(file))


def test_the_judge_finds_what_is_wrong() -> None:
    good = the("keda/metrics-api.yaml")
    changes: list[tuple[Callable[[Manifest], object], str]] = [
        (lambda spec: spec.update(fallbacks=spec.pop("fallback")), "fallbacks"),
        (lambda spec: spec["fallback"].pop("replicas"), "missing .'replicas'"),
        (lambda spec: spec["triggers"][0]["metadata"].update(targetValue=100), "not texts: .'targetValue'"),
        (lambda spec: spec["triggers"][1]["metadata"].pop("ignoreNullValues"), "missing .'ignoreNullValues'"),
    ]
    for change, words in changes:
        bad = copy.deepcopy(good)
        change(bad["spec"])
        with pytest.raises(ValueError, match=words):
            judge(bad)


def query() -> dict[str, str]:
    """What the example reads from Prometheus."""
    (found,) = the("shop.yaml")["queries"]
    return dict(found)


def ports() -> dict[str, int]:
    return {port["name"]: port["port"] for port in the("service.yaml")["spec"]["ports"]}


@pytest.mark.parametrize("name", SCALED)
def test_keda_asks_this_server_for_a_known_series(name: str) -> None:
    spec = the(f"keda/{name}.yaml")["spec"]
    forecast, traffic = spec["triggers"]
    assert forecast["type"] == name
    metadata = forecast["metadata"]
    series = {key: query()[key] for key in ("workload", "metric")}
    if name == "metrics-api":
        url = urlsplit(metadata["url"])
        assert (url.hostname, url.port) == ("kforecast-serve.kforecast", ports()["http"])
        assert (url.path, dict(parse_qsl(url.query))) == ("/forecast", series)
        assert (metadata["format"], metadata["valueLocation"]) == ("json", "value")
    elif name == "prometheus":
        asked = re.fullmatch(r"max\(kforecast_forecast_max\{(.*)\}\)", metadata["query"])
        assert asked is not None
        assert dict(re.findall(r'(\w+)="([^"]*)"', asked[1])) == series | {"quantile": "0.9"}
    else:
        assert metadata["scalerAddress"] == f"kforecast-serve.kforecast:{ports()['grpc']}"
        assert {key: metadata[key] for key in series} == series

    # Beside it, a trigger on what is there now; nothing reads as 0 when it is not known.
    assert (traffic["type"], traffic["metadata"]["query"]) == ("prometheus", query()["query"])
    for trigger in spec["triggers"]:
        # KEDA's fallback knows this type only.
        assert trigger["metricType"] == "AverageValue"
        if trigger["type"] == "prometheus":
            assert trigger["metadata"]["ignoreNullValues"] == "false"
    # A static fallback would scale down at peak.
    assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"
    assert spec["minReplicaCount"] <= spec["fallback"]["replicas"] <= spec["maxReplicaCount"]


def test_the_examples_differ_in_their_first_trigger_only() -> None:
    specs = [the(f"keda/{name}.yaml")["spec"] for name in SCALED]
    for spec in specs:
        spec["triggers"].pop(0)
    assert specs[0] == specs[1] == specs[2]


def test_the_hpa_asks_the_adapter_for_the_recorded_series() -> None:
    (rule,) = yaml.safe_load(the("hpa/adapter.yaml")["data"]["config.yaml"])["externalRules"]
    external = the("hpa/hpa.yaml")["spec"]["metrics"][0]["external"]
    assert external["metric"]["name"] == rule["name"]["as"]
    recorded = [one.get("record") for one in the("alerts.yaml")["groups"][0]["rules"]]
    assert rule["name"]["matches"] in recorded
    # Kubernetes refuses other values of labels, as that of "workload" would be.
    for value in external["metric"]["selector"]["matchLabels"].values():
        assert re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?", value)
    namespace = the("hpa/hpa.yaml")["metadata"]["namespace"]
    assert f"{namespace}/{external['metric']['selector']['matchLabels']['name']}" == query()["workload"]


def pod(kind: str = "Deployment") -> Manifest:
    template: Manifest = the(f"{kind.lower()}.yaml", kind)["spec"]["template"]
    return template


def test_ports_labels_and_probes_fit_each_other() -> None:
    spec = pod()["spec"]
    (container,) = spec["containers"]
    opened = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert opened == ports()
    for argument, name in (("serve.address", "http"), ("serve.grpc", "grpc")):
        assert f"{argument}=0.0.0.0:{opened[name]}" in container["args"]
    paths = {
        kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")
    }
    assert paths == {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}
    # The server ends within five seconds of SIGTERM.
    assert spec["terminationGracePeriodSeconds"] > 5

    labels = pod()["metadata"]["labels"]
    policy = the("networkpolicy.yaml")["spec"]
    selectors = [
        the("deployment.yaml")["spec"]["selector"]["matchLabels"],
        the("service.yaml")["spec"]["selector"],
        policy["podSelector"]["matchLabels"],
        the("podmonitor.yaml")["spec"]["selector"]["matchLabels"],
    ]
    assert selectors == [labels] * 4
    allowed = {port["port"] for rule in policy["ingress"] for port in rule["ports"]}
    assert allowed == set(ports().values())
    (endpoint,) = the("podmonitor.yaml")["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in ports()
    source = urlsplit(the("shop.yaml")["url"]).port
    assert [port["port"] for port in policy["egress"][-1]["ports"]] == [source]


def test_it_reads_what_training_reads() -> None:
    assert (SERVE / "shop.yaml").read_bytes() == (DEPLOY / "prometheus" / "shop.yaml").read_bytes()
    volumes = {volume["name"]: volume for volume in pod()["spec"]["volumes"]}
    claims = documents((DEPLOY / "base" / "claim.yaml").read_text(encoding="utf-8"))
    assert volumes["models"]["persistentVolumeClaim"]["claimName"] == claims[0]["metadata"]["name"]
    retrain = documents((DEPLOY / "base" / "retrain.yaml").read_text(encoding="utf-8"))[0]
    (trained,) = retrain["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    (store,) = [word.partition("=")[2] for word in trained["args"] if word.startswith("retrain.dir=")]
    assert f"artifact_dir={store}/champion" in pod()["spec"]["containers"][0]["args"]


def test_a_shard_is_the_same_pod_with_its_number() -> None:
    plain, shard = pod(), pod("StatefulSet")
    (container,) = shard["spec"]["containers"]
    (variable,) = container.pop("env")
    assert variable["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.labels['apps.kubernetes.io/pod-index']"
    parts = the("statefulset.yaml", "StatefulSet")["spec"]["replicas"]
    container["args"].remove(f"serve.shard=$({variable['name']})/{parts}")
    assert shard == plain
    headless = the("statefulset.yaml", "Service")
    assert headless["metadata"] == the("service.yaml")["metadata"]
    assert headless["spec"]["clusterIP"] == "None"


@pytest.mark.parametrize("shards", [False, True])
def test_kustomize_makes_the_manifests(shards: bool, tmp_path: Path) -> None:
    """As they are, and with the changes that comments in kustomization.yaml name."""
    folder = tmp_path / "serve"
    shutil.copytree(SERVE, folder)
    if shards:
        file = folder / "kustomization.yaml"
        text = file.read_text(encoding="utf-8")
        text = text.replace("[deployment.yaml, service.yaml,", "[statefulset.yaml,")
        file.write_text(text.replace("# components: [token]", "components: [token]"), encoding="utf-8")
    made = {manifest["kind"]: manifest for manifest in rendered(folder)}
    kinds = {"ConfigMap", "Service", "NetworkPolicy", "StatefulSet" if shards else "Deployment"}
    assert set(made) == kinds
    assert {manifest["metadata"]["namespace"] for manifest in made.values()} == {"kforecast"}
    spec = made["StatefulSet" if shards else "Deployment"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["image"] == "registry.example.com/kforecast:latest"
    assert spec["volumes"][0]["configMap"]["name"] == made["ConfigMap"]["metadata"]["name"]
    assert {item["key"] for item in spec["volumes"][0]["configMap"]["items"]} == set(
        made["ConfigMap"]["data"]
    )
    assert ("serve.token_file=/secrets/token" in container["args"]) is shards
    if shards:
        assert spec["volumes"][-1]["secret"] == {"secretName": "kforecast-serve-token", "defaultMode": 0o440}
        assert container["volumeMounts"][-1] == {"name": "token", "mountPath": "/secrets", "readOnly": True}


@pytest.mark.slow
def test_kubernetes_accepts_what_kustomize_makes() -> None:
    for manifest in rendered(SERVE):
        for version in VERSIONS:
            validate(manifest, version)


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet"])
def test_the_command_is_ours(kind: str, tmp_path: Path) -> None:
    (container,) = pod(kind)["spec"]["containers"]
    config = tmp_path / "config" / "source" / "shop.yaml"
    config.parent.mkdir(parents=True)
    shutil.copy(SERVE / "shop.yaml", config)
    command, *arguments = [
        argument.replace("/config", str(tmp_path / "config")).replace("$(SHARD)", "2")
        for argument in [*container["command"], *container["args"], "serve.token_file=/secrets/token"]
    ]
    done = run_command(command, *arguments, "--cfg", "job", "--resolve", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    cfg = yaml.safe_load(done.stdout)
    assert cfg["artifact_dir"] == "/models/shop/champion"
    assert cfg["serve"]["address"] == "0.0.0.0:8080"
    assert cfg["serve"]["shard"] == ("2/3" if kind == "StatefulSet" else None)
    assert cfg["source"]["queries"] == [query()]
