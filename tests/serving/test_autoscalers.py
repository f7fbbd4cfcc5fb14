"""The whole way: a real Prometheus that grows, ``kforecast-serve``, and the questions of autoscalers."""

import json
import math
import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from test_monitoring import SERVE, Prometheus, autoscalers, needs_prometheus, prometheus
from test_serve import get, server
from untrained import save

from conftest import HANG, free_port
from kforecast.forecaster import Forecaster
from kforecast.window import Window

pytestmark = [
    needs_prometheus,
    pytest.mark.skipif(not SERVE.is_dir(), reason="not a checkout"),
]
STEP, HORIZON = 10, 6
SPAN = HORIZON * STEP
WORKLOADS = {"shop/web": 100.0, "shop/cart": 40.0}
QUERY = 'sum(requests{workload="%s"})'
# Seconds of the future that are written already: no reader meets a bin that is not whole, on a slow machine
# neither. Prometheus does not answer with samples that are later than the moment asked for.
AHEAD = 120

# https://prometheus.io/docs/specs/prw/remote_write_spec/
REMOTE_WRITE = """
syntax = "proto3";
package prometheus;
message WriteRequest { repeated TimeSeries timeseries = 1; }
message TimeSeries { repeated Label labels = 1; repeated Sample samples = 2; }
message Label { string name = 1; string value = 2; }
message Sample { double value = 1; int64 timestamp = 2; }
"""
# KEDA's external scaler (contract 8), independent of the one in src.
EXTERNAL_SCALER = """
syntax = "proto3";
package externalscaler;
service ExternalScaler {
  rpc IsActive(ScaledObjectRef) returns (IsActiveResponse) {}
  rpc GetMetricSpec(ScaledObjectRef) returns (GetMetricSpecResponse) {}
  rpc GetMetrics(GetMetricsRequest) returns (GetMetricsResponse) {}
}
message ScaledObjectRef { string name = 1; string namespace = 2; map<string, string> scalerMetadata = 3; }
message IsActiveResponse { bool result = 1; }
message GetMetricSpecResponse { repeated MetricSpec metricSpecs = 1; }
message MetricSpec { string metricName = 1; int64 targetSize = 2; double targetSizeFloat = 3; }
message GetMetricsRequest { ScaledObjectRef scaledObjectRef = 1; string metricName = 2; }
message GetMetricsResponse { repeated MetricValue metricValues = 1; }
message MetricValue { string metricName = 1; int64 metricValue = 2; double metricValueFloat = 3; }
"""


def messages(proto: str, folder: Path) -> dict[str, Any]:
    """The classes that a .proto defines, in a pool of their own; a service is its descriptor."""
    protoc = pytest.importorskip("grpc_tools.protoc", reason="the dependency group slow is not installed")
    (folder / "one.proto").write_text(proto, encoding="utf-8")
    made = folder / "one.bin"
    assert protoc.main(["protoc", f"-I{folder}", f"--descriptor_set_out={made}", "one.proto"]) == 0
    (file,) = descriptor_pb2.FileDescriptorSet.FromString(made.read_bytes()).file
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = pool.FindFileByName("one.proto")
    classes = {
        name: message_factory.GetMessageClass(one) for name, one in found.message_types_by_name.items()
    }
    return {**classes, **found.services_by_name}


def traffic(second: int, workload: str) -> float:
    wave = math.sin(2 * math.pi * second / 900) + 0.5 * math.sin(second / 37)
    return round(WORKLOADS[workload] * (1 + 0.4 * wave), 3)


class Growth(threading.Thread):
    """Writes the traffic into Prometheus as time passes."""

    def __init__(self, url: str, begin: int, write: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self.url, self.next, self.write, self.ended = f"{url}/api/v1/write", begin, write, threading.Event()
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            while not self.ended.wait(0.2):
                self.grow()
        except Exception as error:  # the test tells
            self.error = error

    def grow(self) -> None:
        """Write what is missing up to some time ahead."""
        moments = range(self.next, int(time.time()) + AHEAD, STEP)
        if not moments:
            return
        request = self.write["WriteRequest"]()
        for workload in WORKLOADS:
            series = request.timeseries.add()
            for name, value in (("__name__", "requests"), ("workload", workload)):
                series.labels.add(name=name, value=value)
            for second in moments:
                series.samples.add(value=traffic(second, workload), timestamp=1000 * second)
        body = pa.compress(request.SerializeToString(), codec="snappy", asbytes=True)
        headers = {"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf"}
        headers["X-Prometheus-Remote-Write-Version"] = "0.1.0"
        asked = urllib.request.Request(self.url, body, headers)
        urllib.request.urlopen(asked, timeout=HANG).close()
        self.next = moments[-1] + STEP


class Way:
    """A server, the Prometheus on both of its sides, and independent forecasts of the same history."""

    def __init__(self, real: Prometheus, address: str, grpc_address: str, folder: Path, begin: int) -> None:
        self.real, self.address, self.grpc = real, address, grpc_address
        self.folder, self.begin = folder, begin
        self.made: dict[int, dict[str, tuple[np.ndarray, float]]] = {}

    @cached_property
    def forecaster(self) -> Forecaster:
        return Forecaster.load(self.folder / "model")

    def expected(self, workload: str, origin: int, now: float) -> tuple[float, float]:
        """The largest forecast at quantile 0.9 from a moment to the horizon's end, and the observation."""
        if origin not in self.made:
            self.made[origin] = self._forecast(origin)
        forecast, observed = self.made[origin][workload]
        under_way = int(now - origin) // STEP
        assert 0 <= under_way < HORIZON, "stale"
        return float(forecast[under_way:].max()), observed

    def _forecast(self, origin: int) -> dict[str, tuple[np.ndarray, float]]:
        span = {"start": str(self.begin), "end": str(origin - STEP), "step": str(STEP)}
        frames = []
        for workload in WORKLOADS:
            (series,) = self.real.get("query_range", query=QUERY % workload, **span)["result"]
            frame = pd.DataFrame(series["values"], columns=["timestamp", "value"]).astype(float)
            assert frame["timestamp"].tolist() == [*range(self.begin, origin, STEP)]
            assert frame["value"].tolist() == [traffic(int(t), workload) for t in frame["timestamp"]]
            frames.append(frame.assign(workload=workload, metric="qps"))
        made = self.forecaster.forecast(pd.concat(frames), at=origin, quantiles=[0.9])
        assert made["timestamp"].min() == origin
        return {
            workload: (made.loc[made["workload"] == workload, "q0.9"].to_numpy(), frame["value"].iloc[-1])
            for workload, frame in zip(WORKLOADS, frames, strict=True)
        }

    def forecast(self, workload: str = "shop/web") -> dict[str, Any]:
        """As KEDA's metrics-api scaler asks, with the URL of the example."""
        (scaled,) = yaml.safe_load_all((SERVE / "keda" / "metrics-api.yaml").read_text(encoding="utf-8"))
        trigger = scaled["spec"]["triggers"][0]["metadata"]
        assert (trigger["format"], trigger["valueLocation"]) == ("json", "value")
        url = trigger["url"].replace("kforecast-serve.kforecast:8080", self.address)
        status, text = get(url.replace("shop/web", workload))
        assert status == 200, text
        found: dict[str, Any] = json.loads(text)
        return found

    def raw(self, expression: str, moment: float, span: str = "1m") -> dict[str, dict[float, float]]:
        """The samples before a moment of the only series of each name: value by time."""
        data = self.real.get("query", query=f"{expression}[{span}]", time=str(moment))
        assert data["resultType"] == "matrix"
        names = [one["metric"]["__name__"] for one in data["result"]]
        assert len(names) == len({*names}), names
        return {
            one["metric"]["__name__"]: {float(t): float(v) for t, v in one["values"]}
            for one in data["result"]
        }

    def needed_in_scrapes(self, moment: float) -> dict[float, tuple[float, float]]:
        """For each scrape of shop/web before a moment: forecast and observation, checked against our own."""
        mine = 'workload="shop/web",metric="qps"'
        raw = self.raw(f'kforecast_forecast_max{{{mine},window="{SPAN}",quantile="0.9"}}', moment)
        for name in ("kforecast_observed", "kforecast_forecast_age_seconds"):
            raw |= self.raw(f"{name}{{{mine}}}", moment)
        raw |= self.raw(f"kforecast_newest_point_timestamp_seconds{{{mine}}}", moment)
        raw |= self.raw("kforecast_origin_timestamp_seconds", moment)
        found = {}
        for at, forecast in raw["kforecast_forecast_max"].items():
            if any(at not in values for values in raw.values()):
                continue  # scraped between two of the queries
            newest = raw["kforecast_newest_point_timestamp_seconds"][at]
            now = newest + raw["kforecast_forecast_age_seconds"][at]
            origin = int(raw["kforecast_origin_timestamp_seconds"][at])
            observed = raw["kforecast_observed"][at]
            assert newest == origin
            assert (forecast, observed) == pytest.approx(self.expected("shop/web", origin, now), rel=1e-6)
            found[at] = forecast, observed
        return found

    def wait_for_a_new_bin(self) -> None:
        before, until = self.forecast()["origin"], time.monotonic() + HANG
        while self.forecast()["origin"] == before:
            assert time.monotonic() < until, "no new forecast"
            time.sleep(0.1)


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    folder = tmp_path_factory.mktemp("way")
    save(folder / "model", window=Window("10s", 6, HORIZON))
    write = messages(REMOTE_WRITE, folder)
    now = int(time.time()) // STEP * STEP
    begin, end = now - 86_400, now - 3600
    lines = ["# TYPE requests gauge"]
    for workload in WORKLOADS:
        lines += [
            f'requests{{workload="{workload}"}} {traffic(second, workload)} {second}'
            for second in range(begin, end, STEP)
        ]
    history = "\n".join([*lines, "# EOF", ""])
    queries = [{"workload": workload, "metric": "qps", "query": QUERY % workload} for workload in WORKLOADS]
    address, grpc_address = (f"localhost:{free_port()}" for _ in range(2))
    with prometheus(folder, address, history, "--web.enable-remote-write-receiver") as real:
        growth = Growth(real.url, end, write)
        growth.grow()
        growth.start()
        (folder / "conf" / "source").mkdir(parents=True)
        source = {"defaults": ["prometheus"], "url": real.url, "step": STEP, "queries": queries}
        (folder / "conf" / "source" / "shop.yaml").write_text(yaml.safe_dump(source), encoding="utf-8")
        given = ["--config-dir=conf", "source=shop", f"serve.grpc={grpc_address}", "serve.settle=0"]
        with server(folder, source=given, address=address) as (_, process):
            yield Way(real, address, grpc_address, folder, begin)
            log = (folder / "serve.log").read_text()
            assert process.poll() is None, log
            assert not re.search("ERROR|Traceback", log), log
        growth.ended.set()
        growth.join(HANG)
        assert growth.error is None, growth.error


def test_get_forecast_follows_the_history(way: Way) -> None:
    """The question of KEDA's metrics-api scaler, in two bins."""
    origins = set()
    for last in (False, True):
        for workload in WORKLOADS:
            answer = way.forecast(workload)
            forecast, observed = way.expected(workload, answer["origin"], answer["at"])
            assert answer["value"] == pytest.approx(max(forecast, observed), rel=1e-6)
            assert (answer["forecast"], answer["observed"]) == pytest.approx((forecast, observed), rel=1e-6)
            assert (answer["window"], answer["quantile"]) == (SPAN, 0.9)
            origins.add(answer["origin"])
        if not last:
            way.wait_for_a_new_bin()
    assert len(origins) >= 2


def test_keda_asks_prometheus(way: Way) -> None:
    """The prometheus scaler's question: one element, the value of the newest scrape."""
    keda, _ = autoscalers()
    way.real.wait_for(keda)
    until = time.monotonic() + HANG
    while True:
        moment = time.time()
        before = way.needed_in_scrapes(moment)
        stamp = pd.Timestamp(moment, unit="s", tz="UTC").isoformat().replace("+00:00", "Z")
        found = way.real.get("query", query=keda, time=stamp)["result"]
        # No scrape has failed, and none has ended between the queries.
        if found and before and before == way.needed_in_scrapes(moment):
            break
        assert time.monotonic() < until, "always a scrape in between"
    (element,) = found
    assert float(element["value"][1]) == before[max(before)][0]


def test_an_hpa_asks_prometheus_through_an_adapter(way: Way) -> None:
    """The recorded ``kforecast:needed``: forecast or observation of a scrape, whichever is larger."""
    _, adapter = autoscalers()
    until, checked = time.monotonic() + HANG, 0
    while checked < 2:
        assert time.monotonic() < until, "nothing is recorded"
        (element,) = way.real.wait_for(adapter)
        assert element["metric"] == {"name": "web", "metric": "qps"}
        checked, moment = 0, time.time()
        recorded = way.raw('kforecast:needed{namespace="shop",name="web"}', moment)["kforecast:needed"]
        assert float(element["value"][1]) in recorded.values()
        scrapes = way.needed_in_scrapes(moment)
        for at, value in recorded.items():
            # The rule may have read the scrape before the last one, if that was under way.
            latest = sorted(scrape for scrape in scrapes if scrape <= at)[-2:]
            if len(latest) == 2:
                assert value in [max(scrapes[scrape]) for scrape in latest]
                checked += 1


def test_keda_asks_over_grpc_and_reads_metrics(way: Way, tmp_path: Path) -> None:
    """The external scaler, and the metrics-api scaler with ``format: prometheus``."""
    contract = messages(EXTERNAL_SCALER, tmp_path)
    (scaled,) = yaml.safe_load_all((SERVE / "keda" / "external.yaml").read_text(encoding="utf-8"))
    metadata = scaled["spec"]["triggers"][0]["metadata"] | {"window": str(SPAN)}
    reference = contract["ScaledObjectRef"](name="web", namespace="shop", scalerMetadata=metadata)
    with grpc.insecure_channel(way.grpc) as channel:

        def call(name: str, request: Any) -> Any:
            method = contract["ExternalScaler"].methods_by_name[name]
            answer = message_factory.GetMessageClass(method.output_type)
            path = f"/{method.containing_service.full_name}/{name}"
            ask = channel.unary_unary(
                path, type(request).SerializeToString, response_deserializer=answer.FromString
            )
            return ask(request, timeout=HANG)

        (spec,) = call("GetMetricSpec", reference).metricSpecs
        assert (spec.targetSize, spec.targetSizeFloat) == (100, 100.0)
        request = contract["GetMetricsRequest"](scaledObjectRef=reference, metricName=f"s0-{spec.metricName}")
        until = time.monotonic() + HANG
        while True:
            before = way.forecast()
            (metric,) = call("GetMetrics", request).metricValues
            active = call("IsActive", reference).result
            text = get(f"http://{way.address}/metrics")[1]
            after = way.forecast()
            if (before["origin"], before["begin"]) == (after["origin"], after["begin"]):
                break
            assert time.monotonic() < until, "always a new bin in between"
    forecast, observed = way.expected("shop/web", before["origin"], before["at"])
    assert metric.metricName == request.metricName
    assert metric.metricValueFloat == before["value"] == pytest.approx(max(forecast, observed), rel=1e-6)
    assert metric.metricValue == math.ceil(metric.metricValueFloat)
    assert active
    labels = ('workload="shop/web"', 'metric="qps"', f'window="{SPAN}"', 'quantile="0.9"')
    (line,) = [
        line
        for line in text.splitlines()
        if line.startswith("kforecast_forecast_max{") and all(label in line for label in labels)
    ]
    assert float(line.split()[-1]) == pytest.approx(forecast, rel=1e-6)
