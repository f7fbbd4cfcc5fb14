"""KEDA's external scaler (contract 8): the numbers of a board over gRPC.

Nothing honest to say is an error status, never the value 0: KEDA would scale down on that.
"""

import asyncio
import contextlib
import hashlib
import hmac
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kforecast.errors import ConfigError, SourceError
from kforecast.serving.board import Board
from kforecast.serving.proto import externalscaler_pb2 as pb
from kforecast.serving.proto import externalscaler_pb2_grpc as pb_grpc
from kforecast.serving.snapshot import Answer, AskError, NothingHonestError, UnknownSeriesError
from kforecast.validation import problems_of

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
SERVICE = "externalscaler.ExternalScaler"
# Keys of KEDA's own in the metadata of an external trigger.
_OF_KEDA = {
    *("scalerAddress", "tlsCertFile", "tlsClientCert", "tlsClientKey", "caCert", "enableTLS", "unsafeSsl"),
}
_STATUS: dict[type[Exception], grpc.StatusCode] = {
    ConfigError: grpc.StatusCode.INVALID_ARGUMENT,
    AskError: grpc.StatusCode.INVALID_ARGUMENT,
    UnknownSeriesError: grpc.StatusCode.NOT_FOUND,
    NothingHonestError: grpc.StatusCode.UNAVAILABLE,
}
# Seconds between two looks at the board for a change.
_PERIOD = 0.5
# Seconds that pending answers have at the end.
_GRACE = 2.0
_MOST_BYTES = 64 * 1024
_MOST_RPCS = 1_000
_MOST_CONNECTIONS = 1_000
# Characters of a text; more do not fit into the 8 KiB of an answer's headers, where one takes up to 12 bytes.
_LONGEST_TEXT = 600
# Largest float below 2^63.
_LARGEST = 2.0**63 - 1024
# Characters of a metric's name: with KEDA's prefix it is still short enough for a label of Kubernetes.
_LONGEST_NAME = 56

Number = Annotated[float, Field(allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1)]


class Trigger(BaseModel):
    """The metadata of a trigger: a question to the board, and how KEDA scales on its answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    workload: Text
    metric: Text
    target: Annotated[Number, Field(gt=0)]
    quantile: Number | None = None
    window: Number | None = None
    lead: Number | None = None
    activation: Number = 0.0

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> "Trigger":
        """Check ``scalerMetadata``; ConfigError names every wrong key and value."""
        ours = {key: value for key, value in metadata.items() if key not in _OF_KEDA}
        try:
            return cls.model_validate(ours)
        except ValidationError as error:
            raise ConfigError(f"scalerMetadata: {'; '.join(problems_of(error, model=cls))}") from error

    @property
    def metric_name(self) -> str:
        """A name that Kubernetes takes; the hash at its end tells apart names that differ in other signs."""
        asked = [self.workload, self.metric]
        for key, number in (("q", self.quantile), ("window", self.window), ("lead", self.lead)):
            if number is not None:
                asked.append(f"{key}{number}")
        digest = hashlib.sha256(repr(asked).encode()).hexdigest()[:8]
        words = re.sub("[^a-z0-9]+", "-", "-".join(["kforecast", *asked]).lower())
        return f"{words[: _LONGEST_NAME - 9].strip('-')}-{digest}"

    def ask(self, board: Board) -> Answer:
        """The board's answer; raises as :meth:`Board.ask`."""
        return board.ask(
            self.workload, self.metric, quantile=self.quantile, lead=self.lead, window=self.window
        )

    def is_active(self, board: Board) -> bool:
        """Whether the value is above the activation; raises as :meth:`Board.ask`."""
        return self.ask(board).value > self.activation


class ExternalScaler(pb_grpc.ExternalScalerServicer):
    """The gRPC service.

    Wrong metadata is answered with the status INVALID_ARGUMENT, an unknown series with NOT_FOUND, and a
    series without an honest number with UNAVAILABLE and the reason.
    """

    def __init__(self, board: Board) -> None:
        self.board = board
        self.stopping = asyncio.Event()

    async def IsActive(  # noqa: N802
        self, request: pb.ScaledObjectRef, context: Context
    ) -> pb.IsActiveResponse:
        """Whether the value is above ``activation``, 0 by default."""
        async with _status_of_errors(context):
            return pb.IsActiveResponse(result=Trigger.of(request.scalerMetadata).is_active(self.board))

    async def StreamIsActive(  # noqa: N802
        self, request: pb.ScaledObjectRef, context: Context
    ) -> AsyncIterator[pb.IsActiveResponse]:
        """The same now and at every change, until the client cancels or the server stops."""
        async with _status_of_errors(context):
            trigger, sent = Trigger.of(request.scalerMetadata), None
            while not self.stopping.is_set():
                active = trigger.is_active(self.board)
                if active is not sent:
                    yield pb.IsActiveResponse(result=active)
                    sent = active
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.stopping.wait(), _PERIOD)

    async def GetMetricSpec(  # noqa: N802
        self, request: pb.ScaledObjectRef, context: Context
    ) -> pb.GetMetricSpecResponse:
        """Name and target; they depend on the metadata alone, so that KEDA can set up before a forecast."""
        async with _status_of_errors(context):
            trigger = Trigger.of(request.scalerMetadata)
            # Rounded down, for those that read the integer: too many replicas rather than too few.
            size = max(1, math.floor(min(trigger.target, _LARGEST)))
            spec = pb.MetricSpec(
                metricName=trigger.metric_name, targetSize=size, targetSizeFloat=trigger.target
            )
            return pb.GetMetricSpecResponse(metricSpecs=[spec])

    async def GetMetrics(  # noqa: N802
        self, request: pb.GetMetricsRequest, context: Context
    ) -> pb.GetMetricsResponse:
        """The value now."""
        async with _status_of_errors(context):
            trigger = Trigger.of(request.scaledObjectRef.scalerMetadata)
            own = trigger.metric_name
            name = request.metricName or own
            # KEDA puts the number of the trigger before the name.
            if re.sub("^s[0-9]+-", "", name) != own:
                raise ConfigError(f"metricName: {name!r} is not the metric of this scalerMetadata, {own!r}")
            value = trigger.ask(self.board).value
            whole = math.ceil(max(min(value, _LARGEST), -_LARGEST))
            return pb.GetMetricsResponse(
                metricValues=[pb.MetricValue(metricName=name, metricValue=whole, metricValueFloat=value)]
            )


@asynccontextmanager
async def _status_of_errors(context: Context) -> AsyncIterator[None]:
    try:
        yield
    except tuple(_STATUS) as error:
        await context.abort(_STATUS[type(error)], str(error)[:_LONGEST_TEXT])


class BearerToken(grpc.aio.ServerInterceptor):
    """Refuses calls without the token; health stays open.

    Parameters
    ----------
    token:
        Returns the token that counts now.
    """

    def __init__(self, token: Callable[[], str]) -> None:
        self.token = token

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Pass the call on, or answer it with UNAUTHENTICATED."""
        if handler_call_details.method.startswith(f"/{health.SERVICE_NAME}/"):
            return await continuation(handler_call_details)
        given = str(dict(handler_call_details.invocation_metadata or ()).get("authorization", ""))
        scheme, _, token = given.partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(token.encode(), self.token().encode()):
            return await continuation(handler_call_details)
        # A handler of streams serves calls of every kind, and reads nothing of them.
        return grpc.stream_stream_rpc_method_handler(_unauthenticated)


async def _unauthenticated(_requests: object, context: Context) -> AsyncIterator[bytes]:
    await context.abort(
        grpc.StatusCode.UNAUTHENTICATED, "the metadata key authorization must hold: Bearer TOKEN"
    )
    yield b""


@asynccontextmanager
async def serving(
    board: Board,
    address: str,
    *,
    certificate: tuple[str, str] | None = None,
    client_ca: str | None = None,
    token: Callable[[], str] | None = None,
) -> AsyncIterator[int]:
    """Answer from a board until the block ends; pending calls then have two seconds.

    Parameters
    ----------
    address:
        ``HOST:PORT``; port 0 for any free one.
    certificate:
        Paths of certificate chain and private key, PEM; None for plain text.
    client_ca:
        Path of an authority, PEM: callers must show a certificate that it has signed; None to ask for none.
        It needs a certificate of the server.
    token:
        Returns the bearer token that callers must send; None to answer everybody.

    Yields
    ------
    The port.

    Raises
    ------
    SourceError
        When the server cannot listen on the address.
    """
    assert certificate is not None or client_ca is None, "plain text shows no certificates"
    server = grpc.aio.server(
        interceptors=[] if token is None else [BearerToken(token)],
        options=[
            # Without SO_REUSEPORT, a port in use is an error instead of sharing another server's requests.
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", _MOST_BYTES),
            ("grpc.max_allowed_incoming_connections", _MOST_CONNECTIONS),
        ],
        maximum_concurrent_rpcs=_MOST_RPCS,
    )
    scaler, healthy = ExternalScaler(board), health.aio.HealthServicer()
    pb_grpc.add_ExternalScalerServicer_to_server(scaler, server)
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    await _set_health(healthy, board)
    try:
        if certificate is None:
            port = server.add_insecure_port(address)
        else:
            chain, key = (Path(path).read_bytes() for path in certificate)
            authority = None if client_ca is None else Path(client_ca).read_bytes()
            credentials = grpc.ssl_server_credentials([(key, chain)], authority, client_ca is not None)
            port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        pair = "" if certificate is None else f", and are {' and '.join(certificate)} a pair"
        raise SourceError(
            f"cannot listen on {address}: is the port in use{pair}? Choose another: serve.grpc=HOST:PORT"
        ) from error
    await server.start()
    following = asyncio.create_task(_follow_health(healthy, board))
    try:
        yield port
    finally:
        following.cancel()
        scaler.stopping.set()
        await healthy.enter_graceful_shutdown()
        await server.stop(_GRACE)


async def _follow_health(healthy: health.aio.HealthServicer, board: Board) -> None:
    while True:
        await asyncio.sleep(_PERIOD)
        await _set_health(healthy, board)


async def _set_health(healthy: health.aio.HealthServicer, board: Board) -> None:
    """SERVING once a first forecast exists."""
    states = health_pb2.HealthCheckResponse
    for service in ("", SERVICE):
        await healthy.set(service, states.NOT_SERVING if board.snapshot is None else states.SERVING)
