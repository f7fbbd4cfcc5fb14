"""deploy/: manifests that a cluster accepts, with valid commands, that resume after an eviction."""

import base64
import copy
import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import kforecast.errors
from conftest import HANG, composed, run_command, started, wait_for
from kforecast.artifact import CONFIG_MAP_LIMIT, TRIO, Artifact
from kforecast.config.checks import source_of
from kforecast.metrics.kapacity import query_of
from kforecast.metrics.spec import Target
from kforecast.scaling.kubernetes import Kubernetes
from kforecast.scaling.portrait import Portrait
from kforecast.training.distributed.processes import TERMINATED

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
pytestmark = pytest.mark.skipif(not DEPLOY.is_dir(), reason="not a checkout")

OVERLAYS = ("kapacity", "prometheus")
# Files that are not for Kubernetes.
INPUTS = ("kustomization.yaml", "train-config.yaml", "shop.yaml", "alerts.yaml", "alerts_test.yaml")
# Kinds of others, which tests/serving/test_deployment.py judges.
CUSTOM = ("keda.sh/v1alpha1", "monitoring.coreos.com/v1")
# An object of Kapacity's, which no schema of Kubernetes describes.
IHPA = "ihpa.yaml"
VERSIONS = ("1.31", "1.35")

Manifest = dict[str, Any]


def validate(manifest: dict[str, Any], version: str) -> None:
    """Validate a manifest by the schemas of Kubernetes, which are large and only used in slow tests."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    try:
        kubernetes_validate.validate(manifest, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        raise ValueError(str(error)) from error


def documents(text: str) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(text) if document]


def plain_manifests() -> list[Manifest]:
    files = [path for path in sorted(DEPLOY.rglob("*.yaml")) if path.name not in (*INPUTS, IHPA)]
    found = [document for path in files for document in documents(path.read_text(encoding="utf-8"))]
    return [manifest for manifest in found if manifest["apiVersion"] not in CUSTOM]


def kustomization(folder: str) -> Manifest:
    (found,) = documents((DEPLOY / folder / "kustomization.yaml").read_text(encoding="utf-8"))
    return found


def patched(overlay: str) -> list[Manifest]:
    """The base with the patches of an overlay, as far as the tests need kustomize."""
    base = [
        document
        for file in kustomization("base")["resources"]
        for document in documents((DEPLOY / "base" / file).read_text(encoding="utf-8"))
    ]
    made = copy.deepcopy(base)
    for patch in kustomization(overlay)["patches"]:
        (target,) = [manifest for manifest in made if manifest["kind"] == patch["target"]["kind"]]
        for operation in yaml.safe_load(patch["patch"]):
            assert operation["op"] == "add"
            *parents, last = operation["path"].split("/")[1:]
            place: Any = target
            for part in parents:
                place = place[int(part) if isinstance(place, list) else part]
            if isinstance(place, list):
                place.insert(len(place) if last == "-" else int(last), operation["value"])
            else:
                place[last] = operation["value"]
    return made


def rendered(folder: Path) -> list[Manifest]:
    if shutil.which("kubectl") is None:
        pytest.skip("needs kubectl")
    done = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, timeout=HANG, check=False
    )
    assert done.returncode == 0, done.stderr
    return documents(done.stdout)


def pods(manifests: list[Manifest]) -> dict[str, Manifest]:
    """The spec of every pod, by the name of the object that creates it."""
    found = {}
    for manifest in manifests:
        spec = manifest.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        spec = spec.get("template", {}).get("spec", spec)
        if "containers" in spec:
            found[manifest["metadata"]["name"]] = spec
    return found


def jobs(manifests: list[Manifest]) -> Iterator[Manifest]:
    for manifest in manifests:
        if manifest["kind"] == "Job":
            yield manifest["spec"]
        if manifest["kind"] == "CronJob":
            yield manifest["spec"]["jobTemplate"]["spec"]


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_valid(version: str) -> None:
    kinds = [manifest["kind"] for manifest in plain_manifests()]
    training = ["CronJob", "Job", "Namespace", "NetworkPolicy", "PersistentVolumeClaim", "Pod"]
    serving = ["ConfigMap", "Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "Service", "Service"]
    assert sorted(kinds) == sorted([*training, *serving, "StatefulSet"])
    for manifest in plain_manifests():
        validate(manifest, version)
    for overlay in OVERLAYS:
        for manifest in patched(overlay):
            validate(manifest, version)


@pytest.mark.slow
def test_the_checker_of_manifests_finds_a_mistyped_key() -> None:
    (job,) = [manifest for manifest in plain_manifests() if manifest["kind"] == "Job"]
    job["spec"]["podFailurePolicies"] = job["spec"].pop("podFailurePolicy")
    with pytest.raises(ValueError, match="podFailurePolicies"):
        validate(job, VERSIONS[0])


@pytest.mark.slow
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_kustomize_makes_is_valid_and_what_we_take_it_for(overlay: str) -> None:
    made = rendered(DEPLOY / overlay)
    for manifest in made:
        validate(manifest, VERSIONS[0])
        assert manifest["kind"] == "Namespace" or manifest["metadata"]["namespace"] == "kforecast"
    ours, theirs = pods(patched(overlay)), pods(made)
    assert set(ours) == set(theirs) == {"kforecast-train", "kforecast-retrain"}
    (config,) = [manifest for manifest in made if manifest["kind"] == "ConfigMap"]
    for name, spec in theirs.items():
        assert spec["containers"][0]["args"] == ours[name]["containers"][0]["args"]
        assert spec["containers"][0]["image"] == "registry.example.com/kforecast:latest"
        assert spec["volumes"][0]["configMap"]["name"] == config["metadata"]["name"]
        keys = {item["key"] for item in spec["volumes"][0]["configMap"].get("items", [])}
        assert keys <= set(config["data"])
    selected = next(manifest for manifest in made if manifest["kind"] == "NetworkPolicy")["spec"]
    labels = [job["template"]["metadata"]["labels"] for job in jobs(made)]
    assert labels == [selected["podSelector"]["matchLabels"]] * 2


def test_pods_are_restricted() -> None:
    """The fields that the Pod Security Standard "restricted" and our image require."""
    found = pods(plain_manifests())
    assert set(found) == {*("kforecast-train", "kforecast-retrain", "kforecast-reader"), "kforecast-serve"}
    for spec in found.values():
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["securityContext"]["runAsUser"] == spec["securityContext"]["fsGroup"] == 10001
        assert spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert {next(iter(set(volume) - {"name"})) for volume in spec["volumes"]} <= {
            *("configMap", "persistentVolumeClaim", "emptyDir")
        }
        (container,) = spec["containers"]
        own = container["securityContext"]
        assert own == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]
        assert "/tmp" in [mount["mountPath"] for mount in container["volumeMounts"]]
    enforced = [manifest for manifest in plain_manifests() if manifest["kind"] == "Namespace"]
    assert enforced[0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def action(job: Manifest, code: int, disrupted: bool) -> str:
    """The action of a Job on a failed pod, by the first matching rule (as in Kubernetes)."""
    for rule in job["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes")
        if codes is not None and codes["operator"] == "In" and code in codes["values"]:
            return str(rule["action"])
        if disrupted and "DisruptionTarget" in [p["type"] for p in rule.get("onPodConditions", [])]:
            return str(rule["action"])
    return "Count"


def test_the_failure_policy_is_that_of_our_exit_codes() -> None:
    errors = vars(kforecast.errors).values()
    kinds = [kind for kind in errors if isinstance(kind, type) and issubclass(kind, Exception)]
    codes = {kind.exit_code for kind in kinds}
    assert len(kinds) > 5
    dependency = kforecast.errors.KforecastError.exit_code
    for job in jobs(plain_manifests()):
        for code in codes:
            assert action(job, code, False) == ("Count" if code == dependency else "FailJob")
        assert action(job, TERMINATED, True) == "Ignore"
        assert action(job, 137, True) == "Ignore"
        assert action(job, TERMINATED, False) == action(job, 137, False) == "Count"
        listed = [rule["onExitCodes"] for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
        assert {code for rule in listed for code in rule["values"]} == codes
        # A policy needs both; the names must match the containers.
        pod = job["template"]["spec"]
        assert pod["restartPolicy"] == "Never"
        assert {rule["containerName"] for rule in listed} == {c["name"] for c in pod["containers"]}
        # A checkpoint at SIGTERM takes up to five seconds (docs/reliability.md).
        assert pod["terminationGracePeriodSeconds"] > 5
        assert job["backoffLimit"] > 0


def laid_out(overlay: str, spec: Manifest, folder: Path) -> list[str]:
    """The command line of a pod, with its mounts in a folder: the config exists, /models is empty."""
    config = folder / "config"
    (files,) = [generator["files"] for generator in kustomization(overlay)["configMapGenerator"]]
    items = spec["volumes"][0]["configMap"].get("items", [{"key": file, "path": file} for file in files])
    for item in items:
        (config / item["path"]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(DEPLOY / overlay / item["key"], config / item["path"])
    (folder / "models").mkdir(exist_ok=True)
    (container,) = spec["containers"]
    return [
        argument.replace("/config", str(config)).replace("/models", str(folder / "models"))
        for argument in [*container["command"], *container["args"]]
    ]


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("name", ["kforecast-train", "kforecast-retrain"])
def test_the_commands_are_ours(overlay: str, name: str, tmp_path: Path) -> None:
    verb = name.removeprefix("kforecast-")
    command, *arguments = laid_out(overlay, pods(patched(overlay))[name], tmp_path)
    assert command == name
    done = run_command(command, *arguments, "--cfg", "job", "--resolve", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    cfg = yaml.safe_load(done.stdout)
    models = str(tmp_path / "models")
    if verb == "train":
        assert cfg["artifact_dir"] == f"{models}/trained"
        assert cfg["resume"] == "auto"
    else:
        assert cfg["retrain"]["dir"] == f"{models}/shop"
    assert cfg["window"]["freq"] == "10min"
    source = cfg["source"]
    assert source["_target_"].endswith(
        {"kapacity": "KapacitySource", "prometheus": "PrometheusSource"}[overlay]
    )
    asked = source["address" if overlay == "kapacity" else "url"].rsplit(":", 1)[1]
    (policy,) = [manifest for manifest in patched(overlay) if manifest["kind"] == "NetworkPolicy"]
    *_, rule = policy["spec"]["egress"]
    assert [str(port["port"]) for port in rule["ports"]] == [asked]


@pytest.mark.slow
def test_a_pod_that_is_evicted_and_started_again_goes_on(tmp_path: Path) -> None:
    (spec,) = [spec for name, spec in pods(patched("kapacity")).items() if name == "kforecast-train"]
    command, *arguments = laid_out("kapacity", spec, tmp_path)
    own = [argument for argument in arguments if not argument.startswith("--")]
    # The source in the cluster is not available here.
    own += ["source=synthetic", "source.workloads=2", "source.days=10", "source.step=600", "logger=none"]
    own += ["callbacks.forecast_figures=null", "refit=false", "trainer.max_epochs=25"]
    own += ["callbacks.early_stopping.patience=25", "monitor=train/loss"]
    own += ["data.validation=0", "data.test=0"]
    pod = started(command, *own, cwd=tmp_path / "models")
    run = tmp_path / "models" / "runs" / "train"
    wait_for("Epoch: 2,", run / "train.log", pod)
    pod.send_signal(signal.SIGTERM)
    pod.communicate(timeout=HANG)
    assert pod.returncode == TERMINATED
    assert json.loads((run / "result.json").read_text())["status"] == "interrupted"
    assert Artifact.load(tmp_path / "models" / "trained")

    again = run_command(command, *own, cwd=tmp_path / "models")
    assert again.returncode == 0, again.stderr
    assert "INFO: Going on in epoch " in again.stdout
    assert "INFO: Epoch: 1 cost time" not in again.stdout
    result = json.loads((run / "result.json").read_text())
    assert (result["status"], result["epochs"]) == ("done", 25)
    assert Artifact.load(tmp_path / "models" / "trained").metadata["scores"]["epochs"] == 25


@pytest.mark.slow
def test_an_artifact_as_a_config_map(tmp_path: Path) -> None:
    shutil.copytree(DEPLOY / "artifact", tmp_path / "artifact")
    trio = ROOT / "tests" / "golden" / "trio_1min" / "model"
    shutil.copytree(trio, tmp_path / "artifact" / "model")
    (manifest,) = rendered(tmp_path / "artifact")
    validate(manifest, VERSIONS[0])
    data = {name: text.encode() for name, text in manifest["data"].items()}
    data |= {name: base64.b64decode(text) for name, text in manifest["binaryData"].items()}
    assert data == {name: (trio / name).read_bytes() for name in TRIO}
    assert sum(map(len, data.values())) <= CONFIG_MAP_LIMIT


def predictive() -> Manifest:
    """The predictive provider of the autoscaler in deploy/kapacity/."""
    (ihpa,) = documents((DEPLOY / "kapacity" / IHPA).read_text(encoding="utf-8"))
    (provider,) = [one for one in ihpa["spec"]["portraitProviders"] if one["type"] == "Dynamic"]
    found: Manifest = provider["dynamic"] | {"scaleTargetRef": ihpa["spec"]["scaleTargetRef"]}
    return found


def cron_job() -> Manifest:
    """The CronJob that Kapacity's controller makes of it."""
    algorithm = predictive()["algorithm"]
    assert algorithm["type"] == "ExternalJob"
    assert algorithm["externalJob"]["resultSource"] == {"type": "ConfigMap"}
    job = algorithm["externalJob"]["job"]
    assert job["type"] == "CronJob"
    kind = {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "shop-web-predictive"}}
    return kind | job["cronJob"]["template"]


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_kapacity_makes_a_valid_cron_job(version: str) -> None:
    validate(cron_job(), version)


def test_kapacitys_job_is_ours(tmp_path: Path) -> None:
    """The container that Kapacity's controller knows by its name runs kforecast-scale (contract 7)."""
    spec = cron_job()["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert (container["name"], container["command"]) == ("algorithm", ["kforecast-scale"])
    assert spec.get("automountServiceAccountToken", True)
    (mount,) = [one["mountPath"] for one in container["volumeMounts"] if one["name"] == "model"]
    environment = {
        "METRICS_SERVER_ADDR": "provider:9090",
        "HP_NAMESPACE": "shop",
        "HP_NAME": "web-predictive",
    }
    given = [*container["args"], "--cfg", "job", "--resolve"]
    done = run_command("kforecast-scale", *given, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    cfg = yaml.safe_load(done.stdout)
    assert (cfg["artifact_dir"], cfg["scale"]["freq"], cfg["scale"]["kubeconfig"]) == (mount, "10min", None)
    assert (cfg["source"]["address"], cfg["scale"]["namespace"]) == ("provider:9090", "shop")


def test_kapacitys_metrics_are_those_of_the_job_and_of_training() -> None:
    found = predictive()
    manifest = {"metadata": {"uid": "a"}, "spec": {key: found[key] for key in ("scaleTargetRef", "metrics")}}

    class Api(Kubernetes):
        def __init__(self) -> None: ...

        def get(self, path: str, **query: str) -> Manifest:
            return manifest

    portrait = Portrait.read(Api(), "shop", "web-predictive")
    assert portrait.target(Api()) > 0
    file = DEPLOY / "kapacity" / "train-config.yaml"
    cfg = composed(f"--config-file={file}", "--metrics-server-addr=localhost:9090")
    (trained,) = source_of(cfg).targets
    asked = portrait.asked(portrait.metrics[2:], trained.historyLength)

    def series(target: Target) -> list[Any]:
        return [(target.workload, one.series_name, query_of(target, one)) for one in target.metrics]

    assert series(asked) == series(trained)


def test_the_image_runs_as_the_manifests_say() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    (user,) = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert user == "10001:10001"
    # Only files that .dockerignore names get into the image.
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        word
        for line in lines
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    }
    assert copied == kept
    assert all((ROOT / name).exists() for name in copied)


def test_what_is_to_be_edited_is_right_as_it_is() -> None:
    """The source checks its targets and queries when it is created."""
    file = DEPLOY / "kapacity" / "train-config.yaml"
    cfg = composed(f"--config-file={file}", "--metrics-server-addr=localhost:9090")
    assert len(source_of(cfg).targets) == 1
