"""``kforecast-scale`` in the place of Kapacity's job: its questions, its result, its failures."""

import copy
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from api_server import CONFIG_MAPS, PORTRAIT, RESULT, TOKEN, ApiServer, portrait
from provider import Provider, moments

from conftest import HANG, composed, free_port, run_command, serving
from kforecast.artifact import Artifact, EstimatorConfig
from kforecast.config.legacy_cli import JOB_FLAGS
from kforecast.intervals import LEVELS, Intervals
from kforecast.metrics.proto import provider_pb2 as pb
from kforecast.models import Fcnet

STEP, CONTEXT = 600, 6
# The forecast is the mean of the context times these.
RISE = (1.0, 2.0, 0.5)
ARGUMENTS = [
    *("--tsf-model-path=model", "--tsf-dataloader-num-workers=0", "--re-history-len=3D"),
    *("--re-time-delta-hours", "8", "--re-test-dataset-size-in-seconds=86400"),
    *("--re-min-correlation-allowed=0.9", "--re-max-mse-allowed=10.0", "--scaling-freq=10min"),
]
OLD = {"type": "TimeSeries", "expireTime": "2026-01-01T00:00:00Z", "timeSeries": '{"1767225000": 7}'}


def traffic(second: int) -> float:
    return 100 + 50 * math.sin(2 * math.pi * second / 86_400)


def replicas(second: int) -> float:
    return 4 + second // 7200 % 2


def cpu(second: int) -> float:
    return replicas(second) * 0.05 + 0.01 * traffic(second)


def metrics(
    traffic: Callable[[int], float] = traffic,
    replicas: Callable[[int], float] = replicas,
    cpu: Callable[[int], float] = cpu,
    *,
    age: int = 0,
) -> Callable[[pb.QueryRequest], pb.QueryResponse]:
    """The provider's answers: one series of each metric, whose newest value has an age in seconds."""
    values = {pb.OBJECT: traffic, pb.WORKLOAD_EXTERNAL: replicas, pb.WORKLOAD_RESOURCE: cpu}

    def answer(request: pb.QueryRequest) -> pb.QueryResponse:
        response, until = pb.QueryResponse(), time.time() - age
        known = [t for t in moments(request) if t <= until]
        if known:
            value = values[request.query.type]
            response.series.add().points.extend(pb.Point(timestamp=1000 * t, value=value(t)) for t in known)
        return response

    return answer


def controller_reads(data: dict[str, str], now: float) -> dict[int, int]:
    """Parse a result as Kapacity's controller does (contract 7): one wrong point spoils the whole."""
    assert set(data) == {"type", "expireTime", "timeSeries"}
    assert all(isinstance(value, str) for value in data.values())
    assert data["type"] == "TimeSeries"
    expires = data["expireTime"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", expires)
    assert datetime.fromisoformat(expires).timestamp() > now
    points = {}
    for key, value in json.loads(data["timeSeries"], parse_float=str).items():
        assert re.fullmatch(r"[+-]?\d+", key)
        assert -(2**63) <= int(key) < 2**63
        assert type(value) is int
        assert -(2**31) <= value < 2**31
        points[int(key)] = value
    assert list(points) == sorted(points)
    assert min(points) <= now, "a hole until the first point"
    return points


class Cluster:
    """An API server, a provider, and a folder with an artifact and a kubeconfig."""

    def __init__(self, api: ApiServer, provider: Provider, address: str, folder: Path) -> None:
        self.api, self.provider, self.folder = api, provider, folder
        self.environment = {
            "METRICS_SERVER_ADDR": address,
            "HP_NAMESPACE": "shop",
            "HP_NAME": "web-predictive",
        }

    def run(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        given = ["--kubeconfig=kubeconfig", *ARGUMENTS, *arguments]
        return run_command("kforecast-scale", *given, cwd=self.folder, env=self.environment | environment)

    def result(self) -> dict[int, int]:
        return controller_reads(self.api.objects[RESULT]["data"], time.time())


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("scale")
    config = EstimatorConfig("10min", len(RISE), CONTEXT, 1)
    net = Fcnet(config.window, 1)
    with torch.no_grad():
        net.lc.weight.zero_()
        net.lc.bias.copy_(torch.tensor(RISE))
    Artifact(config, {"shop/webqps": 0}, net.artifact_state(), {"fill": "zero"}).save(folder / "model")
    api, provider = ApiServer({}), Provider()
    with api.serve(), provider.serve() as address:
        api.kubeconfig(folder)
        yield Cluster(api, provider, address, folder)


@pytest.fixture
def cluster(shared: Cluster) -> Cluster:
    """A portrait with a target of 0.3 cores, so 25 requests a second a replica, and no result yet."""
    target = {"type": "AverageValue", "averageValue": "300m"}
    shared.api.objects = {PORTRAIT: portrait(**target)}
    shared.api.requests, shared.api.failures = [], {}
    shared.provider.answer, shared.provider.requests = metrics(), []
    return shared


def forecast(begin: int) -> list[float]:
    """The forecast of the bins from ``begin`` on."""
    context = [traffic(second) for second in range(begin - CONTEXT * STEP, begin, 60)]
    return [sum(context) / len(context) * rise for rise in RISE]


def assert_needed(points: dict[int, int], per_replica: float, tolerance: float = 0.0) -> None:
    """The points are the replicas of the forecast, from the bin under way on."""
    begin = min(points)
    assert begin <= time.time() < begin + 2 * STEP
    assert list(points) == [begin + STEP * step for step in range(len(RISE))]
    for made, expected in zip(points.values(), forecast(begin), strict=True):
        few, many = (math.ceil(expected / per_replica * (1 + t)) for t in (-tolerance, tolerance))
        assert few <= made <= many


def test_the_whole_job(cluster: Cluster) -> None:
    done = cluster.run()
    assert done.returncode == 0, done.stderr
    assert_needed(cluster.result(), 25, 0.03)
    assert "WARNING" not in done.stderr
    assert "Learned from" in done.stderr
    assert "ConfigMap shop/web-predictive-result: 3 points from" in done.stderr
    created = cluster.api.objects[RESULT]["metadata"]
    assert created["ownerReferences"] == [
        {
            "apiVersion": "autoscaling.kapacitystack.io/v1alpha1",
            "kind": "HorizontalPortrait",
            "name": "web-predictive",
            "uid": "a-b-c",
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]
    assert cluster.api.requests == [("GET", PORTRAIT), ("GET", RESULT), ("POST", CONFIG_MAPS)]


def test_what_the_provider_is_asked(cluster: Cluster) -> None:
    cluster.api.objects[PORTRAIT]["spec"]["scaleTargetRef"] |= {"apiVersion": "v1", "kind": "Thing"}
    before = int(time.time())
    assert cluster.run("scale.guard=false").returncode == 0
    asked = {request.query.type: request for request in cluster.provider.requests}
    assert set(asked) == {pb.OBJECT, pb.WORKLOAD_EXTERNAL, pb.WORKLOAD_RESOURCE}
    query = asked[pb.OBJECT].query.object
    assert (query.namespace, query.name, query.metric.name) == ("shop", "web", "requests_rate")
    assert query.metric.selector == "code=200"
    pods = asked[pb.WORKLOAD_EXTERNAL].query.workload_external
    assert (pods.group_kind.group, pods.group_kind.kind, pods.name) == ("", "Thing", "web")
    assert asked[pb.WORKLOAD_RESOURCE].query.workload_resource.ready_pods_only
    for request in asked.values():
        assert request.step.seconds == 60
        assert before - 60 <= request.end.seconds <= time.time()
        assert request.end.seconds - request.start.seconds == 3 * 86_400


def test_an_earlier_result_is_replaced_whole(cluster: Cluster) -> None:
    cluster.api.store(
        RESULT, {"metadata": {"name": "web-predictive-result", "labels": {"a": "b"}}, "data": OLD}
    )
    assert cluster.run().returncode == 0
    assert cluster.result()
    assert cluster.api.objects[RESULT]["metadata"]["labels"] == {"a": "b"}
    assert cluster.api.requests[-1] == ("PUT", RESULT)


def test_a_write_conflict_is_tried_again(cluster: Cluster) -> None:
    cluster.api.failures["POST", CONFIG_MAPS] = [409]
    cluster.api.failures["GET", RESULT] = [503]
    assert cluster.run("scale.replicas=ratio").returncode == 0
    assert [method for method, _ in cluster.api.requests[1:]] == ["GET", "GET", "POST", "GET", "POST"]
    cluster.api.failures["PUT", RESULT] = [409, 409]
    assert cluster.run("scale.replicas=ratio").returncode == 0
    assert [method for method, _ in cluster.api.requests[-6:]] == ["GET", "PUT"] * 3


def test_the_ratio_keeps_the_traffic_of_a_replica(cluster: Cluster) -> None:
    cluster.provider.answer = metrics(replicas=lambda _: 5.0)
    assert cluster.run("scale.replicas=ratio").returncode == 0
    types = {request.query.type for request in cluster.provider.requests}
    assert types == {pb.OBJECT, pb.WORKLOAD_EXTERNAL}, "no resource is needed"
    points = cluster.result()
    assert_needed(points, traffic(min(points)) / 5, 0.1)


def test_a_given_traffic_of_a_replica_needs_nothing_else(cluster: Cluster) -> None:
    for number in ("12.5", "{qps: 12.5}"):
        given = ["scale.replicas=per_replica", f"scale.per_replica={number}", "scale.guard=false"]
        done = cluster.run(*given)
        assert done.returncode == 0, done.stderr
        assert_needed(cluster.result(), 12.5)
    assert {request.query.type for request in cluster.provider.requests} == {pb.OBJECT}
    # The context, and the bin under way.
    for request in cluster.provider.requests:
        assert request.end.seconds - request.start.seconds == (CONTEXT + 1) * STEP


def test_the_traffic_of_a_replica_at_the_target_is_learned(cluster: Cluster) -> None:
    cluster.provider.answer = metrics(cpu=lambda t: replicas(t) * 0.01 * traffic(t) / replicas(t))
    done = cluster.run("scale.replicas=per_replica")
    assert "Per replica: 30 qps" in done.stderr
    assert_needed(cluster.result(), 30, 1e-3)


def test_finer_points_and_a_lead(cluster: Cluster) -> None:
    given = ["scale.replicas=per_replica", "scale.per_replica=10", "--scaling-freq=5min"]
    assert cluster.run(*given, "--scale-up-ahead-seconds=120").returncode == 0
    points = cluster.result()
    begin = min(points)
    low, high, least = (math.ceil(value / 10) for value in forecast(begin))
    expected = {0: low, 300: low, 480: high, 600: high, 900: high, 1200: least, 1500: least}
    assert points == {begin + second: number for second, number in expected.items()}


def test_no_traffic_needs_one_replica(cluster: Cluster) -> None:
    """To the controller, 0 replicas are no value."""
    cluster.provider.answer = metrics(lambda _: 0.0)
    assert cluster.run("scale.replicas=per_replica", "scale.per_replica=10").returncode == 0
    assert set(cluster.result().values()) == {1}


def test_replicas_for_a_quantile_of_the_forecast(cluster: Cluster, tmp_path: Path) -> None:
    model = Artifact.load(cluster.folder / "model")
    offsets = np.tile(np.array(LEVELS) - 0.5, (len(RISE), 1))
    path = tmp_path / "model"
    replace(model, intervals=Intervals(offsets, {})).save(path)
    needed = []
    for quantile in ("null", "0.5", "0.9"):
        given = ["scale.replicas=per_replica", "scale.per_replica=1", f"scale.quantile={quantile}"]
        given.append("scale.guard=false")  # these quantiles would cost too much
        assert cluster.run(f"--tsf-model-path={path}", *given).returncode == 0
        needed.append([*cluster.result().values()])
    assert needed[0] == needed[1]
    assert all(high > low for high, low in zip(needed[2], needed[1], strict=True))


def test_a_withdrawn_forecast_writes_nothing(cluster: Cluster, tmp_path: Path) -> None:
    model = Artifact.load(cluster.folder / "model")
    state = {key: 5 * value if key.startswith("lc") else value for key, value in model.state.items()}
    replace(model, state=state).save(tmp_path / "model")
    cluster.api.store(RESULT, {"metadata": {"name": "web-predictive-result"}, "data": OLD})
    given = [f"--tsf-model-path={tmp_path / 'model'}", "scale.replicas=per_replica", "scale.per_replica=1"]
    done = cluster.run(*given)
    assert done.returncode == 3
    assert "error: shop/web qps: withdrawn by the guard since" in done.stderr
    assert "costs more than scaling on the newest observation" in done.stderr
    assert cluster.api.objects[RESULT]["data"] == OLD, "the earlier result counts until it expires"
    assert cluster.run(*given, "scale.guard=false").returncode == 0


def test_a_known_event_raises_the_result_and_a_broken_file_leaves_it(cluster: Cluster) -> None:
    given = ["scale.replicas=per_replica", "scale.per_replica=1"]
    assert cluster.run(*given).returncode == 0
    usual = cluster.result()
    begin, end = min(usual), max(usual) + STEP
    file = cluster.folder / "events.csv"
    file.write_text(f"start,end,workload,name,factor\n{begin},{end + 3600},shop/web,sale,10\n")
    assert cluster.run(*given, "data.events=events.csv").returncode == 0
    raised = cluster.result()
    # The bin under way may have changed between both runs.
    assert min(raised.values()) > 1.5 * max(usual.values())
    file.write_text("start,end\n")
    done = cluster.run(*given, "data.events=events.csv")
    assert done.returncode == 2
    assert "no column workload" in done.stderr
    assert cluster.result() == raised


def test_the_weights_of_the_package_know_any_workload(cluster: Cluster) -> None:
    given = ["artifact_dir=pretrained", "window=10min", "window.prediction_length=4", "scale.guard=false"]
    done = run_command(
        *("kforecast-scale", "--kubeconfig=kubeconfig", *given, "scale.per_replica=25"),
        *("scale.replicas=per_replica", "--scaling-freq=10min"),
        cwd=cluster.folder,
        env=cluster.environment,
    )
    assert done.returncode == 0, done.stderr
    points = cluster.result()
    assert len(points) == 4
    for moment, count in points.items():  # the traffic moves little from one bin to the next
        assert count == pytest.approx(traffic(moment) / 25, rel=0.5, abs=1)


def test_days_are_a_day_apart(cluster: Cluster, tmp_path: Path) -> None:
    config = EstimatorConfig("1D", 3, 2, 1)
    state = Fcnet(config.window, 1).artifact_state()
    Artifact(config, {"shop/webqps": 0}, state, {"fill": "zero"}).save(tmp_path / "days")
    given = ["scale.replicas=per_replica", "scale.per_replica=1", "--scaling-freq=1D", "scale.guard=false"]
    done = cluster.run(f"--tsf-model-path={tmp_path / 'days'}", *given)
    assert done.returncode == 0, done.stderr
    points = [*cluster.result()]
    assert points[0] % 86_400 == 0
    assert points == [points[0] + 86_400 * day for day in range(3)]


@pytest.mark.parametrize("kind", ["Deployment", "Rollout"])
def test_a_utilization_is_of_the_first_pods_requests(kind: str, cluster: Cluster) -> None:
    plural, version = {"Deployment": ("deployments", "apps/v1"), "Rollout": ("rollouts", "argo.io/v1")}[kind]
    target = cluster.api.objects[PORTRAIT]["spec"]["metrics"][0]["resource"]
    target["target"] = {"type": "Utilization", "averageUtilization": 60}
    cluster.api.objects[PORTRAIT]["spec"]["scaleTargetRef"] |= {"apiVersion": version, "kind": kind}
    requests = [{"cpu": "400m"}, {"cpu": 0.1}]
    containers = [{"name": "c", "resources": {"requests": one}} for one in requests]
    scale = f"/apis/{version}/namespaces/shop/{plural}/web/scale"
    cluster.api.objects |= {
        "/apis/argo.io/v1": {
            "resources": [
                {"name": "rollouts/scale", "kind": "Scale"},
                {"name": "rollouts", "kind": "Rollout"},
            ]
        },
        scale: {"status": {"selector": "app=web,tier in (a)"}},
        "/api/v1/namespaces/shop/pods": {
            "items": [{"metadata": {"name": "web-1"}, "spec": {"containers": containers}}]
        },
    }
    done = cluster.run()
    assert done.returncode == 0, done.stderr
    assert_needed(cluster.result(), 25, 0.03)
    (asked,) = [path for _, path in cluster.api.requests if "/pods" in path]
    assert asked == "/api/v1/namespaces/shop/pods?labelSelector=app%3Dweb,tier+in+(a)&limit=1"


def changed(**change: Any) -> Callable[[Cluster], None]:
    """Change the target of the resource."""

    def apply(cluster: Cluster) -> None:
        cluster.api.objects[PORTRAIT] = portrait(**change)

    return apply


def answering(**change: Any) -> Callable[[Cluster], None]:
    def apply(cluster: Cluster) -> None:
        cluster.provider.answer = metrics(**change)

    return apply


def failing(method: str, path: str, status: int, times: int = 1) -> Callable[[Cluster], None]:
    def apply(cluster: Cluster) -> None:
        cluster.api.failures[method, path] = [status] * times

    return apply


def other_workload(cluster: Cluster) -> None:
    cluster.api.objects[PORTRAIT]["spec"]["scaleTargetRef"]["name"] = "cart"


def one_metric(cluster: Cluster) -> None:
    del cluster.api.objects[PORTRAIT]["spec"]["metrics"][1:]


def nothing(cluster: Cluster) -> None: ...


FAILURES: dict[str, tuple[Callable[[Cluster], None], list[str], int, str]] = {
    "source down": (
        nothing,
        [f"source.address=localhost:{free_port()}", "source.attempts=1"],
        3,
        "cannot be reached",
    ),
    "source empty": (answering(age=10**7), [], 3, "qps"),
    "no portrait": (lambda c: c.api.objects.pop(PORTRAIT), [], 2, "shop/web-predictive: there is none"),
    "portrait forbidden": (failing("GET", PORTRAIT, 403), [], 3, "status 403"),
    "token unknown": (failing("GET", PORTRAIT, 401), [], 3, "the token is not valid there"),
    "api server fails": (failing("GET", PORTRAIT, 500, 9), [], 3, "status 500"),
    "no artifact": (nothing, ["--tsf-model-path=nowhere"], 2, "nowhere: no such directory"),
    "artifact corrupt": (nothing, ["--tsf-model-path=corrupt"], 2, "corrupt"),
    "unknown series": (other_workload, [], 2, "not in the artifact: shop/cart qps; it knows shop/webqps"),
    "stale history": (answering(age=2 * 86_400), [], 3, "stale: shop/web qps (newest value "),
    "no traffic metric": (one_metric, [], 2, "spec.metrics has 1 metrics"),
    "target of another type": (
        changed(type="Value", value="3"),
        [],
        2,
        "spec.metrics[0].resource.target.type: Value is not AverageValue or Utilization",
    ),
    "target of no amount": (
        changed(type="AverageValue", averageValue="many"),
        [],
        2,
        "'many' is not",
    ),
    "utilization without a scale": (changed(type="Utilization", averageUtilization=50), [], 3, "status 404"),
    "estimation failed": (
        answering(cpu=lambda t: 1 + t // 60 % 7),
        [],
        2,
        "replicas estimation failed on 86",
    ),
    "unattainable target": (
        changed(type="AverageValue", averageValue="40m"),
        [],
        2,
        "cannot be reached by any number of replicas",
    ),
    "no replicas": (answering(replicas=lambda _: 0.0), ["scale.replicas=ratio"], 2, "at least one replica"),
    "absurd replicas": (
        nothing,
        ["scale.replicas=per_replica", "scale.per_replica=1e-9"],
        2,
        "no number of replicas",
    ),
    "quantile without intervals": (nothing, ["scale.quantile=0.9"], 2, "model: no intervals.json"),
    "too many points": (nothing, ["--scaling-freq=10s", "--re-history-len=x"], 2, "scale.history: 'x'"),
    "write forbidden": (failing("PUT", RESULT, 403), [], 3, "status 403"),
    "write conflict": (failing("PUT", RESULT, 409, 9), [], 3, "changed by others at each of 5 attempts"),
}


# One of each kind; the others are long.
QUICK = {
    *(
        "source down",
        "no portrait",
        "token unknown",
        "api server fails",
        "artifact corrupt",
        "unknown series",
    ),
    *("stale history", "no traffic metric", "quantile without intervals", "write conflict"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in FAILURES]
)
def test_a_failure_leaves_the_earlier_result_whole(name: str, cluster: Cluster) -> None:
    change, arguments, code, said = FAILURES[name]
    cluster.api.store(RESULT, {"metadata": {"name": "web-predictive-result"}, "data": OLD})
    before = copy.deepcopy(cluster.api.objects[RESULT])
    shutil.copytree(cluster.folder / "model", cluster.folder / "corrupt", dirs_exist_ok=True)
    (cluster.folder / "corrupt" / "checkpoint.pth").write_bytes(b"PK")
    change(cluster)
    done = cluster.run(*arguments)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert len(re.findall("^error: ", done.stderr, flags=re.MULTILINE)) == 1
    assert "Traceback" not in done.stderr
    assert TOKEN not in done.stdout + done.stderr
    assert cluster.api.objects[RESULT] == before


@pytest.mark.parametrize("variable", ["METRICS_SERVER_ADDR", "HP_NAMESPACE", "HP_NAME"])
def test_a_missing_variable_is_named(variable: str, cluster: Cluster) -> None:
    done = cluster.run(**{variable: ""})
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: not set: {variable} (")


def test_every_flag_of_the_job_sets_its_key(tmp_path: Path) -> None:
    given = {
        "--kubeconfig": "a b",
        "--tsf-model-path": "m",
        "--tsf-dataloader-num-workers": "0",
        "--re-history-len": "24H",
        "--re-time-delta-hours": "-8",
        "--re-test-dataset-size-in-seconds": "3600",
        "--re-min-correlation-allowed": "0.5",
        "--re-max-mse-allowed": "25",
        "--scaling-freq": "5min",
        "--scale-up-ahead-seconds": "90",
    }
    assert set(given) == set(JOB_FLAGS)
    cfg = composed(*(f"{flag}={value}" for flag, value in given.items()), name="scale")
    assert cfg == composed(*(word for pair in given.items() for word in pair), name="scale")
    assert (cfg.artifact_dir, cfg.scale.kubeconfig, cfg.scale.history, cfg.scale.freq) == (
        *("m", "a b", "24H"),
        "5min",
    )
    numbers = (cfg.scale.test_seconds, cfg.scale.min_correlation, cfg.scale.max_mse, cfg.scale.lead_seconds)
    assert numbers == (3600, 0.5, 25, 90)
    help_text = run_command("kforecast-scale", "--help", cwd=tmp_path).stdout
    for flag, (_, meaning) in JOB_FLAGS.items():
        assert re.search(rf"^ +{flag} +{re.escape(meaning)}$", help_text, flags=re.MULTILINE)
    done = run_command("kforecast-scale", "--re-time-delta-hours=x", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "error: --re-time-delta-hours: 'x' is not a whole number\n")


# Kubernetes mounts the credentials of a pod at a fixed path.
IN_A_POD = """
import sys
from pathlib import Path
from kforecast.commands.scale import main
from kforecast.scaling import kubernetes
kubernetes.SERVICE_ACCOUNT = Path(sys.argv.pop(1))
main()
"""


@pytest.mark.parametrize("mounted", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_pod_with_its_own_credentials(mounted: bool, cluster: Cluster, tmp_path: Path) -> None:
    """A new process, with the environment, the arguments and the files that Kapacity's CronJob gives it."""
    host, _, port = cluster.api.url.removeprefix("https://").rpartition(":")
    environment = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    if mounted:
        (tmp_path / "ca.crt").write_bytes(cluster.api.authority.cert_pem.bytes())
    done = subprocess.run(
        [sys.executable, "-c", IN_A_POD, str(tmp_path), *ARGUMENTS],
        cwd=cluster.folder,
        env=os.environ | cluster.environment | environment,
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )
    assert TOKEN not in done.stdout + done.stderr
    if mounted:
        assert done.returncode == 0, done.stderr
        assert_needed(cluster.result(), 25, 0.03)
    else:
        assert done.returncode == 2, done.stderr
        assert re.search(r"^error: .*automountServiceAccountToken$", done.stderr, flags=re.MULTILINE)
        assert "Traceback" not in done.stderr
        assert cluster.api.requests == []


def test_with_our_own_provider(cluster: Cluster, tmp_path: Path) -> None:
    """Served from a file, whose newest row is now; the portrait's queries find its series by their names."""
    now = int(time.time()) // 60 * 60
    seconds = range(now - 3 * 86_400, now + 60, 60)
    values = {"qps": traffic, "ready_pods": replicas, "cpu": cpu}
    rows = [f"{t},{value(t)},shop/web,{name}" for name, value in values.items() for t in seconds]
    (tmp_path / "traffic.csv").write_text("\n".join(["timestamp,value,workload,metric", *rows]) + "\n")
    workload = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
    target = {
        "workloadNamespace": "shop",
        "workloadRef": workload,
        "historyLength": "1D",
        "metrics": cluster.api.objects[PORTRAIT]["spec"]["metrics"],
    }
    config = {"targets": [target], "freq": "10min", "predictionLength": 3, "contextLength": 6}
    (tmp_path / "train-config.yaml").write_text(yaml.safe_dump(config))
    address = f"localhost:{free_port()}"
    given = ["--dataset-file=traffic.csv", "--config-file=train-config.yaml", f"serve.address={address}"]
    with serving(*given, address=address, cwd=tmp_path):
        done = cluster.run(METRICS_SERVER_ADDR=address)
    assert done.returncode == 0, done.stderr
    assert_needed(cluster.result(), 25, 0.03)
