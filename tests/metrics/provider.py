"""A metrics provider in this process that can fail on demand."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

from kforecast.metrics.proto import provider_pb2 as pb

Answer = Callable[[pb.QueryRequest], pb.QueryResponse]


def moments(request: pb.QueryRequest) -> range:
    """The grid of a request."""
    step = request.step.seconds
    return range(request.start.seconds, request.end.seconds + step, step)


def value(second: int, name: str = "") -> float:
    return (second % 86_400) / 7 + sum(map(ord, name))


def answer(request: pb.QueryRequest) -> pb.QueryResponse:
    """One series over the whole grid; its values encode the workload and the timestamp."""
    response = pb.QueryResponse()
    query = request.query
    name = getattr(getattr(query, query.WhichOneof("query")), "name", "")
    points = response.series.add(labels={"pod": "a"}).points
    points.extend(pb.Point(timestamp=1000 * t, value=value(t, name)) for t in moments(request))
    return response


class Provider:
    """The state of the service: all requests received, and the faults to produce.

    ``faults`` maps what goes wrong (``unavailable``, ``unknown``, ``cut``, ``silent``, or a status code with
    a text) to its probability.
    """

    def __init__(
        self, answer: Answer = answer, faults: dict[Any, float] | None = None, seed: int = 0
    ) -> None:
        self.answer, self.faults = answer, faults or {}
        self.random = random.Random(seed)
        self.requests: list[pb.QueryRequest] = []
        self.metadata: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        self.active = self.most_active = 0
        self.stopped = threading.Event()

    def query(self, request: pb.QueryRequest, context: grpc.ServicerContext) -> bytes:
        with self.lock:
            self.requests.append(request)
            self.metadata.append(dict(context.invocation_metadata()))
            self.active += 1
            self.most_active = max(self.most_active, self.active)
            draw = self.random.random()
        try:
            for fault, share in self.faults.items():
                if draw < share:
                    return self.fail(fault, request, context)
                draw -= share
            return self.answer(request).SerializeToString()
        finally:
            with self.lock:
                self.active -= 1

    def fail(self, fault: Any, request: pb.QueryRequest, context: grpc.ServicerContext) -> bytes:
        if fault == "unavailable":
            context.abort(grpc.StatusCode.UNAVAILABLE, "the server is restarting")
        if fault == "unknown":
            context.abort(grpc.StatusCode.UNKNOWN, "prom query range failed: server_error")
        if fault == "silent":
            while context.is_active() and not self.stopped.is_set():
                time.sleep(0.01)
        if fault == "cut":
            whole = self.answer(request).SerializeToString()
            return whole[: self.random.randrange(1, len(whole))]
        if isinstance(fault, tuple):
            context.abort(*fault)
        return b""

    @contextmanager
    def serve(self, credentials: grpc.ServerCredentials | None = None) -> Iterator[str]:
        """Listen on a port of this machine; yield the address."""
        handler = grpc.unary_unary_rpc_method_handler(
            self.query, request_deserializer=pb.QueryRequest.FromString
        )
        service = "io.kapacitystack.metric.ProviderService"
        server = grpc.server(ThreadPoolExecutor(32))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Query": handler}),))
        if credentials is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        try:
            yield f"localhost:{port}"
        finally:
            stopping = server.stop(None)  # no more answers
            self.stopped.set()
            stopping.wait(5)
