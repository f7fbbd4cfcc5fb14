"""``source=kapacity`` with a provider in this process: exact, bounded, retried, safe."""

import datetime
import logging
import math
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pandas as pd
import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st
from provider import Provider, answer, moments, value

from conftest import HANG
from kforecast.errors import ConfigError, SourceError
from kforecast.metrics import fetching
from kforecast.metrics.kapacity import KapacitySource, description_of, query_of, series_of
from kforecast.metrics.proto import provider_pb2 as pb
from kforecast.metrics.spec import MetricSpec, Target

END = 1_704_100_000 // 60 * 60
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "FIRST_PAUSE", 0.001)


def target(name: str = "web", history: str = "2H", **metric: Any) -> dict[str, Any]:
    metric = metric or {"type": "Resource", "resource": {"name": "cpu"}}
    return {
        "workloadNamespace": "shop",
        "workloadRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
        "historyLength": history,
        "metrics": [metric],
    }


def source(address: str, *targets: dict[str, Any], **settings: Any) -> KapacitySource:
    return KapacitySource(
        address=address, **{"targets": [*targets] or [target()], "end": END, "deadline": HANG} | settings
    )


def expected(name: str = "web", history: int = 7200, step: int = 60) -> tuple[list[int], list[float]]:
    seconds = [*range(END - history, END + step, step)]
    return seconds, [value(second, name) for second in seconds]


def assert_exact(frame: pd.DataFrame, name: str = "web", history: int = 7200, step: int = 60) -> None:
    rows = frame[frame["workload"] == f"shop/{name}"]
    seconds, values = expected(name, history, step)
    assert rows["timestamp"].tolist() == seconds
    assert rows["value"].tolist() == values


@pytest.mark.slow
@pytest.mark.parametrize("room, name", [("metrics", "provider"), ("serving", "externalscaler")])
def test_generated_code_is_that_of_the_proto(room: str, name: str, tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="the dependency group slow is not installed")
    package = Path("kforecast") / room / "proto"
    out = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-Isrc", *out, f"{package / name}.proto"]
    subprocess.run(command, cwd=ROOT, check=True)
    made = sorted((tmp_path / package).iterdir())
    assert [path.name for path in made] == [f"{name}_pb2.py", f"{name}_pb2.pyi", f"{name}_pb2_grpc.py"]
    for path in made:
        assert path.read_text() == (ROOT / "src" / package / path.name).read_text(), "run make proto"


def test_field_numbers_are_those_of_the_contract() -> None:
    request = pb.QueryRequest(query=pb.Query(type=pb.EXTERNAL))
    request.query.external.namespace = "a"
    request.query.external.metric.name = "b"
    request.start.seconds, request.end.seconds, request.step.seconds = 1, 2, 3
    by_hand = (
        b"\x0a\x0c\x08\x05\x3a\x08\x0a\x01a\x12\x03\x0a\x01b\x12\x02\x08\x01\x1a\x02\x08\x02\x22\x02\x08\x03"
    )
    assert request.SerializeToString() == by_hand
    point = pb.Point(timestamp=1000, value=1.0)
    assert point.SerializeToString() == b"\x08\xe8\x07\x11" + np.float64(1.0).tobytes()
    numbers = {
        message.name: {field.name: field.number for field in message.fields}
        for message in pb.DESCRIPTOR.message_types_by_name.values()
    }
    assert numbers["Query"] == {
        "type": 1,
        "pod_resource": 2,
        "container_resource": 3,
        "workload_resource": 4,
        "workload_container_resource": 5,
        "object": 6,
        "external": 7,
        "workload_external": 8,
    }
    assert numbers["ObjectQuery"] == {"group_kind": 1, "namespace": 2, "name": 3, "selector": 4, "metric": 5}
    assert numbers["WorkloadContainerResourceQuery"]["ready_pods_only"] == 6
    assert numbers["Series"] == {"points": 1, "labels": 2, "window": 3}


SELECTOR = {"matchLabels": {"b": "2", "a": "1"}, "matchExpressions": [{"key": "c", "operator": "Exists"}]}
METRIC = {"name": "rps", "selector": SELECTOR}
DEPLOYMENT = pb.GroupKind(group="apps", kind="Deployment")
IDENTIFIER = pb.MetricIdentifier(name="rps", selector="a=1,b=2,c")
QUERIES = [
    (
        {
            "type": "Object",
            "object": {
                "metric": METRIC,
                "describedObject": {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "i"},
            },
        },
        pb.Query(
            type=pb.OBJECT,
            object=pb.ObjectQuery(
                group_kind=pb.GroupKind(group="networking.k8s.io", kind="Ingress"),
                namespace="shop",
                name="i",
                metric=IDENTIFIER,
            ),
        ),
        "Object rps of Ingress/i, selector a=1,b=2,c",
    ),
    (
        {"type": "External", "external": {"metric": {"name": "rps"}}},
        pb.Query(
            type=pb.EXTERNAL,
            external=pb.ExternalQuery(namespace="shop", metric=pb.MetricIdentifier(name="rps")),
        ),
        "External rps",
    ),
    (
        {"type": "Pods", "pods": {"metric": METRIC, "target": {"type": "Value", "value": "5"}}},
        pb.Query(
            type=pb.WORKLOAD_EXTERNAL,
            workload_external=pb.WorkloadExternalQuery(
                group_kind=DEPLOYMENT, namespace="shop", name="web", metric=IDENTIFIER
            ),
        ),
        "Pods rps, selector a=1,b=2,c",
    ),
    (
        {"type": "Resource", "resource": {"name": "cpu"}},
        pb.Query(
            type=pb.WORKLOAD_RESOURCE,
            workload_resource=pb.WorkloadResourceQuery(
                group_kind=DEPLOYMENT,
                namespace="shop",
                name="web",
                resource_name="cpu",
                ready_pods_only=True,
            ),
        ),
        "Resource cpu",
    ),
    (
        {"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "main"}},
        pb.Query(
            type=pb.WORKLOAD_CONTAINER_RESOURCE,
            workload_container_resource=pb.WorkloadContainerResourceQuery(
                group_kind=DEPLOYMENT,
                namespace="shop",
                name="web",
                resource_name="cpu",
                container_name="main",
                ready_pods_only=True,
            ),
        ),
        "ContainerResource cpu of the container main",
    ),
]


@pytest.mark.parametrize("metric, query, words", QUERIES, ids=[metric["type"] for metric, _, _ in QUERIES])
def test_every_type_becomes_its_query(metric: dict[str, Any], query: pb.Query, words: str) -> None:
    spec = MetricSpec.model_validate(metric)
    assert query_of(Target.model_validate(target(**metric)), spec) == query
    assert description_of(spec) == words


def test_the_first_generation_names_its_workload() -> None:
    old = {
        "workloadNamespace": "shop",
        "workloadName": "web",
        "historyLength": "2H",
        "metrics": [{"type": "External", "external": {"metric": {"name": "rps"}}}],
    }
    provider = Provider()
    with provider.serve() as address:
        frame = source(address, old).fetch()
    assert set(frame["workload"]) == {"shop/web"}
    assert set(frame["metric"]) == {"rps"}
    assert provider.requests[0].query == QUERIES[1][1]


def test_the_core_group_is_empty() -> None:
    described = {"apiVersion": "v1", "kind": "Service", "name": "s"}
    metric = {"type": "Object", "object": {"metric": {"name": "rps"}, "describedObject": described}}
    query = query_of(Target.model_validate(target(**metric)), MetricSpec.model_validate(metric))
    assert query.object.group_kind == pb.GroupKind(group="", kind="Service")


@settings(max_examples=15, deadline=None)
@given(
    history=st.integers(1, 300),
    step=st.sampled_from([1, 7, 60, 600]),
    requests=st.integers(1, 30),
    late=st.integers(0, 700),
)
def test_any_range_step_and_chunk_gives_the_exact_grid(
    shared_provider: Any, history: int, step: int, requests: int, late: int
) -> None:
    provider, address = shared_provider
    provider.requests.clear()
    end = (END + late) // step * step
    grid = [*range(end - history * 60 // step * step, end + step, step)]
    chunk = min(math.ceil(len(grid) / requests), 11_000)
    frame = source(
        address, target(history=f"{history}min"), step=step, chunk_points=chunk, end=END + late, concurrency=4
    ).fetch()
    assert frame["timestamp"].tolist() == grid
    asked = sorted(moment for request in provider.requests for moment in moments(request))
    assert asked == grid
    assert max(len(moments(request)) for request in provider.requests) <= chunk


@pytest.fixture(scope="module")
def shared_provider() -> Any:
    provider = Provider()
    with provider.serve() as address:
        yield provider, address


def test_all_targets_share_one_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second target is asked a second later by the server's clock, but for the same range."""
    now = iter([END + 17.3, END + 18.3, END + 77.0])
    monkeypatch.setattr("kforecast.metrics.server_source.time", SimpleNamespace(time=lambda: next(now)))
    provider = Provider()
    with provider.serve() as address:
        frame = source(address, target("a"), target("b"), end=None).fetch()
        again = source(address, target("b"), end=None).fetch()
    assert {(r.start.seconds, r.end.seconds) for r in provider.requests} == {(END - 7200, END)}
    assert_exact(frame, "a")
    assert_exact(frame, "b")
    assert again["value"].tolist() == frame.loc[frame["workload"] == "shop/b", "value"].tolist()


def test_chunks_that_overlap_and_come_in_disorder_are_one_series() -> None:
    def more_than_asked(request: pb.QueryRequest) -> pb.QueryResponse:
        request.start.seconds -= 600
        request.end.seconds += 600
        response = answer(request)
        points = [*response.series[0].points]
        del response.series[0].points[:]
        response.series[0].points.extend(reversed(points))
        return response

    with Provider(more_than_asked).serve() as address:
        frame = source(address, chunk_points=7).fetch()
    assert_exact(frame)


def several(
    *series: tuple[str, float, Callable[[int], bool]],
) -> Callable[[pb.QueryRequest], pb.QueryResponse]:
    """An answer with several constant series, each only where its condition holds."""

    def answer(request: pb.QueryRequest) -> pb.QueryResponse:
        response = pb.QueryResponse()
        for pod, level, holds in series:
            points = [pb.Point(timestamp=1000 * t, value=level) for t in moments(request) if holds(t)]
            response.series.add(labels={"pod": pod}, points=points)
        return response

    return answer


MIDDLE = END - 3600
TWO_PODS = several(("a", 1.0, lambda t: True), ("b", 5.0, lambda t: t >= MIDDLE))


@pytest.mark.parametrize("combine, early, late", [("sum", 1.0, 6.0), ("mean", 1.0, 3.0)])
def test_several_series_are_combined_and_said(
    combine: str, early: float, late: float, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with Provider(TWO_PODS).serve() as address:
        asked = source(address, on_multiple=combine, chunk_points=50)
        frame = asked.fetch()
    by_time = frame.set_index("timestamp")["value"]
    assert set(by_time[by_time.index < MIDDLE]) == {early}
    assert set(by_time[by_time.index >= MIDDLE]) == {late}
    assert "shop/web cpu: 2 series {pod=a}, {pod=b}" in caplog.text
    assert asked.report is not None
    assert asked.report.questions[0].labels == [{"pod": "a"}, {"pod": "b"}]


def test_several_series_can_be_refused() -> None:
    with Provider(TWO_PODS).serve() as address, pytest.raises(SourceError) as caught:
        source(address, on_multiple="error").fetch()
    assert "2 series answer where one is wanted: {pod=a}, {pod=b}" in str(caught.value)


def test_nan_is_missing() -> None:
    nan = float("nan")
    answer = several(("a", 2.0, lambda t: t < MIDDLE), ("b", nan, lambda t: True))
    with Provider(answer).serve() as address:
        frame = source(address).fetch()
    assert frame["value"].isna().tolist() == (frame["timestamp"] >= MIDDLE).tolist()
    assert set(frame["value"].dropna()) == {2.0}


def test_infinite_values_are_refused() -> None:
    with (
        Provider(several(("a", float("inf"), lambda t: True))).serve() as address,
        pytest.raises(SourceError, match=r"metric cpu .* is infinite"),
    ):
        source(address).fetch()


def only_b(request: pb.QueryRequest) -> pb.QueryResponse:
    return answer(request) if request.query.workload_resource.name == "b" else pb.QueryResponse()


def test_an_empty_answer_names_all_that_was_asked() -> None:
    metric = QUERIES[2][0]
    with Provider(several()).serve() as address, pytest.raises(SourceError) as caught:
        source(address, target(**metric)).fetch()
    said = str(caught.value)
    for word in (
        address,
        "workload shop/web",
        "metric rps",
        "Pods",
        "selector a=1,b=2,c",
        "no value",
        "check",
    ):
        assert word in said
    assert "2024-01-01" in said


def test_an_empty_answer_can_be_skipped(caplog: pytest.LogCaptureFixture) -> None:
    with Provider(only_b).serve() as address:
        with pytest.raises(SourceError, match="workload shop/a"):
            source(address, target("a"), target("b")).fetch()
        asked = source(address, target("a"), target("b"), on_empty="skip")
        frame = asked.fetch()
    assert set(frame["workload"]) == {"shop/b"}
    assert "No value, skipped: workload shop/a" in caplog.text
    assert asked.report is not None
    assert [question.workload for question in asked.report.empty] == ["shop/a"]


def test_nothing_at_all_is_an_error_even_when_empty_is_skipped() -> None:
    with Provider(several()).serve() as address, pytest.raises(SourceError, match="no value"):
        source(address, on_empty="skip").fetch()


def test_no_targets_is_said_before_anything_is_asked() -> None:
    with pytest.raises(ConfigError, match=r"source\.targets: empty"):
        KapacitySource(address="localhost:1").fetch()


FAULTS = {"unavailable": 0.30, "unknown": 0.10, "cut": 0.05}


def test_fifty_of_fifty_fetches_survive_a_bad_server() -> None:
    """With 45 % of requests failing, five attempts would lose 2 % of the answers; twenty lose none."""
    provider = Provider(faults=FAULTS, seed=1)
    retries = 0
    with provider.serve() as address:
        for _ in range(50):
            asked = source(address, target("a"), target("b"), chunk_points=50, attempts=20)
            frame = asked.fetch()
            assert_exact(frame, "a")
            assert_exact(frame, "b")
            assert asked.report is not None
            retries += sum(question.retries for question in asked.report.questions)
    assert len(provider.requests) == 50 * 2 * 3 + retries
    assert retries > 100


@pytest.mark.parametrize(
    "code, text",
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "no such query"),
        (grpc.StatusCode.UNAUTHENTICATED, "who are you"),
        (grpc.StatusCode.PERMISSION_DENIED, "not for you"),
        (grpc.StatusCode.UNIMPLEMENTED, "unknown service"),
        (grpc.StatusCode.UNKNOWN, "no such workload"),
        (grpc.StatusCode.UNKNOWN, "prom query range failed: bad_data: parse error: unexpected end"),
    ],
    ids=str,
)
def test_what_is_for_good_is_asked_once(code: grpc.StatusCode, text: str) -> None:
    provider = Provider(faults={(code, text): 1.0})
    with provider.serve() as address, pytest.raises(SourceError) as caught:
        source(address).fetch()
    assert len(provider.requests) == 1
    assert str(caught.value).startswith(f"{address}: {code.name}: {text}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fault", ["unavailable", "unknown", "cut", (grpc.StatusCode.CANCELLED, "going down")], ids=str
)
def test_what_may_pass_is_tried_as_often_as_allowed(fault: Any) -> None:
    provider = Provider(faults={fault: 1.0})
    with provider.serve() as address, pytest.raises(SourceError, match="4 attempts") as caught:
        source(address, attempts=4).fetch()
    assert len(provider.requests) == 4
    assert address in str(caught.value)


def test_a_server_that_never_answers_is_given_up_after_all_attempts() -> None:
    """No attempt ends before its deadline, and no question has too many attempts."""
    deadline, attempts = 0.5, 4
    provider = Provider(faults={"silent": 1.0})
    with provider.serve() as address:
        begun = time.monotonic()
        with pytest.raises(SourceError, match=r"no answer within 0\.5 s \(4 attempts\)") as caught:
            source(address, *map(target, "abcdef"), deadline=deadline, attempts=attempts).fetch()
        taken = time.monotonic() - begun
    assert address in str(caught.value)
    assert deadline * attempts <= taken
    asked = Counter(request.query.workload_resource.name for request in provider.requests)
    assert max(asked.values()) <= attempts
    assert len(asked) > 1  # concurrently


def test_the_whole_fetch_is_bounded() -> None:
    provider = Provider(faults={"silent": 1.0})
    with provider.serve() as address, pytest.raises(SourceError, match=r"source\.timeout=0\.3 s only 0 of 1"):
        source(address, timeout=0.3).fetch()


def test_requests_in_flight_are_bounded() -> None:
    three, turns = threading.Barrier(3), iter(range(100))

    def slowly(request: pb.QueryRequest) -> pb.QueryResponse:
        if next(turns) < 3:
            three.wait(HANG)  # three concurrent requests
        time.sleep(0.02)
        return answer(request)

    provider = Provider(slowly)
    with provider.serve() as address:
        source(address, concurrency=3, chunk_points=10).fetch()
    assert len(provider.requests) == 13
    assert provider.most_active == 3


def test_an_answer_above_the_limit_is_asked_for_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kforecast.metrics.kapacity.MOST_BYTES", 1000)
    provider = Provider()
    with provider.serve() as address:
        frame = source(address).fetch()
    assert_exact(frame)
    assert len(provider.requests) > 3


def test_a_point_may_lie_between_seconds() -> None:
    response = pb.QueryResponse()
    response.series.add(points=[pb.Point(timestamp=1500, value=1.0), pb.Point(timestamp=2000, value=0.0)])
    (series,) = series_of(response.SerializeToString())
    assert series.timestamps.tolist() == [1.5, 2.0]
    assert series.values.tolist() == [1.0, 0.0]


def pem(certificate: trustme.LeafCert, folder: Path) -> dict[str, str]:
    """The files of a certificate and its key."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    key.write_bytes(certificate.private_key_pem.bytes())
    return {"cert": str(cert), "key": str(key)}


def credentials(certificate: trustme.LeafCert, client_ca: trustme.CA | None = None) -> grpc.ServerCredentials:
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    return grpc.ssl_server_credentials(
        [(certificate.private_key_pem.bytes(), chain)],
        root_certificates=client_ca.cert_pem.bytes() if client_ca is not None else None,
        require_client_auth=client_ca is not None,
    )


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


def trusting(ca: trustme.CA, folder: Path) -> str:
    path = folder / "ca.pem"
    ca.cert_pem.write_to_path(path)
    return str(path)


def test_tls_with_the_right_authority(ca: trustme.CA, tmp_path: Path) -> None:
    with Provider().serve(credentials(ca.issue_cert("localhost"))) as address:
        assert_exact(source(address, tls={"ca": trusting(ca, tmp_path)}).fetch())


def test_tls_with_another_name(ca: trustme.CA, tmp_path: Path) -> None:
    tls = {"ca": trusting(ca, tmp_path)}
    with Provider().serve(credentials(ca.issue_cert("provider.svc"))) as address:
        with pytest.raises(SourceError, match="certificate is refused: Hostname") as caught:
            source(address, tls=tls).fetch()
        assert "source.tls.server_name" in str(caught.value)
        assert_exact(source(address, tls=tls | {"server_name": "provider.svc"}).fetch())


def test_mutual_tls(ca: trustme.CA, tmp_path: Path) -> None:
    tls = {"ca": trusting(ca, tmp_path)}
    ours = pem(ca.issue_cert("trainer@example.org"), tmp_path)
    with Provider().serve(credentials(ca.issue_cert("localhost"), client_ca=ca)) as address:
        with pytest.raises(SourceError, match=r"require a client certificate \(source\.tls\.cert") as caught:
            source(address, tls=tls, attempts=2).fetch()
        assert "\n" not in str(caught.value)
        assert_exact(source(address, tls=tls | ours).fetch())


LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


@pytest.mark.parametrize("case, words", [("wrong", "unable to get local issuer"), ("expired", "has expired")])
def test_a_certificate_that_is_not_to_be_trusted(
    case: str, words: str, ca: trustme.CA, tmp_path: Path
) -> None:
    dates = {"not_before": LONG_AGO, "not_after": LONG_AGO + datetime.timedelta(days=1)}
    certificate = ca.issue_cert("localhost", **(dates if case == "expired" else {}))
    trusted = trusting(ca if case == "expired" else trustme.CA(), tmp_path)
    provider = Provider()
    with provider.serve(credentials(certificate)) as address, pytest.raises(SourceError) as caught:
        source(address, tls={"ca": trusted}).fetch()
    assert f"{address}: the server's certificate is refused: " in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert provider.requests == []


def test_plain_text_to_a_server_with_tls_and_the_reverse(ca: trustme.CA, tmp_path: Path) -> None:
    with (
        Provider().serve(credentials(ca.issue_cert("localhost"))) as address,
        pytest.raises(SourceError, match=r"does it speak TLS \(source\.tls\.ca=FILE\)"),
    ):
        source(address, attempts=2).fetch()
    with Provider().serve() as address, pytest.raises(SourceError, match="does not speak TLS"):
        source(address, tls={"ca": trusting(ca, tmp_path)}).fetch()


def test_the_token_is_sent_and_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    (tmp_path / "token").write_text("hush-hush\n")
    monkeypatch.setenv("PROVIDER_TOKEN", "hush-hush")
    provider = Provider()
    with provider.serve() as address:
        for named in ({"token_file": str(tmp_path / "token")}, {"token_env": "PROVIDER_TOKEN"}):
            asked = source(address, **named)
            asked.fetch()
            assert asked.report is not None
            assert "hush" not in repr(asked) + str(asked) + repr(asked.report) + asked.model_dump_json()
    assert [metadata["authorization"] for metadata in provider.metadata] == ["Bearer hush-hush"] * 2
    assert "hush" not in caplog.text


@pytest.mark.parametrize(
    "address, warned",
    [("localhost:1", False), ("127.0.0.1:1", False), ("[::1]:1", False), ("provider.invalid:1", True)],
)
def test_plain_text_off_this_machine_is_warned_of(
    address: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(SourceError):
        source(address, attempts=1).fetch()
    lines = [record.message for record in caplog.records if "plain text" in record.message]
    assert len(lines) == warned


@pytest.mark.parametrize(
    "address", ["localhost", "localhost:", ":9090", "http://localhost:9090", "h:0", "h:99999"]
)
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        KapacitySource(address=address)
