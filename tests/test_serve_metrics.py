"""``kforecast-serve-metrics`` as a process, queried as by Kapacity."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from conftest import HANG, START, composed, free_port, run_command, serving, traffic_rows
from kforecast.commands import serve_metrics
from kforecast.metrics import provider as server
from kforecast.metrics.csv import CsvSource
from kforecast.metrics.kapacity import KapacitySource
from kforecast.metrics.proto import provider_pb2 as pb
from kforecast.metrics.proto import provider_pb2_grpc as pb_grpc
from kforecast.metrics.timerange import TimeRange


def target(name: str) -> dict[str, object]:
    return {
        "workloadNamespace": "shop",
        "workloadRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
        "historyLength": "2D",
        "metrics": [{"type": "Pods", "pods": {"metric": {"name": "qps"}}}],
    }


def newest(name: str, metric: str = "qps") -> pb.QueryLatestRequest:
    query = pb.WorkloadExternalQuery(namespace="shop", name=name, metric=pb.MetricIdentifier(name=metric))
    return pb.QueryLatestRequest(query=pb.Query(type=pb.WORKLOAD_EXTERNAL, workload_external=query))


def test_a_file_is_served_as_it_is(tmp_path: Path, traffic_csv: Callable[..., Path]) -> None:
    path = traffic_csv(series=2, points=200)
    address = f"localhost:{free_port()}"
    arguments = [f"--dataset-file={path}", f"serve.address={address}"]
    with serving(*arguments, address=address, cwd=tmp_path) as process:
        end = START + 199 * 600
        targets = [target("web-0"), target("web-1")]
        fetched = KapacitySource(address=address, targets=targets, end=end, step=600).fetch()
        rows = CsvSource(path).fetch()
        for name in ("shop/web-0", "shop/web-1"):
            got, there = (frame[frame["workload"] == name] for frame in (fetched, rows))
            assert got["timestamp"].tolist() == there["timestamp"].tolist()
            assert got["value"].tolist() == there["value"].tolist()

        with grpc.insecure_channel(address) as channel:
            stub = pb_grpc.ProviderServiceStub(channel)
            assert list(stub.QueryLatest(newest("web-0"), timeout=HANG).samples) == []
            wrong = pb.QueryRequest(query=newest("web-0").query)
            with pytest.raises(grpc.RpcError) as caught:
                stub.Query(wrong, timeout=HANG)
            assert caught.value.code() is grpc.StatusCode.UNKNOWN
            assert "invalid range" in caught.value.details()
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
            (listed,) = reflection.ServerReflectionInfo(iter([request]), timeout=HANG)
            services = {service.name for service in listed.list_services_response.service}
            assert {"io.kapacitystack.metric.ProviderService", "grpc.health.v1.Health"} <= services

        done = run_command("kforecast-serve-metrics", *arguments, cwd=tmp_path)
        assert done.returncode == 3
        assert done.stderr.splitlines()[-1].startswith(
            f"error: cannot listen on {address}: is the port in use?"
        )

        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=HANG) == 130
    assert "INFO: Stopped" in (tmp_path / "provider.log").read_text()


def minutes(folder: Path, count: int) -> list[str]:
    """A file of one series with a row per minute; its rows."""
    rows = traffic_rows(series=1, points=count, step=60)
    (folder / "traffic.csv").write_text("timestamp,value,workload,metric\n" + "\n".join(rows) + "\n")
    return rows


def test_a_file_can_be_moved_to_the_present(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = START + 3 * 86_400 + 40.5
    monkeypatch.setattr("kforecast.commands.serve_metrics.time.time", lambda: now)
    monkeypatch.chdir(tmp_path)
    rows, found = minutes(tmp_path, 20), []

    async def serve(backend: server.FrameBackend, address: str) -> signal.Signals:
        async with backend.connect() as answer:
            end = START + 3 * 86_400
            found.extend(await answer(newest("web-0").query, TimeRange(end - 60, end, 60)))
        return signal.SIGTERM

    monkeypatch.setattr(server, "serve", serve)
    cfg = composed("--dataset-file=traffic.csv", "serve.shift_to_now=true", name="serve_metrics")
    with pytest.raises(SystemExit) as ended:
        serve_metrics.serve_metrics(cfg)
    assert ended.value.code == 143
    (series,) = found
    # The newest row is at the newest full minute.
    assert series.timestamps.tolist() == [START + 3 * 86_400 - 60, START + 3 * 86_400]
    assert series.values.tolist() == [float(row.split(",")[1]) for row in rows[-2:]]
    assert series.labels["workload"] == "web-0"


@pytest.mark.slow
def test_a_file_is_served_as_of_now_until_sigterm(tmp_path: Path) -> None:
    rows, before = minutes(tmp_path, 3000), time.time()
    address = f"localhost:{free_port()}"
    arguments = ["--dataset-file=traffic.csv", "serve.shift_to_now=true", f"serve.address={address}"]
    with serving(*arguments, address=address, cwd=tmp_path) as process:
        with grpc.insecure_channel(address) as channel:
            stub = pb_grpc.ProviderServiceStub(channel)
            (sample,) = stub.QueryLatest(newest("web-0"), timeout=HANG).samples
            assert before - 60 <= sample.point.timestamp / 1000 <= time.time()
            assert sample.point.value == float(rows[-1].split(",")[1])
            assert sample.labels["workload"] == "web-0"
            assert list(stub.QueryLatest(newest("web-0", "nothing"), timeout=HANG).samples) == []
        process.terminate()
        assert process.wait(timeout=HANG) == 143


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["source=prometheus", "source.url=http://localhost:1"], ["serve.templates: empty"]),
        (["source=synthetic", "serve.address=here"], ["serve.address", "'here'"]),
        (["source=synthetic", "serve.shift_to_now=maybe"], ["serve.shift_to_now"]),
        (["--dataset-file=nowhere.csv"], ["nowhere.csv", "no such file"]),
        (["source=kapacity", "source.address=h:1"], ["cannot be served from another"]),
        (["source=synthetic", "--config-file=nowhere.yaml"], ["nowhere.yaml", "no such config file"]),
    ],
    ids=lambda value: value[-1],
)
def test_refused(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    done = run_command("kforecast-serve-metrics", *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert [word for word in words if word not in done.stderr] == []
    assert sum(line.startswith("error: ") for line in done.stderr.splitlines()) == 1
