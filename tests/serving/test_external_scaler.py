"""The external scaler, asked over real connections."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hand_made import ORIGIN, STEP, Shown, snapshot
from hypothesis import given
from hypothesis import strategies as st

from conftest import HANG
from kforecast.errors import SourceError
from kforecast.serving.external_scaler import SERVICE, Trigger, serving
from kforecast.serving.proto import externalscaler_pb2 as pb
from kforecast.serving.proto import externalscaler_pb2_grpc as pb_grpc

WEB = {"workload": "shop/web", "metric": "qps", "target": "50"}
CART = WEB | {"workload": "shop/cart"}
INVALID, NOT_FOUND, UNAVAILABLE = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNAVAILABLE,
)
Stub = Any


@asynccontextmanager
async def stub_of(shown: Shown, **options: Any) -> AsyncIterator[Stub]:
    async with (
        serving(shown.board, "localhost:0", **options) as port,
        grpc.aio.insecure_channel(f"localhost:{port}") as channel,
    ):
        yield pb_grpc.ExternalScalerStub(channel)


def asked(shown: Shown, *questions: Callable[[Stub], Awaitable[Any]]) -> list[Any]:
    """The answers to questions, or the errors they are answered with."""

    async def ask() -> list[Any]:
        async with stub_of(shown) as stub:
            return [*await asyncio.gather(*(one(stub) for one in questions), return_exceptions=True)]

    return asyncio.run(ask())


def metrics_of(metadata: dict[str, str], name: str = "") -> Callable[[Stub], Awaitable[Any]]:
    request = pb.GetMetricsRequest(scaledObjectRef=reference(metadata), metricName=name)
    return lambda stub: stub.GetMetrics(request, timeout=HANG)


def reference(metadata: dict[str, str]) -> pb.ScaledObjectRef:
    return pb.ScaledObjectRef(name="web", namespace="shop", scalerMetadata=metadata)


def value_of(response: pb.GetMetricsResponse) -> float:
    """As KEDA reads it: the float only when it is above 0."""
    (metric,) = response.metricValues
    return metric.metricValueFloat if metric.metricValueFloat > 0 else metric.metricValue


@pytest.mark.parametrize(
    "moment, metadata, value",
    [
        (0, {}, 42),  # 1.4 times the largest forecast
        (0, {"window": "600"}, 14),
        (0, {"lead": "600"}, 28),
        (0, {"lead": "600", "quantile": "0.5"}, 20),
        (0, {"lead": "0", "quantile": "0.1"}, 12),  # no less than was observed
        (STEP, {"lead": "0"}, 28),
        (0, {"workload": "shop/cart"}, 0),
        (0, {"scalerAddress": "kforecast:9090", "tlsClientCert": "/x", "enableTLS": "true"}, 42),
    ],
    ids=str,
)
def test_values(moment: int, metadata: dict[str, str], value: float) -> None:
    shown = Shown()
    shown.clock.now += moment
    (response,) = asked(shown, metrics_of(WEB | metadata))
    assert value_of(response) == pytest.approx(value, rel=1e-6)


@given(st.floats(-(2.0**100), 2.0**100, width=32))
def test_a_value_arrives_whole(value: float) -> None:
    shown = Shown()
    values = np.full((3, 3), value, np.float32)
    shown.board.snapshot = snapshot(values=values, observed=np.full(3, -np.inf))
    (response,) = asked(shown, metrics_of(WEB | {"quantile": "0.5"}))
    if value > 0:
        assert value_of(response) == value
    else:  # the integer alone can be negative
        assert value_of(response) == max(np.ceil(value), 1024 - 2.0**63)
    whole = response.metricValues[0].metricValue
    assert abs(value) > 2**63 - 1024 or whole - 1 < value <= whole


@pytest.mark.parametrize(
    "metadata, status, words",
    [
        (WEB | {"quantle": "0.9"}, INVALID, "quantle: unknown key; did you mean quantile?"),
        ({"workload": "shop/web", "target": "50"}, INVALID, "metric: missing"),
        (WEB | {"workload": ""}, INVALID, "workload: '' is wrong"),
        (WEB | {"target": "0"}, INVALID, "target: '0' is wrong: it should be greater than 0"),
        (WEB | {"target": "inf"}, INVALID, "target: 'inf' is wrong: it should be a finite number"),
        (WEB | {"target": "nan"}, INVALID, "target: 'nan'"),
        (WEB | {"window": "30min"}, INVALID, "window: '30min' is wrong"),
        (WEB | {"window": "1801"}, INVALID, "window is 1801; it must be between 0 and the horizon, 1800"),
        (WEB | {"window": "600", "lead": "0"}, INVALID, "lead or window, not both"),
        (WEB | {"quantile": "1.5"}, INVALID, "1.5"),
        (
            WEB | {"workload": "shop/x"},
            NOT_FOUND,
            "unknown series: workload 'shop/x', metric 'qps'; known: shop",
        ),
        (WEB | {"workload": "shop/new"}, UNAVAILABLE, "no value in the history"),
        (WEB | {"workload": "x" * 30_000}, NOT_FOUND, "unknown series"),
        (WEB | {"workload": "\U0001f6d2" * 9_000}, NOT_FOUND, "unknown series"),
    ],
    ids=lambda part: str(part)[:80],
)
def test_questions_without_an_answer(metadata: dict[str, str], status: grpc.StatusCode, words: str) -> None:
    async def first_of(stub: Stub) -> Any:
        return await anext(aiter(stub.StreamIsActive(reference(metadata), timeout=HANG)))

    questions = (
        metrics_of(metadata),
        lambda stub: stub.IsActive(reference(metadata), timeout=HANG),
        first_of,
    )
    for error in asked(Shown(), *questions):
        assert isinstance(error, grpc.aio.AioRpcError)
        assert error.code() is status
        assert words in str(error.details())


@pytest.mark.parametrize(
    "moment, words",
    [
        (3 * STEP, "stale: the last forecast bin ended"),
        (3 * STEP + 1, "stale: the newest value is 30 min"),
        (86_400, "stale: the newest value is"),
        (-3600, "before the first forecast bin"),
    ],
)
def test_what_is_stale_is_unavailable_and_never_zero(moment: int, words: str) -> None:
    shown = Shown()
    shown.clock.now += moment
    for error in asked(shown, metrics_of(WEB), metrics_of(CART)):
        assert error.code() is UNAVAILABLE
        assert words in error.details()


def test_before_a_first_forecast() -> None:
    shown = Shown()
    shown.board.snapshot, shown.board.reason = None, "fetch: refused"
    error, response = asked(shown, metrics_of(WEB), lambda stub: stub.GetMetricSpec(reference(WEB)))
    assert (error.code(), error.details()) == (UNAVAILABLE, "fetch: refused")
    assert response.metricSpecs[0].targetSizeFloat == 50


@pytest.mark.parametrize("target, whole", [("50", 50), ("0.3", 1), ("2.9", 2), ("1e30", 2**63 - 1024)])
def test_targets(target: str, whole: int) -> None:
    (response,) = asked(Shown(), lambda stub: stub.GetMetricSpec(reference(WEB | {"target": target})))
    (spec,) = response.metricSpecs
    assert (spec.targetSizeFloat, spec.targetSize) == (float(target), whole)


def test_the_name_of_the_metric_is_that_of_its_spec() -> None:
    name = Trigger.of(WEB).metric_name
    assert Trigger.of(WEB | {"target": "9", "activation": "3"}).metric_name == name
    (spec, *values, wrong) = asked(
        Shown(),
        lambda stub: stub.GetMetricSpec(reference(WEB)),
        *(metrics_of(WEB, one) for one in ("", name, f"s0-{name}", f"s12-{name}")),
        metrics_of(CART, name),
    )
    assert spec.metricSpecs[0].metricName == name
    assert [one.metricValues[0].metricName for one in values] == [name, name, f"s0-{name}", f"s12-{name}"]
    assert wrong.code() is INVALID
    assert repr(name) in wrong.details()


WORDS = st.text(min_size=1, max_size=80)


@given(st.tuples(WORDS, WORDS), st.tuples(WORDS, WORDS))
def test_names_of_metrics_are_valid_and_tell_series_apart(
    one: tuple[str, str], other: tuple[str, str]
) -> None:
    def name(workload: str, metric: str, **more: str) -> str:
        return Trigger.of({"workload": workload, "metric": metric, "target": "1", **more}).metric_name

    assert re.fullmatch("[a-z0-9]([a-z0-9-]{0,54}[a-z0-9])?", name(*one))
    assert (name(*one) == name(*other)) == (one == other)
    assert len({name(*one), name(*one, quantile="0.9"), name(*one, window="1"), name(*one, lead="1")}) == 4
    assert name(*one, quantile="0.9") == name(*one, quantile="0.90")


def test_activity_is_a_value_above_the_activation() -> None:
    cases = [
        (WEB, True),
        (CART, False),
        (WEB | {"activation": "42"}, False),
        (WEB | {"activation": "41"}, True),
    ]
    answers = asked(
        Shown(),
        *(lambda stub, given=given: stub.IsActive(reference(given | {"lead": "1200"})) for given, _ in cases),
    )
    assert [one.result for one in answers] == [active for _, active in cases]


def test_a_stream_tells_every_change_and_ends_when_there_is_nothing_to_say() -> None:
    shown = Shown()

    async def listen() -> None:
        async with stub_of(shown) as stub:
            metadata = WEB | {"lead": "0", "activation": "20"}
            heard = aiter(stub.StreamIsActive(reference(metadata), timeout=HANG))
            assert (await anext(heard)).result is False
            shown.clock.now = ORIGIN + STEP
            assert (await anext(heard)).result is True
            shown.board.snapshot = snapshot(values=np.ones((3, 3), np.float32), observed=np.zeros(3))
            assert (await anext(heard)).result is False
            shown.clock.now = ORIGIN + 3 * STEP
            with pytest.raises(grpc.aio.AioRpcError, match="stale") as caught:
                await anext(heard)
            assert caught.value.code() is UNAVAILABLE

    asyncio.run(listen())


def test_streams_end_when_the_client_cancels_or_the_server_stops() -> None:
    async def listen() -> None:
        async with AsyncExitStack() as stack:
            port = await stack.enter_async_context(serving(Shown().board, "localhost:0"))
            async with grpc.aio.insecure_channel(f"localhost:{port}") as channel:
                stub: Stub = pb_grpc.ExternalScalerStub(channel)
                cancelled, kept = (stub.StreamIsActive(reference(WEB), timeout=HANG) for _ in range(2))
                for call in (cancelled, kept):
                    assert (await call.read()).result is True
                cancelled.cancel()
                assert await cancelled.code() is grpc.StatusCode.CANCELLED
                await stack.aclose()
                assert await kept.read() is grpc.aio.EOF
                assert await kept.code() is grpc.StatusCode.OK

    asyncio.run(listen())


def test_health_is_that_of_the_first_forecast_and_reflection_names_the_service() -> None:
    shown = Shown()
    shown.board.snapshot = None

    async def look() -> None:
        async with (
            serving(shown.board, "localhost:0", token=lambda: "secret") as port,
            grpc.aio.insecure_channel(f"localhost:{port}") as channel,
        ):
            health = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest(service=SERVICE)
            states = aiter(health.Watch(request, timeout=HANG))
            assert (await anext(states)).status == health_pb2.HealthCheckResponse.NOT_SERVING
            shown.board.snapshot = snapshot()
            assert (await anext(states)).status == health_pb2.HealthCheckResponse.SERVING
            whole = await health.Check(health_pb2.HealthCheckRequest(), timeout=HANG)
            assert whole.status == health_pb2.HealthCheckResponse.SERVING

            reflected = reflection_pb2_grpc.ServerReflectionStub(channel)
            ask = [reflection_pb2.ServerReflectionRequest(list_services="")]
            with pytest.raises(grpc.aio.AioRpcError, match="Bearer TOKEN"):
                await anext(aiter(reflected.ServerReflectionInfo(iter(ask), timeout=HANG)))
            allowed = reflected.ServerReflectionInfo(
                iter(ask), timeout=HANG, metadata=[("authorization", "Bearer secret")]
            )
            services = (await anext(aiter(allowed))).list_services_response.service
            assert SERVICE in {one.name for one in services}

    asyncio.run(look())


def test_a_token() -> None:
    token = "first"

    async def ask() -> None:
        async with stub_of(Shown(), token=lambda: token) as stub:

            async def status(*metadata: tuple[str, str]) -> grpc.StatusCode:
                call = stub.IsActive(reference(WEB), timeout=HANG, metadata=metadata)
                return await call.code()

            nonlocal token
            refused = grpc.StatusCode.UNAUTHENTICATED
            assert await status() is refused
            assert await status(("authorization", "Bearer second")) is refused
            assert await status(("authorization", "Basic first")) is refused
            assert await status(("authorization", "Bearer first")) is grpc.StatusCode.OK
            token = "second"
            assert await status(("authorization", "Bearer first")) is refused
            assert await status(("authorization", "bearer second")) is grpc.StatusCode.OK
            stream = stub.StreamIsActive(reference(WEB), timeout=HANG)
            assert await stream.code() is refused

    asyncio.run(ask())


@pytest.fixture
def certificate(tmp_path: Path) -> Iterator[tuple[trustme.CA, tuple[str, str]]]:
    ca = trustme.CA()
    issued = ca.issue_cert("localhost")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(b"".join(one.bytes() for one in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(key)
    return ca, (str(cert), str(key))


def test_tls(certificate: tuple[trustme.CA, tuple[str, str]]) -> None:
    ca, paths = certificate

    async def ask(authority: trustme.CA) -> float:
        trusted = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
        async with (
            serving(Shown().board, "localhost:0", certificate=paths) as port,
            grpc.aio.secure_channel(f"localhost:{port}", trusted) as channel,
        ):
            return value_of(await metrics_of(WEB | {"lead": "1200"})(pb_grpc.ExternalScalerStub(channel)))

    assert asyncio.run(ask(ca)) == pytest.approx(42)
    with pytest.raises(grpc.aio.AioRpcError, match="CERTIFICATE_VERIFY_FAILED"):
        asyncio.run(ask(trustme.CA()))


def test_a_client_certificate(certificate: tuple[trustme.CA, tuple[str, str]], tmp_path: Path) -> None:
    ca, paths = certificate
    clients = trustme.CA()
    clients.cert_pem.write_to_path(tmp_path / "clients.pem")

    async def ask(signed_by: trustme.CA | None) -> float:
        shown = None if signed_by is None else signed_by.issue_cert("keda@example.com")
        trusted = grpc.ssl_channel_credentials(
            ca.cert_pem.bytes(),
            None if shown is None else shown.private_key_pem.bytes(),
            None if shown is None else shown.cert_chain_pems[0].bytes(),
        )
        options = {"certificate": paths, "client_ca": str(tmp_path / "clients.pem")}
        async with (
            serving(Shown().board, "localhost:0", **options) as port,  # type: ignore[arg-type]
            grpc.aio.secure_channel(f"localhost:{port}", trusted) as channel,
        ):
            return value_of(await metrics_of(WEB | {"lead": "1200"})(pb_grpc.ExternalScalerStub(channel)))

    assert asyncio.run(ask(clients)) == pytest.approx(42)
    for wrong in (None, trustme.CA(), ca):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            asyncio.run(ask(wrong))
        assert error.value.code() is UNAVAILABLE


def test_a_port_in_use_is_an_error_that_names_the_key() -> None:
    async def twice() -> None:
        async with serving(Shown().board, "localhost:0") as port, serving(Shown().board, f"localhost:{port}"):
            pass

    with pytest.raises(SourceError, match=r"cannot listen on localhost:\d+: .*serve\.grpc=HOST:PORT"):
        asyncio.run(twice())


def test_requests_are_limited_in_size() -> None:
    (error,) = asked(Shown(), metrics_of(WEB | {"workload": "x" * 100_000}))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
