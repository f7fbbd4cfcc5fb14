"""``kforecast-fetch``: files and reports are written completely or not at all."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from conftest import START, run_command, run_process

HEADER = "timestamp,value,workload,metric\n"


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".parquet"])
def test_what_is_written_reads_back_equal(ending: str, tmp_path: Path) -> None:
    rows = [f'{START + 60 * i},{math.sin(i) + 2!r},"shop/web, old 模型",qps' for i in range(3000)]
    (tmp_path / "in.csv").write_text(HEADER + "\n".join(rows) + "\n", encoding="utf-8")
    output = f"out/history{ending}"
    done = run_command("kforecast-fetch", "--dataset-file=in.csv", f"output={output}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "history: out/history" in done.stdout
    path = tmp_path / output
    frame = pd.read_parquet(path) if ending == ".parquet" else pd.read_csv(path)
    assert [*frame.columns] == ["timestamp", "value", "workload", "metric"]
    assert frame["value"].tolist() == [math.sin(i) + 2 for i in range(3000)]
    assert frame["timestamp"].tolist() == [START + 60 * i for i in range(3000)]
    assert set(frame["workload"]) == {"shop/web, old 模型"}
    assert {entry.name for entry in (tmp_path / "out").iterdir()} == {path.name, "report.json"}


def test_the_report(tmp_path: Path, traffic_csv: Callable[..., Path]) -> None:
    traffic_csv(series=2, points=100)
    (tmp_path / "config.yaml").write_text("freq: 1H\npredictionLength: 2\ncontextLength: 5\n")
    done = run_command(
        "kforecast-fetch",
        "--config-file=config.yaml",
        "--dataset-file=traffic.csv",
        "report=found.json",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "too_short: shop/web-0 qps, shop/web-1 qps: 16.5 h is less than two days" in done.stdout

    def refuse(text: str) -> float:
        raise AssertionError(f"{text} is not JSON")

    report = json.loads((tmp_path / "found.json").read_text(), parse_constant=refuse)
    assert set(report) == {"source", "window", "series", "findings", "fetch"}
    assert report["window"] == {"freq": "1H", "context_length": 5, "prediction_length": 2}
    assert [row["bins"] for row in report["series"]] == [17, 17]
    assert report["series"][0]["first"] == START
    assert report["series"][0]["weekly"] is None
    assert {finding["kind"] for finding in report["findings"]} == {"too_short"}


def test_bad_rows_are_reported_but_not_written(tmp_path: Path) -> None:
    rows = "".join(f"{(START + 60 * i) * 1000},{i % 7},shop/web,qps\n" for i in range(5000))
    (tmp_path / "in.csv").write_text(HEADER + rows)
    (tmp_path / "history.csv").write_text("earlier")
    done = run_command("kforecast-fetch", "--dataset-file=in.csv", "output=history.csv", cwd=tmp_path)
    assert done.returncode == 2
    assert "time_unit: shop/web qps" in done.stdout
    assert done.stderr.splitlines()[-1].startswith("error: in.csv: timestamp")
    assert (tmp_path / "history.csv").read_text() == "earlier"
    assert json.loads((tmp_path / "report.json").read_text())["findings"][0]["kind"] == "time_unit"


def test_local_days_are_named_and_reported_in_their_time_zone(tmp_path: Path) -> None:
    days = pd.date_range("2023-07-01", "2024-06-30", freq="D", tz="Europe/Berlin")
    value = [20 + day.day_of_week + day.day_of_year % 7 for day in days]
    rows = [
        f"{int(day.timestamp())},{number},shop/web,orders" for day, number in zip(days, value, strict=True)
    ]
    (tmp_path / "daily.csv").write_text(HEADER + "\n".join(rows) + "\n")
    arguments = ("kforecast-fetch", "--dataset-file=daily.csv", "window=1d")
    done = run_command(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (
        "off_grid: shop/web orders: rows come at 22:00 and 23:00 UTC, but bins of 1D begin at 00:00 UTC"
        in (done.stdout)
    )
    assert "data.timezone=Europe/Berlin" in done.stdout
    done = run_command(*arguments, "data.timezone=Europe/Berlin", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Nothing to complain about." in done.stdout


@pytest.mark.parametrize(
    "arguments, words",
    [
        (
            ["--dataset-file=traffic.csv", "data.timezone=Europe/Berln"],
            ["data.timezone", "did you mean Europe/Berlin?"],
        ),
        (["--dataset-file=traffic.csv", "output=x.txt"], ["output: x.txt ends in none of .csv"]),
        (["--dataset-file=traffic.csv", "report=x.csv"], ["report: x.csv ends in none of .json"]),
        (["--dataset-file=traffic.csv", "window.freq=7H"], ["window.freq", "'7H'"]),
        (["source=synthetic", "source.step=3600"], ["source.step: 3600 s is coarser", "10min"]),
        (["source=kapacity", "source.address=here"], ["source.address", "'here' is not HOST:PORT"]),
        (
            ["source=kapacity", "source.address=h:1", "source.end=soon"],
            ["source.end", "'soon' is not a time"],
        ),
        (["source=kapacity", "source.address=h:1", "source.on_empty=maybe"], ["source.on_empty", "'maybe'"]),
        (["source=kapacity", "source.address=h:1", "source.tls.ca=no.pem"], ["source.tls.ca", "no.pem"]),
        (["source=kapacity", "source.address=h:1", "source.chunk_points=11001"], ["11000"]),
        (["source=prometheus", "source.url=h:1"], ["source.url", "is not a URL"]),
        (["source=prometheus", "source.url=http://h:1"], ["source.queries: empty"]),
        (
            ["source=prometheus", "source.url=http://h:1", "source.queries=[{metric: a}]"],
            ["queries[0].workload"],
        ),
        ([], ["no source", "source=prometheus"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_refused_before_anything_is_asked(
    arguments: list[str], words: list[str], tmp_path: Path, traffic_csv: Callable[..., Path]
) -> None:
    traffic_csv(points=20)
    done = run_command("kforecast-fetch", *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    error = done.stderr[done.stderr.index("error: ") :]
    assert [word for word in words if word not in error] == []
    assert "Traceback" not in done.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["traffic.csv"]


def test_help_shows_the_way_into_a_cluster(tmp_path: Path) -> None:
    done = run_process("kforecast-fetch", "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "port-forward service/kapacity-grpc-service 9090:9090" in done.stdout


def test_rows_per_pod_are_combined_or_not_written(tmp_path: Path) -> None:
    rows = [f"{START + 60 * i},50,shop/web,qps,pod-{pod}" for i in range(3000) for pod in range(2)]
    (tmp_path / "pods.csv").write_text("timestamp,value,workload,metric,pod\n" + "\n".join(rows) + "\n")
    command = ("kforecast-fetch", "--dataset-file=pods.csv", "output=history.csv")
    done = run_command(*command, cwd=tmp_path)
    assert done.returncode == 2
    assert "duplicates: shop/web qps: 3,000 rows at a moment already seen" in done.stdout
    assert done.stderr.splitlines()[-1].startswith(
        "error: pods.csv: 2 rows of shop/web qps at 2024-01-01 00:00: column pod tells them apart; "
        "source.on_multiple=sum adds them up"
    )
    assert not (tmp_path / "history.csv").exists()
    done = run_command(*command, "source.on_multiple=sum", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 finding:\n  constant: shop/web qps: the value is 100" in done.stdout
    frame = pd.read_csv(tmp_path / "history.csv")
    assert [*frame.columns] == ["timestamp", "value", "workload", "metric"]
    assert (len(frame), set(frame["value"])) == (3000, {100.0})
