"""``kforecast-serve`` on Kapacity's metrics provider, with the command line of training."""

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from provider import Provider, moments
from test_serve import get, server
from untrained import HOUR, save

from conftest import free_port, run_command, serving
from kforecast.forecaster import Forecaster
from kforecast.metrics.proto import provider_pb2 as pb

STEP = 600
LEVELS = {"web": 100.0, "cart": 40.0}


def traffic(second: int, name: str) -> float:
    return round(LEVELS[name] * (1 + 0.5 * math.sin(2 * math.pi * second / 86_400)) + second % 7, 3)


def answer(request: pb.QueryRequest) -> pb.QueryResponse:
    """What is known now: one series of the object or workload that is asked for."""
    response, now = pb.QueryResponse(), time.time()
    name = getattr(request.query, request.query.WhichOneof("query")).name
    known = [t for t in moments(request) if t <= now]
    if known:
        points = response.series.add().points
        points.extend(pb.Point(timestamp=1000 * t, value=traffic(t, name)) for t in known)
    return response


def train_config(folder: Path) -> list[str]:
    """A file with a target of each generation (contract 2); the flags of training."""
    described = {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "web"}
    selector = {"matchLabels": {"code": "200"}}
    metrics: list[dict[str, Any]] = [
        {"type": "Object", "object": {"metric": {"name": "qps"}, "describedObject": described}},
        {"name": "qps", "type": "Pods", "pods": {"metric": {"name": "requests", "selector": selector}}},
    ]
    workload = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "cart"}
    common = {"workloadNamespace": "shop", "historyLength": "2D"}
    targets = [
        common | {"workloadName": "web", "metrics": metrics[:1]},
        common | {"workloadRef": workload, "metrics": metrics[1:]},
    ]
    content = {"targets": targets, "freq": "1H", "predictionLength": 4, "contextLength": 6}
    (folder / "train-config.yaml").write_text(yaml.safe_dump(content))
    return ["--config-file=train-config.yaml"]


def expected(folder: Path, origin: int, now: float) -> dict[str, float]:
    """Forecast from rows at the same moments, and take the larger of it and the newest observation."""
    forecaster = Forecaster.load(folder / "model")
    seconds = np.arange(origin - forecaster.history_length * HOUR, origin, STEP)
    frames = [
        pd.DataFrame(
            {
                "timestamp": seconds,
                "value": [traffic(int(t), name) for t in seconds],
                "workload": f"shop/{name}",
                "metric": "qps",
            }
        )
        for name in LEVELS
    ]
    made = forecaster.forecast(pd.concat(frames), at=origin, quantiles=[0.9])
    under_way = int(now - origin) // HOUR
    return {
        f"shop/{name}": max(
            made.loc[made["workload"] == f"shop/{name}", "q0.9"].iloc[under_way:].max(),
            frame["value"].iloc[-6:].mean(),
        )
        for name, frame in zip(LEVELS, frames, strict=True)
    }


def assert_served(folder: Path, address: str) -> None:
    """Both series, with the numbers of our own forecast."""
    for workload in ("shop/web", "shop/cart"):
        status, text = get(f"http://{address}/forecast?workload={workload}&metric=qps")
        assert status == 200, text
        found = json.loads(text)
        assert found["observed_end"] == found["origin"]
        wanted = expected(folder, found["origin"], found["at"])[workload]
        assert found["value"] == pytest.approx(wanted, rel=1e-5)
    log = (folder / "serve.log").read_text()
    assert "Traceback" not in log
    assert "ERROR" not in log


def test_a_provider_is_asked_as_in_training(tmp_path: Path) -> None:
    save(tmp_path / "model")
    provider = Provider(answer)
    with provider.serve() as provider_address:
        given = [*train_config(tmp_path), f"--metrics-server-addr={provider_address}", "source.step=600"]
        with server(tmp_path, "serve.settle=0", "serve.guard=false", source=given) as (address, _):
            assert_served(tmp_path, address)
    asked = {request.query.type: request for request in provider.requests}
    assert set(asked) == {pb.OBJECT, pb.WORKLOAD_EXTERNAL}
    assert asked[pb.WORKLOAD_EXTERNAL].query.workload_external.metric.selector == "code=200"
    for request in asked.values():
        assert request.step.seconds == STEP
        assert request.end.seconds <= time.time()


@pytest.mark.slow
def test_our_own_provider(tmp_path: Path) -> None:
    """A file served over gRPC, whose newest row is now."""
    save(tmp_path / "model")
    now = int(time.time()) // STEP * STEP
    rows = [
        f"{t},{traffic(t, name)},shop/{name},qps"
        for name in LEVELS
        for t in range(now - 32 * 86_400, now + 86_400, STEP)
    ]
    (tmp_path / "traffic.csv").write_text("\n".join(["timestamp,value,workload,metric", *rows]) + "\n")
    config, provider_address = train_config(tmp_path), f"localhost:{free_port()}"
    given = ["--dataset-file=traffic.csv", *config, f"serve.address={provider_address}"]
    with serving(*given, address=provider_address, cwd=tmp_path):
        source = [*config, f"--metrics-server-addr={provider_address}", "source.step=600"]
        with server(tmp_path, "serve.settle=0", "serve.guard=false", source=source) as (address, _):
            assert_served(tmp_path, address)


def test_no_targets_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "model")
    done = run_command(
        "kforecast-serve", "artifact_dir=model", "--metrics-server-addr=localhost:1", cwd=tmp_path
    )
    assert done.returncode == 2, done.stderr
    assert "targets" in done.stderr
    assert "Traceback" not in done.stderr
