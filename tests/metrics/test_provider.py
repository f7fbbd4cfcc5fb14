"""The provider that serves a frame, and the one in front of a Prometheus."""

import asyncio
import copy
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import HANG
from kforecast.errors import ConfigError
from kforecast.metrics.fetching import Series
from kforecast.metrics.kapacity import KapacitySource, query_of
from kforecast.metrics.prometheus import PrometheusSource
from kforecast.metrics.proto import provider_pb2 as pb
from kforecast.metrics.proto import provider_pb2_grpc as pb_grpc
from kforecast.metrics.provider import FrameBackend, PrometheusBackend, ProviderService
from kforecast.metrics.spec import Target
from kforecast.metrics.timerange import TimeRange

START = 1_704_067_200


def frame(*series: tuple[str, str], rows: int = 5) -> pd.DataFrame:
    columns = ["timestamp", "value", "workload", "metric"]
    data = [(START + 60 * i, float(i), *names) for names in series for i in range(rows)]
    return pd.DataFrame(data, columns=columns)


SHOP = frame(("shop/web", "qps"), ("shop/web", "cpu"), ("shop/cart", "qps"), ("other/web", "qps"))


def pods(name: str, metric: str = "qps", selector: str | None = None) -> pb.Query:
    return pb.Query(
        type=pb.WORKLOAD_EXTERNAL,
        workload_external=pb.WorkloadExternalQuery(
            namespace="shop", name=name, metric=pb.MetricIdentifier(name=metric, selector=selector)
        ),
    )


def external(metric: str, selector: str | None = None) -> pb.Query:
    identifier = pb.MetricIdentifier(name=metric, selector=selector)
    return pb.Query(type=pb.EXTERNAL, external=pb.ExternalQuery(namespace="shop", metric=identifier))


def of_object(name: str) -> pb.Query:
    identifier = pb.MetricIdentifier(name="qps")
    return pb.Query(type=pb.OBJECT, object=pb.ObjectQuery(namespace="shop", name=name, metric=identifier))


@pytest.mark.parametrize(
    "query, found",
    [
        (pods("web"), [("shop/web", "qps")]),
        (pods("web", "cpu"), [("shop/web", "cpu")]),
        (pods("nobody"), []),
        (pods("web", "memory"), []),
        (of_object("cart"), [("shop/cart", "qps")]),
        (of_object("ingress"), [("shop/cart", "qps"), ("shop/web", "qps")]),
        (external("qps"), [("shop/cart", "qps"), ("shop/web", "qps")]),
        (external("qps", "workload=web"), [("shop/web", "qps")]),
        (external("qps", "workload notin (web)"), [("shop/cart", "qps")]),
    ],
    ids=str,
)
def test_series_are_found_by_name(query: pb.Query, found: list[tuple[str, str]]) -> None:
    assert sorted(FrameBackend(SHOP).find(query)) == found


def test_queries_of_a_train_config_find_the_series_of_their_target() -> None:
    target = Target.model_validate(
        {
            "workloadNamespace": "shop",
            "workloadName": "web",
            "historyLength": "1D",
            "metrics": [{"name": "qps", "type": "External", "external": {"metric": {"name": "nginx_total"}}}],
        }
    )
    query = query_of(target, target.metrics[0])
    assert FrameBackend(SHOP).find(query) == []
    assert FrameBackend(SHOP, [target]).find(query) == [("shop/web", "qps")]


def test_queries_for_pods_alone_are_refused() -> None:
    query = pb.Query(type=pb.POD_RESOURCE, pod_resource=pb.PodResourceQuery(namespace="shop", name="web-1"))
    with pytest.raises(ValueError, match="POD_RESOURCE queries are not served here"):
        FrameBackend(SHOP).find(query)
    with pytest.raises(ValueError, match="its content is external"):
        FrameBackend(SHOP).find(pb.Query(type=pb.OBJECT, external=external("qps").external))


def answered(backend: FrameBackend, query: pb.Query, asked: TimeRange) -> list[Series]:
    async def ask() -> list[Series]:
        async with backend.connect() as answer:
            return [*await answer(query, asked)]

    return asyncio.run(ask())


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 900), st.floats(0, 9)), min_size=1, max_size=30),
    start=st.integers(-100, 900),
    count=st.integers(1, 20),
    step=st.integers(1, 120),
)
def test_a_moment_is_the_mean_of_the_step_that_ends_there(
    rows: list[tuple[int, float]], start: int, count: int, step: int
) -> None:
    table = pd.DataFrame(rows, columns=["timestamp", "value"]).assign(workload="shop/web", metric="qps")
    asked = TimeRange(start, start + (count - 1) * step, step)
    (series,) = answered(FrameBackend(table), pods("web"), asked)
    known = {}
    for moment in range(start, start + count * step, step):
        if values := [value for second, value in rows if moment - step < second <= moment]:
            known[moment] = sum(values) / len(values)
    assert series.timestamps.tolist() == [*known]
    np.testing.assert_allclose(series.values, [*known.values()])


def test_rows_can_be_shifted() -> None:
    asked = TimeRange(START + 3600, START + 3600 + 240, 60)
    (series,) = answered(FrameBackend(SHOP, shift=3600), pods("web"), asked)
    assert series.values.tolist() == [0, 1, 2, 3, 4]
    assert series.labels == {"namespace": "shop", "workload": "web", "metric": "qps"}


PROMETHEUS = PrometheusSource(url="http://localhost:1")


@pytest.mark.parametrize(
    "query, promql",
    [
        (pods("web"), 'sum(x{namespace="shop",name="web",})'),
        (pods("web", selector="a=b,c in (d,e)"), 'sum(x{namespace="shop",name="web",a="b",c=~"d|e"})'),
        (pods('a"} or vector(1) #\\'), 'sum(x{namespace="shop",name="a\\"} or vector(1) #\\\\",})'),
    ],
)
def test_templates_become_promql(query: pb.Query, promql: str) -> None:
    template = 'sum(x{namespace="<<namespace>>",name="<<name>>",<<selector>>})'
    assert PrometheusBackend(PROMETHEUS, {"qps": template}).promql(query) == promql


def test_templates_that_are_missing_or_wrong() -> None:
    with pytest.raises(ConfigError, match=r"serve\.templates: empty"):
        PrometheusBackend(PROMETHEUS, {})
    with pytest.raises(
        ConfigError, match=r"serve\.templates\.qps: unknown placeholder <<nmae>>; known: <<namespace>>"
    ):
        PrometheusBackend(PROMETHEUS, {"qps": 'x{a="<<nmae>>"}'})
    with pytest.raises(ValueError, match="no query template for the metric 'cpu'; known: qps"):
        PrometheusBackend(PROMETHEUS, {"qps": "x"}).promql(pods("web", "cpu"))


def configured(name: str, metric: dict[str, Any], core: bool = False) -> Target:
    """A target with one metric, of a Deployment or of a kind of the core group."""
    ref = {"apiVersion": "v1" if core else "apps/v1", "kind": "Pod" if core else "Deployment", "name": name}
    return Target.model_validate(
        {"workloadNamespace": "shop", "workloadRef": ref, "historyLength": "1D", "metrics": [metric]}
    )


def metric_of(kind: str, name: str, selector: dict[str, str] | None = None) -> dict[str, Any]:
    """A metric of any type, whose series is called ``qps``."""
    identified = {"name": name} | ({} if selector is None else {"selector": {"matchLabels": selector}})
    described = {"apiVersion": "v1", "kind": "Service", "name": "front"}
    blocks: dict[str, dict[str, Any]] = {
        "Object": {"object": {"metric": identified, "describedObject": described}},
        "External": {"external": {"metric": identified}},
        "Pods": {"pods": {"metric": identified}},
        "Resource": {"resource": {"name": name}},
        "ContainerResource": {"containerResource": {"name": name, "container": "main"}},
    }
    return {"name": "qps", "type": kind, **blocks[kind]}


def as_the_job_sends(query: pb.Query) -> pb.Query:
    """Kapacity's job sends no selector, and the core group as v1 (contract 7)."""
    sent = copy.deepcopy(query)
    content = getattr(sent, sent.WhichOneof("query"))
    if hasattr(content, "group_kind") and not content.group_kind.group:
        content.group_kind.group = "v1"
    if hasattr(content, "metric"):
        content.metric.ClearField("selector")
    return sent


def over_grpc(backend: FrameBackend | PrometheusBackend, work: Callable[[str], Any]) -> Any:
    """Call ``work`` in a thread with the address of a real server."""

    async def serve() -> Any:
        server = grpc.aio.server()
        async with backend.connect() as ask:
            pb_grpc.add_ProviderServiceServicer_to_server(ProviderService(ask), server)
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            try:
                return await asyncio.to_thread(work, f"localhost:{port}")
            finally:
                await server.stop(None)

    return asyncio.run(serve())


def query_range(query: pb.Query) -> Callable[[str], Any]:
    def work(address: str) -> Any:
        request = pb.QueryRequest(query=query)
        request.start.FromSeconds(START)
        request.end.FromSeconds(START + 240)
        request.step.FromSeconds(60)
        with grpc.insecure_channel(address) as channel:
            try:
                return pb_grpc.ProviderServiceStub(channel).Query(request, timeout=HANG)
            except grpc.RpcError as error:
                return error

    return work


@pytest.mark.parametrize("core", [False, True])
@pytest.mark.parametrize("kind", ["Object", "External", "Pods", "Resource", "ContainerResource"])
def test_the_queries_of_kapacitys_job_are_answered(kind: str, core: bool) -> None:
    selector = None if "Resource" in kind else {"host": "web.example.org"}
    targets = [configured("web", metric_of(kind, "requests", selector), core)]
    backend = FrameBackend(SHOP, targets)
    query = query_of(targets[0], targets[0].metrics[0])
    for sent in (query, as_the_job_sends(query)):
        (series,) = over_grpc(backend, query_range(sent)).series
        assert series.labels == {"namespace": "shop", "workload": "web", "metric": "qps"}
        assert [point.value for point in series.points] == [0, 1, 2, 3, 4]
    # Our own source asks the same server.
    targets_of_source = [target.model_dump(exclude_none=True) for target in targets]
    fetched = over_grpc(
        backend,
        lambda address: KapacitySource(address=address, targets=targets_of_source, end=START + 240).fetch(),
    )
    assert fetched["value"].dropna().tolist() == [0, 1, 2, 3, 4]


def test_a_query_without_its_selector_that_fits_two_series_names_both() -> None:
    targets = [
        configured("web", metric_of("External", "requests", {"host": "web"})),
        configured("cart", metric_of("External", "requests", {"host": "cart"})),
    ]
    backend = FrameBackend(SHOP, targets)
    query = query_of(targets[1], targets[1].metrics[0])
    (series,) = over_grpc(backend, query_range(query)).series
    assert series.labels["workload"] == "cart"
    refused = over_grpc(backend, query_range(as_the_job_sends(query)))
    assert refused.code() is grpc.StatusCode.UNKNOWN
    assert refused.details() == (
        "EXTERNAL namespace=shop metric=requests: 2 configured series fit this query: shop/web qps (selector "
        "host=web), shop/cart qps (selector host=cart); ask with a selector"
    )


def test_a_metric_configured_without_a_selector_is_the_one_without() -> None:
    targets = [
        configured("web", metric_of("External", "requests", {"host": "web"})),
        configured("cart", metric_of("External", "requests")),
    ]
    query = as_the_job_sends(query_of(targets[0], targets[0].metrics[0]))
    assert FrameBackend(SHOP, targets).find(query) == [("shop/cart", "qps")]


def test_two_series_with_the_same_query_are_refused() -> None:
    targets = [configured(name, metric_of("External", "requests")) for name in ("web", "cart")]
    with pytest.raises(ValueError, match=r"2 configured series fit .*shop/web qps.*shop/cart qps"):
        FrameBackend(SHOP, targets).find(query_of(targets[0], targets[0].metrics[0]))


def test_the_form_of_a_selector_does_not_matter() -> None:
    targets = [configured("web", metric_of("External", "requests", {"a": "b", "c": "d"}))]
    query = external("requests", "c == d , a in (b)")
    assert FrameBackend(SHOP, targets).find(query) == [("shop/web", "qps")]


def test_a_prometheus_is_asked_with_the_selector_that_a_query_lacks() -> None:
    template = {"requests": "sum(requests{<<selector>>})"}
    web = configured("web", metric_of("External", "requests", {"host": "web"}))
    cart = configured("cart", metric_of("External", "requests", {"host": "cart"}))
    query = as_the_job_sends(query_of(web, web.metrics[0]))
    assert PrometheusBackend(PROMETHEUS, template).promql(query) == "sum(requests{})"
    assert PrometheusBackend(PROMETHEUS, template, [web]).promql(query) == 'sum(requests{host="web"})'
    with pytest.raises(ValueError, match="2 configured series fit"):
        PrometheusBackend(PROMETHEUS, template, [web, cart]).promql(query)
    other = external("requests", "host=other")
    assert PrometheusBackend(PROMETHEUS, template, [web]).promql(other) == 'sum(requests{host="other"})'
