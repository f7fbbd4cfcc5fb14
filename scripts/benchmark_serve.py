"""Measure kforecast-serve: start, memory, the work of a new bin, and answers a second.

A stand-in of Prometheus with built-in traffic answers one query a series. The engine runs in this process,
with a clock that the script moves; the answers are those of the HTTP application, asked from another process.

    python scripts/benchmark_serve.py --artifact model --series 1000
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import socket
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--artifact", type=Path, required=True, help="directory of an artifact")
    parser.add_argument("--series", type=int, default=1000)
    parser.add_argument("--step", type=int, default=600, help="seconds between rows (source.step)")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=5.0, help="of asking")
    parser.add_argument("--rate", type=float, default=2000.0, help="answers a second of the paced part")
    given = parser.parse_args()
    port = _free_port()
    standin = multiprocessing.get_context("spawn").Process(target=_prometheus, args=(port,), daemon=True)
    standin.start()
    _wait(port)
    _measure(given, port)
    standin.terminate()


def _measure(given: argparse.Namespace, port: int) -> None:
    from kforecast.metrics.prometheus import PrometheusSource
    from kforecast.serving.board import AskDefaults, Board
    from kforecast.serving.engine import Engine
    from kforecast.serving.feed import Feed
    from kforecast.serving.lean import lean

    lean()
    print(f"memory with the libraries {_memory():.0f} MB")
    queries = [
        {"workload": f"shop/service-{number:05d}", "metric": "qps", "query": f"series_{number}"}
        for number in range(given.series)
    ]
    source = PrometheusSource(url=f"http://127.0.0.1:{port}", queries=queries, proxy="none", step=given.step)
    now = [time.time() // 600 * 600 + 60]
    board = Board(AskDefaults("max", 0.9, None), lambda: now[0])
    engine = Engine(board, given.artifact, Feed(source), 15.0, [0.1, 0.5, 0.9])
    step = engine.live.forecaster.window.frequency.step
    now[0] = time.time() // step * step + min(60, step / 2)
    for what in ("start to a first forecast", "a new bin", "the next bin"):
        wall, cpu = time.perf_counter(), time.process_time()
        engine.step()
        assert board.snapshot is not None, board.reason
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        fetched, made = board.fetches[2], board.forecasts[2]
        print(
            f"{what}: {wall:.2f} s, {cpu:.2f} s of CPU time (read {fetched:.2f} s, forecast {made:.2f} s); "
            f"memory {_memory():.0f} MB, at most {_most_memory():.0f} MB so far"
        )
        now[0] += step
    now[0] -= step
    asyncio.run(_answers(given, board))


async def _answers(given: argparse.Namespace, board: Any) -> None:
    from kforecast.serving import http
    from kforecast.serving.exposition import Exposition

    exposition = Exposition(board, [0.1, 0.5, 0.9])
    begun = time.process_time()
    text = await exposition.render()
    lines = text.count(b"\n")
    print(f"/metrics: {time.process_time() - begun:.3f} s of CPU time, {lines:,} lines, {len(text):,} bytes")
    made = http.application(board, exposition)
    context = multiprocessing.get_context("spawn")
    async with http.serving(made, "127.0.0.1:0", None) as port:
        for rate in (given.rate, 0.0):
            receiver, sender = context.Pipe(duplex=False)
            asked = (port, given.series, given.clients, given.seconds, rate, sender)
            client = context.Process(target=_clients, args=asked, daemon=True)
            client.start()
            begun, cpu = time.perf_counter(), time.process_time()
            while not receiver.poll():
                await asyncio.sleep(0.2)
            spent = (time.process_time() - cpu) / (time.perf_counter() - begun)
            found = receiver.recv()
            how = f"paced at {rate:,.0f}/s" if rate else "as fast as they can"
            print(
                f"GET /forecast, {given.clients} clients, {how}: {found['rate']:,.0f} answers a second, "
                f"p50 {found['p50']:.1f} ms, p99 {found['p99']:.1f} ms; {spent:.0%} of a core"
            )
            client.join()


def _clients(port: int, series: int, clients: int, seconds: float, rate: float, sender: Any) -> None:
    asyncio.run(_ask(port, series, clients, seconds, rate, sender))


async def _ask(port: int, series: int, clients: int, seconds: float, rate: float, sender: Any) -> None:
    """Ask over plain sockets: a client library would need more time than the server."""
    took: list[float] = []

    async def one(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        random = np.random.default_rng(number)
        pause = clients / rate if rate else 0.0
        due = time.perf_counter() + pause * number / clients
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            if pause:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                due += pause
            path = f"/forecast?workload=shop/service-{random.integers(series):05d}&metric=qps"
            begun = time.perf_counter()
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            json.loads(await reader.readexactly(length))
            took.append(time.perf_counter() - begun)
        writer.close()

    await asyncio.gather(*(one(number) for number in range(clients)))
    p50, p99 = np.percentile(took, [50, 99]) * 1000
    sender.send({"rate": len(took) / seconds, "p50": float(p50), "p99": float(p99)})


def _prometheus(port: int) -> None:
    from aiohttp import web

    async def query_range(request: web.Request) -> web.Response:
        asked = request.query if request.method == "GET" else await request.post()
        start, end, step = (float(str(asked[name])) for name in ("start", "end", "step"))
        number = int(str(asked["query"]).rpartition("_")[2])
        moments = np.arange(start, end + 1, step)
        values = 100 + number % 50 + 40 * np.sin(2 * np.pi * moments / 86_400 + number)
        values += 3 * np.sin(moments * 12.9898 + number)  # repeatable noise
        pairs = ",".join(
            f'[{moment:.0f},"{value:.4f}"]' for moment, value in zip(moments, values, strict=True)
        )
        result = f'"result":[{{"metric":{{}},"values":[{pairs}]}}]'
        text = f'{{"status":"success","data":{{"resultType":"matrix",{result}}}}}'
        return web.Response(text=text, content_type="application/json")

    made = web.Application()
    made.router.add_route("*", "/api/v1/query_range", query_range)
    web.run_app(made, host="127.0.0.1", port=port, print=None)


def _memory() -> float:
    """Resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _most_memory() -> float:
    """The largest resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(port: int) -> None:
    for _ in range(200):
        with socket.socket() as probe:
            if not probe.connect_ex(("127.0.0.1", port)):
                return
        threading.Event().wait(0.1)
    raise SystemExit("the stand-in of Prometheus did not start")


if __name__ == "__main__":
    main()
