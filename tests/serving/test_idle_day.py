"""A day of a server, replayed fast: what it holds at the end is what it held after eight hours."""

import asyncio
import gc
import threading
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from hand_made import Clock
from standin import Prometheus
from untrained import SERIES, START, save

from conftest import HANG
from kforecast.metrics.prometheus import PrometheusSource
from kforecast.serving import external_scaler, http
from kforecast.serving.board import AskDefaults, Board
from kforecast.serving.engine import Engine
from kforecast.serving.exposition import Exposition
from kforecast.serving.feed import Feed
from kforecast.serving.model import Model
from kforecast.serving.proto import externalscaler_pb2 as pb
from kforecast.serving.proto import externalscaler_pb2_grpc as pb_grpc
from kforecast.window import Window

STEP = 600
ASKED = 8


@dataclass
class Held:
    """What the process holds."""

    memory: int
    files: int
    threads: int

    @classmethod
    def now(cls) -> "Held":
        gc.collect()
        files = len([*Path("/proc/self/fd").iterdir()])
        memory = 0
        if tracemalloc.is_tracing():
            # The measurement of the tests' coverage keeps something for each thread there ever was.
            ours = [tracemalloc.Filter(False, "*/coverage/*")]
            traced = tracemalloc.take_snapshot().filter_traces(ours)
            memory = sum(one.size for one in traced.statistics("filename"))
        return cls(memory, files, threading.active_count())


async def idle(engine: Engine, clock: Clock, asked: list[Any], bins: int) -> list[Held]:
    """Pass many bins; what is held after a third, two thirds, and the end."""
    board, held = engine.board, []
    application = http.application(board, Exposition(board, (0.5, 0.9)))
    loop = asyncio.get_running_loop()
    async with (
        http.serving(application, "127.0.0.1:0", None) as port,
        external_scaler.serving(board, "127.0.0.1:0") as grpc_port,
    ):
        for number in range(bins):
            clock.now += STEP
            engine.next_attempt = 0.0
            await loop.run_in_executor(None, engine.step)
            assert board.snapshot is not None
            assert board.snapshot.origin == clock.now // STEP * STEP
            # A level that is not made in advance, as well.
            paths = [f"/forecast?workload=shop/{one}&metric=qps" for one in "abx"] * ASKED
            paths += [f"{paths[0]}&quantile={0.1 + number % 40 / 100:.2f}", "/metrics", "/", "/nothing"]
            await ask(port, paths)
            await scale(grpc_port)
            asked.clear()
            if (number + 1) % (bins // 3) == 0:
                held.append(Held.now())
                if not tracemalloc.is_tracing():
                    tracemalloc.start()
    return held


async def ask(port: int, paths: list[str]) -> None:
    """A client that comes, asks and goes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    last = len(paths) - 1
    for number, path in enumerate(paths):
        close = "Connection: close\r\n" if number == last else ""
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n{close}\r\n".encode())
    assert (await reader.read(-1)).count(b"HTTP/1.1 ") == len(paths)
    writer.close()
    await writer.wait_closed()


async def scale(port: int) -> None:
    workload, metric = SERIES[0]
    reference = pb.ScaledObjectRef(scalerMetadata={"workload": workload, "metric": metric, "target": "1"})
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = pb_grpc.ExternalScalerStub(channel)
        await stub.GetMetrics(pb.GetMetricsRequest(scaledObjectRef=reference), timeout=HANG)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc")
@pytest.mark.parametrize(
    "bins", [48, pytest.param(144, marks=pytest.mark.slow)], ids=["eight hours", "a day"]
)
def test_memory_files_and_threads_are_flat(bins: int, tmp_path: Path) -> None:
    save(tmp_path / "model", window=Window("10min", 6, 3))
    clock, standin = Clock(START + 40 * 86_400 + 20.0), Prometheus(STEP)
    with standin.serve() as url:
        source = PrometheusSource(url=url, deadline=HANG, **standin.arguments)
        engine = Engine(
            Board(AskDefaults(), clock), Model(tmp_path / "model"), Feed(source), 15.0, [0.5, 0.9]
        )
        try:
            first, second, third = asyncio.run(idle(engine, clock, standin.asked, bins))
        finally:
            tracemalloc.stop()
    # Memory is traced from the end of the first third on; a snapshot has 6 KB.
    assert third.memory - second.memory < 80_000
    # A connection may be closing as they are counted; one left open a bin would be 32 more.
    assert third.files < first.files + 10
    assert third.threads < first.threads + 10
