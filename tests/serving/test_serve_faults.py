"""``kforecast-serve`` as a process: its source hangs, its artifact is half-written, it is killed."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pandas as pd
from standin import Prometheus, rows_of
from test_serve import get
from untrained import HOUR, SERIES, save

from conftest import BIN, HANG, free_port, wait_for
from kforecast.artifact import Artifact
from kforecast.forecaster import Forecaster
from kforecast.metrics.frame import FrameSource
from kforecast.serving.proto import externalscaler_pb2 as pb
from kforecast.serving.proto import externalscaler_pb2_grpc as pb_grpc

LEVELS = (0.5, 0.9)
FAILURES = 'kforecast_failures_total{cause="fetch"}'


class Process:
    """A server of the champion of a store, which reads a stand-in."""

    def __init__(self, folder: Path, url: str, standin: Prometheus) -> None:
        self.folder, self.address, self.grpc = folder, *(f"localhost:{free_port()}" for _ in range(2))
        listed = ", ".join(
            f"{{workload: {one['workload']}, metric: {one['metric']}, query: '{one['query']}'}}"
            for one in standin.arguments["queries"]
        )
        self.arguments = [
            *("retrain.dir=models", "source=prometheus", f"source.url={url}", f"source.queries=[{listed}]"),
            *(f"source.step={standin.arguments['step']}", "source.attempts=1", "serve.window=14400"),
            *(f"serve.address={self.address}", f"serve.grpc={self.grpc}"),
        ]

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[str]]:
        with (self.folder / "serve.log").open("a") as log:
            command = [str(BIN / "kforecast-serve"), *self.arguments]
            process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, text=True)
        try:
            yield process
        finally:
            process.kill()
            process.wait(timeout=HANG)

    def until(self, condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
        until = time.monotonic() + HANG
        while not condition():
            assert process.poll() is None, self.log()
            assert time.monotonic() < until, self.log()
            time.sleep(0.1)

    def log(self) -> str:
        return (self.folder / "serve.log").read_text()

    def is_ready(self) -> bool:
        return get(f"http://{self.address}/readyz")[0] == 200

    def ask(self, number: int = 0, **more: object) -> dict[str, Any]:
        workload, metric = SERIES[number]
        asked = "&".join(f"{name}={value}" for name, value in more.items())
        status, text = get(f"http://{self.address}/forecast?workload={workload}&metric={metric}&{asked}")
        assert status == 200, text
        found: dict[str, Any] = json.loads(text)
        return found

    def metric(self, name: str) -> float:
        text = get(f"http://{self.address}/metrics")[1]
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        assert found is not None, text
        return float(found[1])

    def check(self, artifacts: dict[str, Path]) -> str:
        """Answers of all kinds equal an independent forecast; returns the artifact that they name."""
        for number in range(len(SERIES)):
            for level in LEVELS:
                while True:
                    first = self.ask(number, quantile=level)
                    over_grpc = self.scaled(number, level)
                    text = get(f"http://{self.address}/metrics")[1]
                    last = self.ask(number, quantile=level)
                    if first | {"at": 0} == last | {"at": 0}:
                        break  # no bin has ended in between
                wanted = expected(artifacts[first["artifact"]], first["origin"], number)
                wanted = wanted[wanted["timestamp"] + HOUR > first["at"]]
                np.testing.assert_allclose(first["forecast"], wanted[f"q{level}"].max(), rtol=1e-5)
                assert first["value"] == over_grpc == max(first["forecast"], first["observed"])
                sample = (
                    rf'kforecast_forecast_max\{{metric="qps",quantile="{level}",window="14400",'
                    rf'workload="{first["workload"]}"\}} (\S+)'
                )
                shown = re.search(sample, text)
                assert shown is not None, text
                assert float(shown[1]) == first["forecast"]
                assert f'sha256="{first["artifact"]}"' in text
        return str(first["artifact"])

    def scaled(self, number: int, level: float) -> float:
        workload, metric = SERIES[number]
        metadata = {"workload": workload, "metric": metric, "target": "1", "quantile": str(level)}
        request = pb.GetMetricsRequest(scaledObjectRef=pb.ScaledObjectRef(scalerMetadata=metadata))
        with grpc.insecure_channel(self.grpc) as channel:
            answer = pb_grpc.ExternalScalerStub(channel).GetMetrics(request, timeout=HANG)
        return float(answer.metricValues[0].metricValueFloat)


def expected(directory: Path, origin: int, number: int) -> pd.DataFrame:
    rows = [rows_of(one, origin - 40 * 86_400, origin) for one in range(len(SERIES))]
    history = FrameSource(pd.concat(rows, ignore_index=True))
    made = Forecaster.load(directory).forecast(history, at=origin, quantiles=LEVELS)
    return made[made["workload"] == SERIES[number][0]]


def publish(models: Path, version: str) -> None:
    (models / "next").symlink_to(f"versions/{version}")
    (models / "next").replace(models / "champion")


def test_faults_of_source_and_artifact_and_a_kill(tmp_path: Path) -> None:
    models, standin = tmp_path / "models", Prometheus()
    artifacts = {}
    for seed in range(2):
        made = save(models / "versions" / str(seed), seed)
        artifacts[Artifact.load(made).identity] = made
    old, new = artifacts
    publish(models, "0")
    with standin.serve() as url:
        server = Process(tmp_path, url, standin)
        with server.running() as process:
            server.until(server.is_ready, process)
            assert server.check(artifacts) == old
            standin.faults = {0: "503", 1: "html"}
            failures = server.metric(FAILURES)
            publish(models, "1")  # has to read the whole history
            server.until(lambda: server.metric(FAILURES) > failures, process)
            assert server.check(artifacts) == old
            assert server.metric("kforecast_artifact_refused") == 0
            shutil.copytree(artifacts[new], models / "versions" / "half")
            file = models / "versions" / "half" / "checkpoint.pth"
            file.write_bytes(file.read_bytes()[:1000])
            standin.faults = {}
            publish(models, "half")
            server.until(lambda: server.metric("kforecast_artifact_refused") == 1, process)
            assert server.check(artifacts) == old
            publish(models, "1")
            server.until(lambda: server.ask()["artifact"] == new, process)
            assert server.check(artifacts) == new
            assert server.metric("kforecast_artifact_refused") == 0
            before = server.ask()
            process.kill()
            process.wait(timeout=HANG)
        with server.running() as process:
            server.until(server.is_ready, process)
            assert server.check(artifacts) == new
            after = server.ask()
            if after["origin"] == before["origin"]:
                np.testing.assert_allclose(after["value"], before["value"], rtol=1e-6)
            standin.faults, standin.asked = {0: "hangs", 1: "hangs"}, []
            publish(models, "0")
            server.until(lambda: len(standin.asked) > 0, process)
            assert server.check(artifacts) == new
            with lingering(server):
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=HANG) == 143
    assert "Traceback" not in server.log()


@contextmanager
def lingering(server: Process) -> Iterator[None]:
    """Clients that begin a request, do not read their answers, or wait for news."""
    host, port = server.address.split(":")
    with (
        socket.create_connection((host, int(port))) as half,
        socket.create_connection((host, int(port))) as deaf,
        grpc.insecure_channel(server.grpc) as channel,
    ):
        half.sendall(b"GET /forecast?work")
        deaf.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 300)
        workload, metric = SERIES[0]
        reference = pb.ScaledObjectRef(scalerMetadata={"workload": workload, "metric": metric, "target": "1"})
        next(pb_grpc.ExternalScalerStub(channel).StreamIsActive(reference))
        yield


# Python waits for threads of the resolver when it ends.
HANGING = """
import socket, threading
real = socket.getaddrinfo
def hanging(host, *more, **others):
    if host == "prometheus.example":
        print("asked", flush=True)
        threading.Event().wait()
    return real(host, *more, **others)
socket.getaddrinfo = hanging
from kforecast.commands.serve import main
main()
"""


def test_a_name_server_that_hangs_does_not_hold_up_the_end(tmp_path: Path) -> None:
    save(tmp_path / "model")
    (tmp_path / "serve.py").write_text(HANGING)
    address = f"localhost:{free_port()}"
    arguments = [
        *("artifact_dir=model", "source=prometheus", "source.url=http://prometheus.example:9090"),
        *("source.queries=[{workload: shop/a, metric: qps, query: x}]", f"serve.address={address}"),
    ]
    command = [sys.executable, "serve.py", *arguments]
    with (tmp_path / "serve.log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log, text=True)
    try:
        wait_for("asked", tmp_path / "serve.log", process)
        assert get(f"http://{address}/healthz")[0] == 200
        status, text = get(f"http://{address}/readyz")
        assert status == 503
        assert "no history has been read yet" in text
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=HANG) == 143
    finally:
        process.kill()
        process.wait(timeout=HANG)
    assert "Traceback" not in (tmp_path / "serve.log").read_text()
