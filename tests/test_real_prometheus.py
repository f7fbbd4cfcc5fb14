"""End to end with a real Prometheus: blocks on disk, a provider in front of it, training, forecast."""

import math
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from conftest import HANG, START, free_port, run_command, serving
from kforecast.artifact import TRIO
from kforecast.data.panel import Panel
from kforecast.window import Frequency

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("prometheus") is None or shutil.which("promtool") is None,
        reason="prometheus and promtool are not installed (Debian: apt-get install prometheus)",
    ),
]
ROOT = Path(__file__).parents[1]
DAYS = 3
END = START + DAYS * 86_400
SERVICES = ("cart", "search")
QUERY = 'sum(http_requests{namespace="shop",service="%s",code!="500"})'


def value(second: int, service: str) -> float:
    phase = SERVICES.index(service)
    return round(100 + 50 * math.sin(2 * math.pi * second / 86_400 + phase) + second % 7, 3)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus with three days of history; its URL."""
    folder = tmp_path_factory.mktemp("prometheus")
    lines = ["# HELP http_requests Requests a second.", "# TYPE http_requests gauge"]
    for service in SERVICES:
        for code, share in (("200", 0.75), ("404", 0.25), ("500", 9.0)):
            labels = f'{{namespace="shop",service="{service}",code="{code}"}}'
            # Not on the full minute: the server returns the newest sample before each instant.
            lines += [
                f"http_requests{labels} {value(second, service) * share} {second - 7}"
                for second in range(START - 3600, END + 60, 60)
            ]
    (folder / "history.om").write_text("\n".join([*lines, "# EOF"]) + "\n")
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", "history.om", "data"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (folder / "prometheus.yml").write_text("scrape_configs: []\n")
    port = free_port()
    command = [
        "prometheus",
        "--config.file=prometheus.yml",
        "--storage.tsdb.path=data",
        "--storage.tsdb.retention.time=100y",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    url = f"http://127.0.0.1:{port}"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        try:
            wait_until_ready(f"{url}/-/ready", process)
            yield url
        finally:
            process.terminate()
            process.wait(timeout=HANG)


def wait_until_ready(url: str, process: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + HANG
    while time.monotonic() < until:
        assert process.poll() is None, "prometheus has exited"
        try:
            urllib.request.urlopen(url, timeout=HANG).close()
        except (TimeoutError, urllib.error.URLError):
            time.sleep(0.1)
        else:
            return
    raise AssertionError("prometheus does not become ready")


def train_config() -> str:
    """A train-config.yaml with metrics of two types."""
    metrics = {
        "cart": {
            "name": "qps",
            "type": "Object",
            "object": {
                "metric": {
                    "name": "requests",
                    "selector": {
                        "matchExpressions": [{"key": "code", "operator": "NotIn", "values": ["500"]}]
                    },
                },
                "describedObject": {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "cart"},
            },
        },
        "search": {
            "name": "qps",
            "type": "Pods",
            "pods": {"metric": {"name": "requests", "selector": {"matchLabels": {"code": "200"}}}},
        },
    }
    targets = [
        {
            "workloadNamespace": "shop",
            "workloadRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": service},
            "historyLength": "2D",
            "metrics": [metrics[service]],
        }
        for service in SERVICES
    ]
    hyper_params = {"learningRate": 0.001, "epochs": 1, "batchSize": 64}
    content = {"targets": targets, "freq": "10min", "predictionLength": 3, "contextLength": 7}
    return yaml.safe_dump(content | {"hyperParams": hyper_params})


def history(run: Path) -> pd.DataFrame:
    return pd.read_parquet(run / "history.parquet")


def test_the_whole_way(prometheus: str, tmp_path: Path) -> None:
    (tmp_path / "train-config.yaml").write_text(train_config())
    template = 'sum(http_requests{namespace="<<namespace>>",service="<<name>>",<<selector>>})'
    address = f"localhost:{free_port()}"
    served = [
        "source=prometheus",
        f"source.url={prometheus}",
        f"serve.address={address}",
        f"serve.templates={{requests: '{template}'}}",
    ]
    with serving(*served, address=address, cwd=tmp_path):
        documented = [
            "--config-file=train-config.yaml",
            f"--metrics-server-addr={address}",
            "--model-save-path=model",
        ]
        command = [sys.executable, str(ROOT / "scripts" / "train.py"), *documented]
        more = [f"source.end={END}", "hydra.run.dir=over_grpc"]
        done = subprocess.run([*command, *more], cwd=tmp_path, capture_output=True, text=True, timeout=HANG)
        assert done.returncode == 0, done.stdout + done.stderr
        # As in the documentation, up to now, when the history has long ended.
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=HANG)
        assert done.returncode == 3
        assert "no value" in done.stderr
        assert "workload shop/cart, metric qps (Object requests of Ingress/cart" in done.stderr

    queries = [
        {"workload": "shop/cart", "metric": "qps", "query": QUERY % "cart"},
        {
            "workload": "shop/search",
            "metric": "qps",
            "query": 'sum(http_requests{namespace="shop",service="search",code="200"})',
        },
    ]
    (tmp_path / "conf" / "source").mkdir(parents=True)
    own = {"defaults": ["prometheus"], "url": prometheus, "history": "2D", "end": END, "queries": queries}
    (tmp_path / "conf" / "source" / "own.yaml").write_text(yaml.safe_dump(own))
    direct = ["--config-dir=conf", "source=own", "window.context_length=7", "hydra.run.dir=direct"]
    done = run_command("kforecast-train", *direct, "trainer.max_epochs=1", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr

    over_grpc, straight = history(tmp_path / "over_grpc"), history(tmp_path / "direct")
    pd.testing.assert_frame_equal(over_grpc, straight)
    panels = [Panel.from_frame(frame, Frequency.parse("10min")) for frame in (over_grpc, straight)]
    assert panels[0].fingerprint() == panels[1].fingerprint()
    assert len(over_grpc) == 2 * (2 * 1440 + 1)
    for service, share in (("cart", 1.0), ("search", 0.75)):
        rows = over_grpc[over_grpc["workload"] == f"shop/{service}"]
        assert rows["timestamp"].tolist() == list(range(END - 2 * 86_400, END + 60, 60))
        truth = np.array([value(second, service) for second in rows["timestamp"]]) * share
        np.testing.assert_allclose(rows["value"], truth, rtol=1e-12)

    assert all((tmp_path / "model" / name).is_file() for name in TRIO)
    done = run_command(
        "kforecast-forecast", "artifact_dir=model", "--dataset-file=over_grpc/history.parquet", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1 + 2 * 3


def test_promql_errors_are_one_line_with_the_query(prometheus: str, tmp_path: Path) -> None:
    query = "sum(rate(http_requests[5m])"
    done = run_command(
        "kforecast-fetch",
        "source=prometheus",
        f"source.url={prometheus}",
        f"source.queries=[{{workload: shop/cart, metric: qps, query: '{query}'}}]",
        "output=history.csv",
        cwd=tmp_path,
    )
    assert done.returncode == 3
    error = done.stderr.splitlines()[-1]
    assert error.startswith(f"error: {prometheus}: ")
    assert "parse error: unclosed left parenthesis" in error
    assert query in error
    assert list(tmp_path.iterdir()) == []


def test_long_ranges_are_split_below_the_limit_of_the_server(prometheus: str, tmp_path: Path) -> None:
    done = run_command(
        "kforecast-fetch",
        "source=prometheus",
        f"source.url={prometheus}",
        "source.history=3D",
        "source.step=10",
        f"source.end={END}",
        f"source.queries=[{{workload: shop/cart, metric: qps, query: '{QUERY % 'cart'}'}}]",
        "output=history.parquet",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    frame = pd.read_parquet(tmp_path / "history.parquet")
    assert frame["timestamp"].tolist() == list(range(START, END + 10, 10))
    assert "3 requests, 0 retried" in done.stderr
