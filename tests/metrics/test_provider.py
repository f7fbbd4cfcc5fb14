"""The provider that serves a frame, and the one in front of a Prometheus."""

import asyncio

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kforecast.errors import ConfigError
from kforecast.metrics.fetching import Series
from kforecast.metrics.kapacity import query_of
from kforecast.metrics.prometheus import PrometheusSource
from kforecast.metrics.proto import provider_pb2 as pb
from kforecast.metrics.provider import FrameBackend, PrometheusBackend
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
