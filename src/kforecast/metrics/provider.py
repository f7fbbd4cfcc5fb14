"""A metrics provider (contract 4) that serves a frame or queries a Prometheus, for laptops and tests."""

import asyncio
import contextlib
import logging
import re
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import grpc.aio
import numpy as np
import pandas as pd
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from kforecast.errors import ConfigError, SourceError, few
from kforecast.metrics.fetching import Ask, PassingError, Series, TooLargeError
from kforecast.metrics.kapacity import query_of
from kforecast.metrics.prometheus import PrometheusSource
from kforecast.metrics.proto import provider_pb2 as pb
from kforecast.metrics.proto import provider_pb2_grpc as pb_grpc
from kforecast.metrics.selector import parse_selector, promql_matchers, quoted
from kforecast.metrics.spec import Target
from kforecast.metrics.timerange import MOST_POINTS, TimeRange

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
SERVICE = "io.kapacitystack.metric.ProviderService"
# Maximum age of the newest sample, seconds: the default lookback of Prometheus.
_LOOKBACK = 300
_GRACE = 5.0
# Clients that cut apiVersion at its slash send the version of the core group, which has no slash, as a group.
_VERSION = re.compile(r"v[0-9]+((alpha|beta)[0-9]+)?")


class Backend(Protocol):
    """Where the provider gets its answers."""

    def connect(self) -> AbstractAsyncContextManager[Ask[pb.Query]]:
        """Open the backend; yield a function that answers a query for a range."""
        ...


class QueryNames:
    """The names in a query of any type.

    Attributes
    ----------
    names:
        ``namespace``, ``name`` (of the workload or object), ``kind``, ``metric`` (or resource),
        ``container`` and ``selector`` (in its string form); empty where the query has none.

    Raises
    ------
    ValueError
        When the query's type and content differ, or the type is not served.
    """

    def __init__(self, query: pb.Query) -> None:
        self.type = pb.QueryType.Name(query.type)
        chosen = query.WhichOneof("query")
        if chosen is None or chosen.upper() != self.type:
            raise ValueError(f"the query's type is {self.type}, but its content is {chosen or 'missing'}")
        if "pod" in chosen or chosen == "container_resource":
            raise ValueError(f"{self.type} queries are not served here, only those of workloads and objects")
        content = getattr(query, chosen)
        identifier = getattr(content, "metric", None)
        self.names = {
            "namespace": content.namespace,
            "name": getattr(content, "name", ""),
            "kind": content.group_kind.kind if hasattr(content, "group_kind") else "",
            "metric": identifier.name if identifier is not None else content.resource_name,
            "container": getattr(content, "container_name", ""),
            "selector": identifier.selector if identifier is not None else "",
        }

    def __str__(self) -> str:
        said = " ".join(f"{name}={value}" for name, value in self.names.items() if value)
        return f"{self.type} {said}"


@dataclass(frozen=True)
class Configured:
    """A metric of a target: its series, and the selector of its query in its string form."""

    workload: str
    metric: str
    selector: str

    def __str__(self) -> str:
        return f"{self.workload} {self.metric} (selector {self.selector or 'none'})"


class ConfiguredQueries:
    """The queries of ``targets``, found again as clients ask them.

    Kapacity's job never sends a selector, and sends the core group as ``v1``.
    """

    def __init__(self, targets: Sequence[Target]) -> None:
        self._by_query: dict[bytes, list[Configured]] = {}
        for target in targets:
            for metric in target.metrics:
                key, selector = _without_selector(query_of(target, metric))
                configured = Configured(target.workload, metric.series_name, selector)
                self._by_query.setdefault(key, []).append(configured)

    def find(self, query: pb.Query) -> Configured | None:
        """The metric that a query asks for, with its selector or, if only one metric fits, without; or None.

        Raises
        ------
        ValueError
            When several metrics fit.
        """
        key, selector = _without_selector(query)
        wanted = sorted(parse_selector(selector))
        fitting = self._by_query.get(key, [])
        found = [one for one in fitting if sorted(parse_selector(one.selector)) == wanted]
        if not found and not wanted:
            found = fitting
        if len(found) > 1:
            remedy = "ask with a selector" if not wanted else "configure one of them only"
            raise ValueError(
                f"{QueryNames(query)}: {len(found)} configured series fit this query: "
                f"{few([str(one) for one in found])}; {remedy}"
            )
        return found[0] if found else None


def _without_selector(query: pb.Query) -> tuple[bytes, str]:
    """The parts of a query that tell metrics apart, and its selector."""
    bare = pb.Query()
    bare.CopyFrom(query)
    chosen = bare.WhichOneof("query")
    if chosen is None:
        return b"", ""
    content, selector = getattr(bare, chosen), ""
    if "group_kind" in content.DESCRIPTOR.fields_by_name and _VERSION.fullmatch(content.group_kind.group):
        content.group_kind.group = ""
    if "ready_pods_only" in content.DESCRIPTOR.fields_by_name:
        content.ready_pods_only = False
    if "metric" in content.DESCRIPTOR.fields_by_name:
        selector = content.metric.selector
        content.metric.ClearField("selector")
    return bare.SerializeToString(deterministic=True), selector


class FrameBackend:
    """Answers from a long frame.

    A query for one of ``targets`` returns the series of that target and metric. Any other query is matched by
    name: the metric, the namespace (the workload up to its slash) and, where the query has one, the name of
    the workload. All matching series are returned; a selector may filter them by the labels ``namespace``,
    ``workload`` and ``metric``.

    Parameters
    ----------
    frame:
        A frame of contract 3.
    targets:
        The targets of a train-config.yaml.
    shift:
        Seconds added to every timestamp.
    """

    def __init__(self, frame: pd.DataFrame, targets: Sequence[Target] = (), shift: int = 0) -> None:
        known = frame[frame["value"].notna()].sort_values("timestamp", kind="stable")
        self.series = {
            (str(workload), str(metric)): (
                rows["timestamp"].to_numpy(dtype=np.float64) + shift,
                rows["value"].to_numpy(dtype=np.float64),
            )
            for (workload, metric), rows in known.groupby(["workload", "metric"], observed=True)
        }
        self.configured = ConfiguredQueries(targets)

    def find(self, query: pb.Query) -> list[tuple[str, str]]:
        """The series that match a query; ValueError when it is not supported, or fits several targets."""
        names = QueryNames(query).names
        configured = self.configured.find(query)
        if configured is not None and (configured.workload, configured.metric) in self.series:
            return [(configured.workload, configured.metric)]
        requirements = parse_selector(names["selector"])
        found = [
            key
            for key in self.series
            if key[1] == names["metric"]
            and key[0].partition("/")[0] == names["namespace"]
            and all(requirement.holds(_labels(key)) for requirement in requirements)
        ]
        same_name = [key for key in found if key[0] == f"{names['namespace']}/{names['name']}"]
        if same_name or (names["name"] and query.type != pb.OBJECT):
            return same_name
        return found

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Ask[pb.Query]]:
        """Yield a function that answers from the frame; there is nothing to open."""

        async def ask(query: pb.Query, asked: TimeRange) -> list[Series]:
            return [_on_grid(_labels(key), *self.series[key], asked) for key in self.find(query)]

        yield ask


def _labels(key: tuple[str, str]) -> dict[str, str]:
    namespace, _, name = key[0].partition("/")
    return {"namespace": namespace, "workload": name, "metric": key[1]}


def _on_grid(labels: dict[str, str], timestamps: np.ndarray, values: np.ndarray, asked: TimeRange) -> Series:
    """Resample a series: each point is the mean of the step that ends there, and so uses no later row."""
    begin = np.searchsorted(timestamps, asked.start - asked.step, side="right")
    end = np.searchsorted(timestamps, asked.end, side="right")
    position = np.ceil((timestamps[begin:end] - asked.start) / asked.step).astype(np.int64)
    inside = position < asked.num_points
    count = np.bincount(position[inside], minlength=asked.num_points)
    total = np.bincount(position[inside], weights=values[begin:end][inside], minlength=asked.num_points)
    known = np.flatnonzero(count)
    return Series(labels, asked.start + known * asked.step, total[known] / count[known])


class PrometheusBackend:
    """Answers from a Prometheus, with a PromQL template per metric.

    Parameters
    ----------
    source:
        Address and credentials of the Prometheus; its own queries are ignored.
    templates:
        PromQL by name of metric or resource. The placeholders ``<<namespace>>``, ``<<name>>``, ``<<kind>>``,
        ``<<metric>>``, ``<<container>>`` and ``<<selector>>`` (as label matchers) are filled from the query.
    targets:
        The targets of a train-config.yaml: a query without a selector gets that of the target it fits.

    Raises
    ------
    ConfigError
        When there is no template, or one has an unknown placeholder.
    """

    PLACEHOLDERS = ("namespace", "name", "kind", "metric", "container", "selector")

    def __init__(
        self, source: PrometheusSource, templates: Mapping[str, str], targets: Sequence[Target] = ()
    ) -> None:
        if not templates:
            raise ConfigError(
                "serve.templates: empty; give a PromQL template for every metric to serve, like "
                "serve.templates={qps: 'sum(rate(http_requests_total{namespace=\"<<namespace>>\"}[5m]))'}"
            )
        for metric, template in templates.items():
            for placeholder in re.findall(r"<<(.*?)>>", template):
                if placeholder not in self.PLACEHOLDERS:
                    known = ", ".join(f"<<{name}>>" for name in self.PLACEHOLDERS)
                    raise ConfigError(
                        f"serve.templates.{metric}: unknown placeholder <<{placeholder}>>; known: {known}"
                    )
        self.source, self.templates = source, templates
        self.configured = ConfiguredQueries(targets)

    def promql(self, query: pb.Query) -> str:
        """The PromQL for a query; ValueError when there is no template for it, or it fits several targets."""
        asked = QueryNames(query)
        template = self.templates.get(asked.names["metric"])
        if template is None:
            raise ValueError(
                f"no query template for the metric {asked.names['metric']!r}; "
                f"known: {', '.join(self.templates)}"
            )
        values = {name: quoted(value)[1:-1] for name, value in asked.names.items()}
        configured = self.configured.find(query)
        selector = asked.names["selector"] if configured is None else configured.selector
        values["selector"] = promql_matchers(parse_selector(selector))
        return re.sub(r"<<(\w+)>>", lambda match: values[match[1]], template)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Ask[pb.Query]]:
        """Open one session with the Prometheus."""
        async with self.source.connect() as ask_promql:

            async def ask(query: pb.Query, asked: TimeRange) -> list[Series]:
                promql = self.promql(query)
                by_labels: dict[tuple[tuple[str, str], ...], list[Series]] = {}
                for chunk in asked.chunks(MOST_POINTS):
                    try:
                        answer = await ask_promql(promql, chunk)
                    except PassingError as error:
                        raise PassingError(f"{error}{self.source.way}") from error
                    for series in answer:
                        by_labels.setdefault(tuple(sorted(series.labels.items())), []).append(series)
                return [
                    Series(
                        dict(labels),
                        np.concatenate([one.timestamps for one in parts]),
                        np.concatenate([one.values for one in parts]),
                    )
                    for labels, parts in by_labels.items()
                ]

            yield ask


class ProviderService(pb_grpc.ProviderServiceServicer):
    """The gRPC service; like the real one, it answers every failure with the status UNKNOWN and a text."""

    def __init__(self, ask: Ask[pb.Query]) -> None:
        self.ask = ask

    async def Query(  # noqa: N802
        self, request: pb.QueryRequest, context: Context
    ) -> pb.QueryResponse:
        """Return one series per label set over a range."""
        step = request.step.ToMilliseconds() // 1000
        asked = TimeRange(request.start.ToSeconds(), request.end.ToSeconds(), step)
        if step < 1 or asked.end < asked.start:
            await context.abort(
                grpc.StatusCode.UNKNOWN, f"invalid range: {asked} every {step} s; start <= end, step >= 1 s"
            )
        answer = pb.QueryResponse()
        for series in await self._series(request.query, asked, context):
            answer.series.add(labels=dict(series.labels)).points.extend(_points(series))
        return answer

    async def QueryLatest(  # noqa: N802
        self, request: pb.QueryLatestRequest, context: Context
    ) -> pb.QueryLatestResponse:
        """Return the newest sample of each label set, unless it is older than five minutes."""
        answer = pb.QueryLatestResponse()
        recent = TimeRange.ending(time.time(), _LOOKBACK, 60)
        for series in await self._series(request.query, recent, context):
            if points := _points(series)[-1:]:
                answer.samples.add(labels=dict(series.labels), point=points[0])
        return answer

    async def _series(self, query: pb.Query, asked: TimeRange, context: Context) -> Sequence[Series]:
        begun = time.monotonic()
        try:
            series = await self.ask(query, asked)
        except (PassingError, TooLargeError, TimeoutError) as error:
            failure = f"prom query range failed: {error}"
        except (SourceError, ValueError) as error:
            failure = str(error)
        else:
            said = f"{len(series)} series, {sum(len(one.values) for one in series):,} points"
            log.info("%s, %s: %s, %.0f ms", QueryNames(query), asked, said, 1000 * (time.monotonic() - begun))
            return series
        log.warning("refused: %s", failure)
        await context.abort(grpc.StatusCode.UNKNOWN, failure)
        raise AssertionError("abort raises")


def _points(series: Series) -> list[pb.Point]:
    milliseconds = (np.asarray(series.timestamps) * 1000).astype(np.int64).tolist()
    return [
        pb.Point(timestamp=moment, value=value)
        for moment, value in zip(milliseconds, series.values.tolist(), strict=True)
    ]


async def serve(backend: Backend, address: str) -> signal.Signals:
    """Serve until SIGINT or SIGTERM, then let pending requests finish (for at most five seconds).

    Returns
    -------
    The signal received.

    Raises
    ------
    SourceError
        When the server cannot listen on the address.
    """
    stopped: asyncio.Future[signal.Signals] = asyncio.get_running_loop().create_future()

    def stop(number: signal.Signals) -> None:
        if not stopped.done():
            stopped.set_result(number)

    async with backend.connect() as ask:
        # Without SO_REUSEPORT, a port in use is an error instead of sharing another server's requests.
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        pb_grpc.add_ProviderServiceServicer_to_server(ProviderService(ask), server)
        healthy = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
        for service in ("", SERVICE):
            await healthy.set(service, health_pb2.HealthCheckResponse.SERVING)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        try:
            port = server.add_insecure_port(address)
        except RuntimeError as error:
            raise SourceError(
                f"cannot listen on {address}: is the port in use? Choose another: serve.address=HOST:PORT"
            ) from error
        await server.start()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop, number)
        log.info("Serving at %s:%d; stop with Ctrl-C", address.rpartition(":")[0], port)
        try:
            return await stopped
        finally:
            await healthy.enter_graceful_shutdown()
            with contextlib.suppress(asyncio.CancelledError):
                await server.stop(_GRACE)
