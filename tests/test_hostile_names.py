"""Workloads and metrics of any name: files stay in their folder, and pages show the names as text."""

import math
from pathlib import Path

import pandas as pd
import pytest

from conftest import START, run_command

NAMES = [
    "../../../etc/passwd",
    "/etc/passwd",
    "..",
    "nul\0byte",
    "x" * 5000,
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}",
    "$\\frac{$",
    "${oc.env:HOME}",
    "\x1b[2J\x1b]0;title\x07",
    "line\r\nbreak",
    "[bold]rich[/]",
    "=cmd|'/c calc'!A1",
    "命名\u202eabc",
]


def history(folder: Path, points: int = 300) -> None:
    rows = [
        (START + 600 * point, 10 + number + 5 * math.sin(2 * math.pi * point / 144), name, "q/../ps")
        for number, name in enumerate(NAMES)
        for point in range(points)
    ]
    frame = pd.DataFrame(rows, columns=["timestamp", "value", "workload", "metric"])
    frame.to_parquet(folder / "history.parquet", index=False)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "held_out",
    [
        ["data.validation=0", "data.test=0", "monitor=train/loss"],  # only the evaluation writes a report
        pytest.param([], marks=pytest.mark.slow),
    ],
    ids=["all is trained on", "some is held out"],
)
def test_any_names(held_out: list[str], tmp_path: Path) -> None:
    work = tmp_path / "above" / "work"
    work.mkdir(parents=True)
    history(work)
    given = ["--dataset-file=history.parquet"]
    smoke = ["experiment=smoke", "artifact.per_series=true", "artifact_dir=model", "hydra.run.dir=train"]
    done = run_command("kforecast-train", *given, *smoke, *held_out, cwd=work)
    assert done.returncode == 0, done.stderr
    folders = sorted(path.name for path in (work / "model" / "per_series").iterdir())
    assert len(folders) == len(NAMES)
    assert all(name.isascii() and name.isprintable() and len(name) < 100 for name in folders)
    report = ["artifact_dir=model", "hydra.run.dir=report", f"evaluate.start={START + 600 * 270}"]
    judged = run_command("kforecast-evaluate", *given, *report, cwd=work)
    assert judged.returncode == 0, judged.stderr
    made = run_command("kforecast-forecast", *given, "artifact_dir=model", "output=next.csv", cwd=work)
    assert made.returncode == 0, made.stderr
    asked = run_command("kforecast-fetch", *given, "output=again.parquet", cwd=work)
    assert asked.returncode == 0, asked.stderr
    assert files(tmp_path) == {f"above/work/{name}" for name in files(work)}
    page = (work / "report" / "report.html").read_text()
    assert "<script>alert" not in page
    assert "<img" not in page
    forecasts = pd.read_csv(work / "next.csv", keep_default_na=False)
    assert set(forecasts["workload"]) == set(NAMES)
    said = "".join(run.stdout + run.stderr for run in (done, judged, made, asked))
    assert "\x1b" not in said
    assert "\0" not in said
    log = (work / "train" / "train.log").read_text()
    assert "\x1b" not in log
