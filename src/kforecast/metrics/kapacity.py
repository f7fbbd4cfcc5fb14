"""``source=kapacity``: the gRPC metrics provider (contract 4)."""

import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

# Keeps gRPC from logging handshakes itself; it reads this variable when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
import grpc.aio
import numpy as np
from google.protobuf.message import DecodeError
from pydantic import AfterValidator, Field

from kforecast.errors import ConfigError, SourceError
from kforecast.metrics.credentials import is_loopback
from kforecast.metrics.fetching import Ask, PassingError, Question, Series, TooLargeError
from kforecast.metrics.proto import provider_pb2 as pb
from kforecast.metrics.proxies import Proxy, from_environment
from kforecast.metrics.selector import selector_text
from kforecast.metrics.server_source import ServerSource
from kforecast.metrics.spec import MetricIdentifier, MetricSpec, Target, Targets, api_group
from kforecast.metrics.timerange import TimeRange
from kforecast.window import parse_duration

QUERY_METHOD = "/io.kapacitystack.metric.ProviderService/Query"
# A series of 11,000 points takes 200 KB, so an answer may hold about three hundred of them.
MOST_BYTES = 64 * 2**20

# The provider answers every failure with UNKNOWN, so only its text tells whether a retry may succeed.
_FOR_GOOD = re.compile(r"bad_data|parse error|invalid|unsupported|not found|no query template", re.IGNORECASE)
_PASSING = re.compile(
    r"prom\w* query \w*\s?failed|connection (refused|reset)|broken pipe|\beof\b|time[d ]?\s?out|"
    r"deadline exceeded|unavailable|server_error|too many|\b50[0234]\b",
    re.IGNORECASE,
)
_UNREACHABLE = re.compile(
    r"last error: \w+: \S+: (?:Failed to connect to remote host: )?(.+)$|"
    r"address lookup failed for \S+ (.+?)\]"
)
# The environment variables that gRPC reads, in its order.
_PROXY = ("grpc_proxy", "https_proxy", "http_proxy")
_NO_PROXY = ("no_grpc_proxy", "no_proxy", "NO_PROXY")
_UNTRUSTED = re.compile(r"CERTIFICATE_VERIFY_FAILED: ([^:]+)|(Hostname Verification Check failed)")


def _check_address(address: str) -> str:
    host, _, port = address.rpartition(":")
    if "//" in address or "@" in address or not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        said = address if "@" not in address else "it"
        raise ValueError(f"{said!r} is not HOST:PORT, like localhost:9090")
    return address


class KapacitySource(ServerSource):
    """The targets of a train-config.yaml, fetched from the provider at ``address``."""

    address: Annotated[str, AfterValidator(_check_address)]
    """``HOST:PORT``."""
    targets: Targets = Field(default=[])
    """As in train-config.yaml (contract 2)."""

    def __str__(self) -> str:
        count = len(self.targets)
        return f"the metrics of {count:,} {'target' if count == 1 else 'targets'} from {self.address}"

    @property
    def server(self) -> str:
        """The address."""
        return self.address

    @property
    def is_plain_text(self) -> bool:
        """Whether TLS is off and the provider is not on this machine."""
        return not self.tls.wanted and not is_loopback(self.address.rpartition(":")[0])

    @property
    def proxy(self) -> Proxy | None:
        """The proxy of gRPC's variables on the way to the provider; gRPC takes only those with http://."""
        host, _, port = self.address.rpartition(":")
        found = from_environment(host, int(port), _PROXY, _NO_PROXY)
        return found if found is not None and found.url.startswith("http://") else None

    @property
    def way(self) -> str:
        """The end of a message about a failure; see :attr:`FetchSettings.way`."""
        return "" if self.proxy is None else self.proxy.way

    def questions(self, now: float) -> list[Question[pb.Query]]:
        """One question per metric of every target.

        Raises
        ------
        ConfigError
            When there are no targets.
        """
        if not self.targets:
            raise ConfigError(
                "source.targets: empty, so there is nothing to ask the metrics provider for; name a "
                "train-config.yaml that has targets: --config-file=FILE"
            )
        return [
            Question(
                target.workload,
                metric.series_name,
                description_of(metric),
                TimeRange.ending(now, parse_duration(target.historyLength), self.step),
                query_of(target, metric),
            )
            for target in self.targets
            for metric in target.metrics
        ]

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Ask[pb.Query]]:
        """Open one channel for all requests."""
        options: list[tuple[str, int | str]] = [
            ("grpc.max_receive_message_length", MOST_BYTES),
            # Notice a restarted server between two attempts; gRPC's own backoff grows to minutes.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
        ]
        proxy = self.proxy
        options.append(("grpc.enable_http_proxy", 0) if proxy is None else ("grpc.http_proxy", proxy.url))
        if self.tls.server_name is not None:
            options.append(("grpc.ssl_target_name_override", self.tls.server_name))
        token = self.token()
        metadata = [("authorization", f"Bearer {token}")] if token is not None else None
        if self.tls.wanted:
            ca, key, cert = map(_bytes_of, (self.tls.ca, self.tls.key, self.tls.cert))
            credentials = grpc.ssl_channel_credentials(ca, key, cert)
            channel = grpc.aio.secure_channel(self.address, credentials, options)
        else:
            channel = grpc.aio.insecure_channel(self.address, options)
        async with channel:
            # Without a deserializer, because the generated stub returns truncated answers as if complete.
            query: grpc.aio.UnaryUnaryMultiCallable[pb.QueryRequest, bytes] = channel.unary_unary(
                QUERY_METHOD, request_serializer=pb.QueryRequest.SerializeToString
            )

            async def ask(asked: pb.Query, chunk: TimeRange) -> list[Series]:
                request = pb.QueryRequest(query=asked)
                request.start.FromSeconds(chunk.start)
                request.end.FromSeconds(chunk.end)
                request.step.FromSeconds(chunk.step)
                try:
                    answer = await query(request, timeout=self.deadline, metadata=metadata)
                except grpc.aio.AioRpcError as error:
                    raise self._error_of(error) from error
                return series_of(answer)

            yield ask

    def _error_of(self, error: grpc.aio.AioRpcError) -> Exception:
        """The error of ours for a failed RPC: transient, too large, or permanent."""
        code, said = error.code(), " ".join((error.details() or "no reason given").split())
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in said:
            return TooLargeError(said)
        if untrusted := _UNTRUSTED.search(said):
            return SourceError(
                f"{self.address}: the server's certificate is refused: {untrusted[1] or untrusted[2]} "
                f"(source.tls.ca, source.tls.server_name){self.way}"
            )
        if "WRONG_VERSION_NUMBER" in said:
            return SourceError(
                f"{self.address}: the server does not speak TLS; leave source.tls out{self.way}"
            )
        text = f"{code.name}: {said}"
        if code is grpc.StatusCode.UNAVAILABLE:
            if unreachable := _UNREACHABLE.search(said):
                text = f"cannot be reached: {unreachable[1] or unreachable[2]}"
            if "Socket closed" in said and self.proxy is None:
                # Retried, because a restarting server closes its sockets, too.
                hint = (
                    "does it require a client certificate (source.tls.cert, source.tls.key)?"
                    if self.tls.wanted
                    else "does it speak TLS (source.tls.ca=FILE)?"
                )
                text = f"{text}; {hint}"
            return PassingError(text)
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return PassingError(f"no answer within {self.deadline:g} s")
        if code is grpc.StatusCode.CANCELLED or (code is grpc.StatusCode.INTERNAL and "RST_STREAM" in said):
            # We never cancel a request that we await, so the server did, as it does on shutdown.
            return PassingError(f"the server ended the call ({text})")
        if code is grpc.StatusCode.UNKNOWN and _PASSING.search(said) and not _FOR_GOOD.search(said):
            return PassingError(text)
        if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            text += " (source.token_file or source.token_env names a bearer token)"
        return SourceError(f"{self.address}: {text}")


def query_of(target: Target, metric: MetricSpec) -> pb.Query:
    """Build the query for a metric of a target (contract 4, "How metric types map to queries")."""
    namespace = target.workloadNamespace
    if metric.type == "Object":
        assert metric.object is not None
        described = metric.object.describedObject
        return pb.Query(
            type=pb.OBJECT,
            object=pb.ObjectQuery(
                group_kind=_group_kind(described.apiVersion, described.kind),
                namespace=namespace,
                name=described.name,
                metric=_identifier(metric.object.metric),
            ),
        )
    if metric.type == "External":
        assert metric.external is not None
        return pb.Query(
            type=pb.EXTERNAL,
            external=pb.ExternalQuery(namespace=namespace, metric=_identifier(metric.external.metric)),
        )
    assert target.workloadRef is not None  # Target checks this
    group_kind = _group_kind(target.workloadRef.apiVersion, target.workloadRef.kind)
    name = target.workloadRef.name
    if metric.type == "Pods":
        assert metric.pods is not None
        return pb.Query(
            type=pb.WORKLOAD_EXTERNAL,
            workload_external=pb.WorkloadExternalQuery(
                group_kind=group_kind,
                namespace=namespace,
                name=name,
                metric=_identifier(metric.pods.metric),
            ),
        )
    if metric.type == "Resource":
        assert metric.resource is not None
        return pb.Query(
            type=pb.WORKLOAD_RESOURCE,
            workload_resource=pb.WorkloadResourceQuery(
                group_kind=group_kind,
                namespace=namespace,
                name=name,
                resource_name=metric.resource.name,
                ready_pods_only=True,
            ),
        )
    assert metric.containerResource is not None
    return pb.Query(
        type=pb.WORKLOAD_CONTAINER_RESOURCE,
        workload_container_resource=pb.WorkloadContainerResourceQuery(
            group_kind=group_kind,
            namespace=namespace,
            name=name,
            resource_name=metric.containerResource.name,
            container_name=metric.containerResource.container,
            ready_pods_only=True,
        ),
    )


def _group_kind(api_version: str, kind: str) -> pb.GroupKind:
    return pb.GroupKind(group=api_group(api_version), kind=kind)


def _identifier(metric: MetricIdentifier) -> pb.MetricIdentifier:
    selector = selector_text(metric.selector) or None if metric.selector is not None else None
    return pb.MetricIdentifier(name=metric.name, selector=selector)


def description_of(metric: MetricSpec) -> str:
    """A metric for messages: type, name, object or container, selector."""
    block = getattr(metric, metric.BLOCKS[metric.type])
    queried = getattr(block, "metric", None)
    text = f"{metric.type} {queried.name if queried is not None else block.name}"
    if metric.object is not None and metric.type == "Object":
        text += f" of {metric.object.describedObject.kind}/{metric.object.describedObject.name}"
    if metric.containerResource is not None and metric.type == "ContainerResource":
        text += f" of the container {metric.containerResource.container}"
    if queried is not None and queried.selector is not None:
        text += f", selector {selector_text(queried.selector)}"
    return text


def series_of(answer: bytes) -> list[Series]:
    """Decode a ``QueryResponse``.

    Raises
    ------
    PassingError
        When the answer is truncated.
    """
    try:
        response = pb.QueryResponse.FromString(answer)
    except DecodeError as error:
        raise PassingError("the answer is truncated") from error
    return [_series(series) for series in response.series]


def _series(series: pb.Series) -> Series:
    points, length = series.points, len(series.points)
    milliseconds = np.fromiter((point.timestamp for point in points), np.int64, length)
    values = np.fromiter((point.value for point in points), np.float64, length)
    whole = not (milliseconds % 1000).any()
    return Series(dict(series.labels), milliseconds // 1000 if whole else milliseconds / 1000, values)


def _bytes_of(path: str | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
