"""deploy/serve: every query of dashboard, alerts and autoscalers, run by a real Prometheus."""

import json
import re
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import HANG, free_port
from test_deploy import DEPLOY

SERVE = DEPLOY / "serve"
pytestmark = pytest.mark.skipif(not DEPLOY.is_dir(), reason="not a checkout")
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="prometheus and promtool are not installed (Debian: apt-get install prometheus)",
)
HOURS = 7
SERIES = (("shop/web", 100.0), ("shop/cart", 10.0))

Sample = tuple[str, str, float]


class Standin:
    """The ``/metrics`` of a server, as it was at any moment and is now.

    ``fault`` is empty, ``lost`` (one series without a forecast, and all else that can go wrong while the
    server forecasts) or ``starting``.
    """

    def __init__(self) -> None:
        self.fault = ""

    def samples(self, now: float) -> Iterator[Sample]:
        """Name, labels and value."""
        failed = now if self.fault else 0.0
        yield "kforecast_ready", "", float(self.fault != "starting")
        yield "kforecast_artifact_info", 'sha256="3f0a",version="1.0.0"', 1.0
        yield "kforecast_artifact_refused", "", float(self.fault != "")
        yield "kforecast_events_refused", "", float(self.fault != "")
        origin = now - now % 600 - (7200 if self.fault else 0)
        yield "kforecast_origin_timestamp_seconds", "", origin
        lost = 1 if self.fault else 0
        yield "kforecast_series", 'state="forecast"', len(SERIES) - lost
        yield "kforecast_series", 'state="missing"', lost
        bins = now // 600 % 10_000
        for kind in ("fetch", "forecast"):
            yield f"kforecast_{kind}_seconds_count", "", bins
            yield f"kforecast_{kind}_seconds_sum", "", bins * 0.25
        yield "kforecast_fetches_total", "", bins
        for cause in ("fetch", "data", "artifact", "forecast"):
            yield "kforecast_failures_total", f'cause="{cause}"', failed
        for row, (workload, level) in enumerate(SERIES):
            labels = f'workload="{workload}",metric="qps"'
            yield "kforecast_observed", labels, level * (1000 if self.fault else 1)
            yield "kforecast_newest_point_timestamp_seconds", labels, origin
            yield "kforecast_forecast_age_seconds", labels, now - origin
            yield "kforecast_guard", f'{labels},state="{"worse" if row < lost else "served"}"', 1.0
            if row < lost:
                continue
            for quantile, share in ((0.1, 0.8), (0.5, 0.95), (0.9, 1.2)):
                of = f'{labels},quantile="{quantile}"'
                for lead in (0, 600, 1200):
                    yield "kforecast_forecast", f'{of},lead="{lead}"', level * share
                yield "kforecast_forecast_max", f'{of},window="1800"', level * share

    def exposition(self) -> str:
        """Prometheus text."""
        lines = []
        for name, labels, value in self.samples(time.time()):
            lines.append(f"{name}{{{labels}}} {value}" if labels else f"{name} {value}")
        return "\n".join([*lines, ""])

    def history(self, instance: str, now: int) -> str:
        """The samples of the last hours up to a minute ago, as OpenMetrics."""
        grouped: dict[str, list[str]] = {}
        common = f'job="kforecast-serve",instance="{instance}"'
        for second in range(now - HOURS * 3600, now - 30, 60):
            for name, labels, value in [*self.samples(second), ("up", "", 1.0)]:
                both = ",".join(filter(None, (labels, common)))
                grouped.setdefault(name, []).append(f"{name}{{{both}}} {value} {second}")
        lines = []
        for name, found in grouped.items():
            lines += [f"# TYPE {name} unknown", *found]
        return "\n".join([*lines, "# EOF", ""])


@contextmanager
def served(standin: Standin) -> Iterator[str]:
    """The stand-in as an HTTP server; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = standin.exposition().encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Prometheus:
    """A running Prometheus."""

    def __init__(self, url: str, process: "subprocess.Popen[bytes]") -> None:
        self.url, self.process = url, process

    def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its API."""
        address = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(address, timeout=HANG) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What a query returns now."""
        result: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return result

    def wait_for(self, expression: str, *, empty: bool = False) -> list[dict[str, Any]]:
        """Query until there is an answer, or none: a scrape can fail on a busy machine."""
        until = time.monotonic() + HANG
        while bool(found := self.query(expression)) == empty:
            assert self.process.poll() is None, "prometheus has exited"
            assert time.monotonic() < until, f"{'not empty' if empty else 'no data'}: {expression}"
            time.sleep(0.1)
        return found


@contextmanager
def prometheus(folder: Path, target: str, history: str, *flags: str) -> Iterator[Prometheus]:
    """A Prometheus with a history and our rules, which scrapes a target."""
    (folder / "history.om").write_text(history, encoding="utf-8")
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", "history.om", "data"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=HANG)
    shutil.copy(SERVE / "alerts.yaml", folder)
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["alerts.yaml"],
        "scrape_configs": [{"job_name": "kforecast-serve", "static_configs": [{"targets": [target]}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    address = f"127.0.0.1:{free_port()}"
    command = [
        "prometheus",
        "--config.file=prometheus.yml",
        "--storage.tsdb.path=data",
        f"--web.listen-address={address}",
        *flags,
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        until = time.monotonic() + HANG
        while True:
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < until, "prometheus does not become ready"
            try:
                urllib.request.urlopen(f"http://{address}/-/ready", timeout=HANG).close()
                break
            except (TimeoutError, urllib.error.URLError):
                time.sleep(0.1)
        yield Prometheus(f"http://{address}", process)
    finally:
        process.terminate()
        process.wait(timeout=HANG)


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SERVE / "dashboard.json").read_text(encoding="utf-8"))
    return found


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((SERVE / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> dict[str, str]:
    return {rule["alert"]: rule["expr"] for rule in rules() if "alert" in rule}


def autoscalers() -> list[str]:
    """What KEDA and prometheus-adapter ask for."""
    (scaled,) = yaml.safe_load_all((SERVE / "keda" / "prometheus.yaml").read_text(encoding="utf-8"))
    (adapter,) = yaml.safe_load_all((SERVE / "hpa" / "adapter.yaml").read_text(encoding="utf-8"))
    (rule,) = yaml.safe_load(adapter["data"]["config.yaml"])["externalRules"]
    (hpa,) = yaml.safe_load_all((SERVE / "hpa" / "hpa.yaml").read_text(encoding="utf-8"))
    labels = {
        "namespace": hpa["metadata"]["namespace"],
        **hpa["spec"]["metrics"][0]["external"]["metric"]["selector"]["matchLabels"],
    }
    matchers = ",".join(f'{name}="{value}"' for name, value in labels.items())
    asked = rule["metricsQuery"].replace("<<.Series>>", rule["name"]["matches"])
    return [
        scaled["spec"]["triggers"][0]["metadata"]["query"],
        asked.replace("<<.LabelMatchers>>", matchers),
    ]


def dashboard_queries() -> Iterator[str]:
    """The expressions of all panels, with values for the variables."""
    values = {"$workload": ".*", "$metric": ".*", "$quantile": "0.9", "$__rate_interval": "5m"}
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            expression = target["expr"]
            for name, value in values.items():
                expression = expression.replace(name, value)
            assert "$" not in expression
            yield expression


@needs_prometheus
def test_every_query_has_the_data_that_it_is_meant_for(tmp_path: Path) -> None:
    standin = Standin()
    down, starting = "KforecastServeDown", "KforecastServeNotReady"
    with ExitStack() as stack:
        target = stack.enter_context(served(standin))
        history = standin.history(target, int(time.time()))
        with prometheus(tmp_path, target, history) as real:
            real.wait_for("scrape_samples_scraped > 0")  # the history alone would have answered, too
            real.wait_for("kforecast:error")
            for expression in dashboard_queries():
                real.wait_for(expression)
            for variable in dashboard()["templating"]["list"]:
                if variable["type"] == "query":
                    asked = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
                    assert asked is not None
                    match = asked[1].replace("$workload", ".*")
                    assert real.get(f"label/{asked[2]}/values", **{"match[]": match}), variable["name"]
            for expression in alerts().values():
                real.wait_for(expression, empty=True)
            for expression in autoscalers():
                (found,) = real.wait_for(expression)
                assert float(found["value"][1]) == 120.0, expression

            standin.fault = "lost"
            for name, expression in alerts().items():
                if name not in (down, starting):
                    real.wait_for(expression)
            # Autoscalers read no number, rather than an old one or 0.
            for expression in autoscalers():
                real.wait_for(expression, empty=True)

            standin.fault = "starting"
            real.wait_for(alerts()[starting])
            stack.close()
            real.wait_for(alerts()[down])


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize("command", ["check rules alerts.yaml", "test rules alerts_test.yaml"])
def test_the_rules_are_valid_and_do_what_they_say(command: str) -> None:
    done = subprocess.run(
        ["promtool", *command.split()], cwd=SERVE, capture_output=True, text=True, timeout=HANG, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_has_a_unit_test() -> None:
    text = (SERVE / "alerts_test.yaml").read_text(encoding="utf-8")
    tests = yaml.safe_load(text)["tests"]
    fired = {
        case["alertname"] for test in tests for case in test.get("alert_rule_test", []) if case["exp_alerts"]
    }
    silent = {case["alertname"] for case in tests[0]["alert_rule_test"]}
    assert fired == silent == set(alerts())
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    assert recorded == {case["expr"] for case in tests[0]["promql_expr_test"]}


def test_the_dashboard_can_be_imported() -> None:
    """Grafana refuses little, and then shows less: these are its conditions."""
    board = dashboard()
    assert board["schemaVersion"] >= 39
    assert len(board["uid"]) <= 40
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    used: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & used, panel["title"]
        used |= cells
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    variables = {variable["name"] for variable in board["templating"]["list"]}
    assert set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(board))) == variables
    parts = [*panels, *(target for panel in panels for target in panel["targets"])]
    assert {part["datasource"]["uid"] for part in parts} == {"${datasource}"}
