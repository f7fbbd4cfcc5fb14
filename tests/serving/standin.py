"""A stand-in for a Prometheus: rows that follow from their moments, and faults of any kind."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import pandas as pd
from untrained import HOUR, SERIES

# Seconds between two rows.
STEP = 1800
# Answers that are no numbers of a series.
BROKEN: dict[str, tuple[int, bytes]] = {
    "503": (503, b"overloaded"),
    "html": (200, b"<html><body>Sign in</body></html>"),
    "text": (200, b"all is well"),
    "error": (422, b'{"status": "error", "errorType": "execution", "error": "query timed out"}'),
    "null": (200, b'{"status": "success", "data": {"resultType": "matrix", "result": null}}'),
    "labels": (
        200,
        b'{"status": "success", "data": {"resultType": "matrix", "result":'
        b' [{"metric": ["shop/a"], "values": [[1700000000, "1"]]}]}}',
    ),
    "words": (
        200,
        b'{"status": "success", "data": {"resultType": "matrix", "result":'
        b' [{"metric": {}, "values": [[1700000000, "many"]]}]}}',
    ),
}
# Further faults without rows: a closed connection, half of an answer, infinite values.
WITHOUT_ROWS = (*BROKEN, "away", "cut", "infinite")
# Rows of another kind, that a server has to take as they are.
OTHER_ROWS = ("thousandfold", "unknown", "split")


def values_at(number: int, moments: np.ndarray, kind: str = "") -> np.ndarray:
    """The values of a service: a daily rhythm, and noise that follows from the moment."""
    noise = 6 * np.mod(43_758.5453 * np.sin(12.9898 * (moments % 86_399) + number), 1) - 3
    found = 100.0 * (number + 1) * (1 + 0.5 * np.sin(2 * np.pi * moments / 86_400)) + noise
    return 1000 * found if kind == "thousandfold" else found


def rows_of(number: int, start: int, end: int, kind: str = "", step: int = STEP) -> pd.DataFrame:
    """The rows of a service before ``end``, as an answer of that kind tells them."""
    moments = np.arange(-(-start // step) * step, end, step)
    values = values_at(number, moments, kind)
    if kind == "unknown":
        values[moments >= end - 2 * HOUR] = np.nan
    workload, metric = SERIES[number]
    return pd.DataFrame({"timestamp": moments, "value": values, "workload": workload, "metric": metric})


class Prometheus:
    """Answers ``query_range`` for the queries ``0`` and ``1``, the numbers of the services.

    Parameters
    ----------
    step:
        Seconds between two rows.

    Attributes
    ----------
    faults:
        By service: one of the names above, ``slow``, or ``hangs``.
    released:
        A slow answer waits for it.
    asked:
        The questions so far: service, fault, the moments of its first row and after its last one.
    """

    def __init__(self, step: int = STEP) -> None:
        self.step = step
        self.faults: dict[int, str] = {}
        self.released = threading.Event()
        self.ended = threading.Event()
        self.asked: list[tuple[int, str, int, int]] = []

    @property
    def arguments(self) -> dict[str, Any]:
        """Settings of the source, its address aside."""
        pairs = enumerate(SERIES)
        queries = [{"workload": pair[0], "metric": pair[1], "query": str(number)} for number, pair in pairs]
        return {"step": self.step, "queries": queries}

    def answer(self, query: dict[str, str]) -> tuple[int, bytes]:
        """Status and body."""
        number, start, end = int(query["query"]), int(query["start"]), int(query["end"])
        fault = self.faults.get(number, "")
        self.asked.append((number, fault, start, end + self.step))
        if fault in BROKEN:
            return BROKEN[fault]
        if fault == "slow":
            self.released.wait()
        if fault == "hangs":
            self.ended.wait()
        rows = rows_of(number, start, end + self.step, fault, self.step)
        values = rows["value"].to_numpy()
        if fault == "infinite":
            values = np.r_[values[:-1], np.inf]
        parts = [values / 4, values * 3 / 4] if fault == "split" else [values]
        result = [
            {
                "metric": {"pod": str(part)},
                "values": list(zip(rows["timestamp"].tolist(), map(repr, some.tolist()), strict=True)),
            }
            for part, some in enumerate(parts)
        ]
        content = {"status": "success", "data": {"resultType": "matrix", "result": result}}
        return 200, json.dumps(content).encode()

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Answer until the block ends; yields the URL."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                query = dict(parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
                fault = outer.faults.get(int(query["query"]), "")
                status, body = outer.answer(query)
                self.close_connection = True
                if fault == "away":
                    return
                with suppress(ConnectionError):  # a client that has gone
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)

            def log_message(self, *arguments: object) -> None:
                pass

        with _threaded(Handler) as port:
            try:
                yield f"http://127.0.0.1:{port}"
            finally:
                self.released.set()
                self.ended.set()


@contextmanager
def _threaded(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
