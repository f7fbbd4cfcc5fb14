"""scripts/benchmark.py: its memory figures are promises; its times are not tested."""

import csv
import dataclasses
import importlib
import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from conftest import HANG, START
from kforecast.data.panel import Panel
from kforecast.forecaster import Forecaster
from kforecast.window import Frequency, Window

SCRIPT = Path(__file__).parents[1] / "scripts" / "benchmark.py"
ACCURACY = SCRIPT.with_name("benchmark_accuracy.py")
# A protocol with the same commands and one small task; its score only requires all forecasts.
PROTOCOL = """
import json, math, os, sys
from pathlib import Path
HERE = Path(__file__).parent
PEERS = HERE / "peers.json"
TASKS = {task["name"]: task for task in json.loads((HERE / "tasks.json").read_text())}
def ratio(a, b):
    return a["NMAE"] / b["NMAE"]
def main():
    import pandas as pd
    verb, given = sys.argv[1], dict(zip(sys.argv[2::2], sys.argv[3::2]))
    step, start, bins, train_end = 3600, 1704067200, 480, 400
    times = [start + step * i for i in range(bins)]
    def rows(count):
        value = [50 + 20 * math.sin(t / 86400 * 6.283) for t in times[:count]]
        return pd.DataFrame({"timestamp": times[:count], "value": value, "workload": "a", "metric": "m"})
    if verb == "export":
        out = Path(given["--out"])
        out.mkdir(parents=True, exist_ok=True)
        rows(train_end).to_csv(out / "train.csv", index=False)
        rows(bins).to_csv(out / "full.csv", index=False)
        facts = {"freq": "1H", "context_length": 6, "prediction_length": 2, "train_end": times[train_end]}
        (out / "task.json").write_text(json.dumps(facts))
    elif verb == "score":
        made = pd.read_csv(given["--forecast"])
        wanted = {(t - step, s) for t in times[train_end:-1] for s in (1, 2)}
        assert wanted <= set(zip(made["origin"], made["step"]))
        seed = int(given["--save"].removeprefix("kforecast seed "))
        found = {"NMAE": seed / 100, "MASE": 0.2, "under": 0.3, "over": 0.4}
        scores = Path(os.environ["BENCH_SCORES"])
        saved = json.loads(scores.read_text()) if scores.exists() else {}
        saved.setdefault(given["--save"], {})[given["--task"]] = found
        scores.write_text(json.dumps(saved))
    else:
        print("the table")
if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads memory from /proc")
def test_sixty_days_of_twenty_series_are_exact_in_bounded_memory() -> None:
    command = [sys.executable, str(SCRIPT), "memory"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG, check=True)
    found = re.search(r"([\d,]+) points, exact: (\w+): resident memory grew by (\d+) MB", done.stdout)
    assert found is not None, done.stdout
    assert found[1] == "1,728,020"
    assert found[2] == "True"
    assert 0 < int(found[3]) < 300


def test_an_unknown_stage_is_refused() -> None:
    command = [sys.executable, str(SCRIPT), "fetsh"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG, check=False)
    assert done.returncode == 2
    assert "unknown stage fetsh; known: csv, windows, step, epoch, " in done.stderr


@pytest.mark.slow
def test_a_table_has_a_line_for_each_figure_and_the_memory_of_the_stage() -> None:
    command = [sys.executable, str(SCRIPT), "--markdown", "forecast"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG, check=True)
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()]
    assert lines[0] == ["what", "ours", "reference", "ratio", "target"]
    assert {len(line) for line in lines} == {5}
    assert [line[0].partition(" of ")[0] for line in lines[2:]] == [
        "forecast",
        "forecast",
        "forecast: peak memory",
    ]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads memory from /proc")
def test_a_thousand_series_train_within_three_gigabytes() -> None:
    command = [sys.executable, str(SCRIPT), "fleet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG, check=True)
    found = re.search(
        r"1,000 series x 14 days .* one run, trainer.max_epochs=1: ([\d,]+) MB at most", done.stdout
    )
    assert found is not None, done.stdout
    assert 500 < int(found[1].replace(",", "")) < 3072


def bench_folder(folder: Path, protocol: str = PROTOCOL) -> Path:
    folder.mkdir()
    (folder / "protocol.py").write_text(protocol)
    (folder / "tasks.json").write_text(json.dumps([{"name": "small"}]))
    peers = {
        "original": {"small": {"NMAE": 0.2, "train_seconds": 9.0}},
        "last value": {"small": {"NMAE": 0.05, "train_seconds": 0.0}},
        "LightGBM, aligned lags": {"small": {"NMAE": 0.1, "train_seconds": 9.0}},
        "N-HiTS": {"small": {"NMAE": 0.12, "train_seconds": 9.0}},
    }
    (folder / "peers.json").write_text(json.dumps(peers))
    return folder


@pytest.mark.slow
def test_the_accuracy_benchmark_trains_evaluates_and_scores_every_task_once(tmp_path: Path) -> None:
    bench = bench_folder(tmp_path / "bench")
    options = ["--bench", bench, "--out", "out", "--jobs", "2", "--seed", "10", "--rival", "kforecast"]
    command = list(map(str, [sys.executable, ACCURACY, *options, "trainer.max_epochs=1"]))

    def lines() -> list[str]:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()

    first = lines()
    run, pause, rest = first[0], first[1], first[2:]
    said = "MASE 0.2000, under 0.3000, over 0.4000 (1 epochs, trained in "
    assert run.startswith(f"small seed 10: NMAE 0.1000, {said}")
    assert pause.startswith("recurring drops seed 10: error in the pause ")
    assert rest[0] == "the table"
    heads, row = (re.split("  +", line) for line in rest[2:4])
    cells = dict(zip(heads, row, strict=True))
    assert (cells["task"], cells["/ original"], cells["spread"]) == ("small", "0.500", "-")
    assert float(cells["fit s"]) < float(cells["train s"])
    assert "error / the original's: 0.500 (seed 10: 0.500; geometric mean over 1 task)" in rest
    # Its own rival is equal.
    assert "/ kforecast: error 1.000, width 1.000, " in "\n".join(rest)

    again = lines()
    assert ", kept from 20" in again[0]
    assert "(kept from 20" in again[1]
    assert again[2:] == rest

    found = json.loads((tmp_path / "out" / "accuracy.json").read_text())
    assert found["overrides"] == ["threads=1", "trainer.max_epochs=1"]
    assert found["tasks"][0]["ratios"] == {"10": 0.5}
    (figures,) = [run["figures"] for run in found["runs"]]
    folder = tmp_path / "out" / "kforecast" / "small" / "seed-10"
    evaluated = json.loads((folder / "evaluation" / "report.json").read_text())
    assert figures["coverage"] == evaluated["overall"]["coverage_90"]
    assert figures["artifact_bytes"] == sum(file.stat().st_size for file in (folder / "model").iterdir())
    with (tmp_path / "out" / "accuracy.csv").open() as file:
        (written,) = csv.DictReader(file)
    assert float(written["ratio seed 10"]) == 0.5
    assert float(written["cost"]) == figures["cost"]
    # Fcnet looks at its context only, so an outage a day ago cannot matter.
    assert float(written["outage both x 0.05"]) == 1
    with (tmp_path / "out" / "series.csv").open() as file:
        (series,) = csv.DictReader(file)
    assert float(series["ratio"]) == pytest.approx(figures["naive_ratio"])
    assert found["recurring_drops"][0]["paused"] > 0


def test_a_run_of_the_accuracy_benchmark_is_read_as_its_files_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ACCURACY.parent))
    facts = importlib.import_module("benchmark_stages.accuracy_facts")
    for part in ("model", "run", "evaluation"):
        (tmp_path / part).mkdir()
    (tmp_path / "model" / "checkpoint.pth").write_bytes(b"1234567")
    (tmp_path / "run" / "result.json").write_text('{"epochs": 3}')
    costs = {"forecast alone": 9, "max(reactive, forecast)": 5, "last week and yesterday": 8, "schedule": 4}
    costs |= {"reactive": 6, "perfect": 1}
    report = {
        "overall": {"mae": 3.0, "coverage_90": 0.5},
        "baselines": {"a": {"mae": 4.0}, "b": {"mae": 5.0}},
        "capacity": {
            "policies": {name: {"cost": cost} for name, cost in costs.items()},
            "quantile": {"level": 0.909},
        },
    }
    (tmp_path / "evaluation" / "report.json").write_text(json.dumps(report))
    # Widths of 2 at level 10 and of 30 at level 20; unobserved bins do not count.
    rows = ["a,m,10,9,11", "b,m,-20,0,30", "b,m,,0,1000"]
    forecasts = "\n".join(["workload,metric,actual,q0.05,q0.95", *rows])
    (tmp_path / "evaluation" / "forecasts.csv").write_text(forecasts)
    found = facts.figures_of_run(tmp_path, 2.5, None)
    assert found == facts.Figures(
        seconds=2.5,
        fit_seconds=None,
        epochs=3,
        artifact_bytes=7,
        naive="a",
        naive_ratio=0.75,
        coverage=0.5,
        width=pytest.approx((0.2 + 1.5) / 2),
        cost=5,
        cost_reactive=6,
        cost_naive=4,
    )
    assert not found.covers
    assert not found.cheapest


def test_the_accuracy_table_is_of_means_over_seeds_and_says_who_is_not_beaten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ACCURACY.parent))
    facts = importlib.import_module("benchmark_stages.accuracy_facts")
    table = importlib.import_module("benchmark_stages.accuracy_table")
    by, cases = {"m": 1, "n": 2}, {"yesterday x 0": 1.0, "both x 3": 1.2}

    def run(task: str, seed: int, cost: float) -> Any:
        figures = facts.Figures(seed, None, 2, 1000 * seed, "last value", 0.9, 0.9, None, cost, 5.0, 6.0)
        # The means over the seeds are 2 and 4 against 4 and 2.
        series = [
            facts.SeriesFacts("w", name, seed * far, "last value", 4 / far, 0.8) for name, far in by.items()
        ]
        outages = {case: {"ratio": ratio * seed / 2, "off": 0.1} for case, ratio in cases.items()}
        return facts.RunFacts(task, seed, figures, tuple(series), outages if task == "a" else {})

    # The original was not run on the third task.
    runs = [run(task, seed, 2 * seed) for task in ("a", "b", "new") for seed in (1, 3)]
    saved = {
        "wide seed 1": {"a": {"NMAE": 0.1}, "b": {"NMAE": 0.4}, "new": {"NMAE": 0.1}},
        "wide seed 3": {"a": {"NMAE": 0.2}, "b": {"NMAE": 0.4}, "new": {"NMAE": 0.2}},
    }
    peers = {
        "original": {"a": {"NMAE": 0.5, "train_seconds": 9}, "b": {"NMAE": 0.5, "train_seconds": 9}},
        "LightGBM, aligned lags": {"a": {"NMAE": 0.1}, "b": {"NMAE": 0.5}},
        "N-HiTS": {"a": {"NMAE": 0.1, "train_seconds": 9}, "b": {"NMAE": 0.8, "train_seconds": 9}},
        "last value": {"a": {"NMAE": 0.2, "train_seconds": 0}},
    }
    known = facts.Peers(peers, lambda a, b: a["NMAE"] / b["NMAE"])
    lines = table.report(facts.task_facts(runs, saved, "wide", known), runs, known)
    rows = [re.split("  +", line) for line in lines[:4]]
    assert [row[:3] for row in rows[1:]] == [
        ["a", "0.300", "0.200"],
        ["b", "0.800", "0.000"],
        ["new", "NMAE 0.150", "0.100"],
    ]
    assert dict(zip(rows[0], rows[1], strict=True)) == {
        **{"task": "a", "/ original": "0.300", "spread": "0.200", "/ aligned": "1.500", "peers": "2 of 4"},
        **{"train s": "2.0", "fit s": "-", "epochs": "2", "bytes": "2,000"},
        **{"best naive": "last value", "/ naive": "0.900", "<= 1.05": "1 of 2", "largest": "2.000"},
        **{"in 90 %": "90.0%", "least": "80.0%", "width": "-"},
        **{"cost / naive": "0.667", "cost": "4", "reactive": "5"},
    }
    assert [re.split("  +", line) for line in lines[5:9]] == [
        ["the series with the largest errors against their best naive forecasts"],
        ["task", "series", "best naive", "/ naive", "in 90 %"],
        ["a", "w n", "last value", "2.000", "80.0%"],
        ["b", "w n", "last value", "2.000", "80.0%"],
    ]
    assert [re.split("  +", line) for line in lines[14:17]] == [
        ["forecast after an outage of six hours / forecast without it"],
        ["task", "yesterday x 0", "both x 3"],
        ["a", "1.000", "1.200"],
    ]
    assert lines[18:] == [
        "error / the original's: 0.490 (seed 1: 0.400, seed 3: 0.566; geometric mean over 2 tasks)",
        "error / that of LightGBM, aligned lags: 1.095 (geometric mean), better on 1 of 2 tasks",
        "better than every peer on 1 of 2 tasks",
        "not beaten: LightGBM, aligned lags on a (1.500)",
        "not beaten: N-HiTS on a (1.500)",
        "error / best naive forecast's, of each of 6 series: 1.05 or less for 50.0% (asked: 95%)",
        "its largest: 2.000 (a, w n, last value); asked: 1.15",
        "90 % interval holds 88 to 92 % of the targets on 3 of 3 tasks",
        "its least coverage of a series: 80.0% (a, w m); asked: 85%",
        "max(reactive, forecast) costs less than reactive and the simple rules on 3 of 3 tasks",
        "its cost / cheaper simple rule's: 0.667 to 0.667 (a), 0.85 or less on 3 of 3 tasks",
        "training command: median 2 s, longest 3 s (a)",
        "artifact: 3,000 bytes at most (a)",
        "after an outage, 0.95 to 1.05 of the forecast without it in all cases on 0 of 1 task; "
        "worst: 1.200 (a, both x 3)",
    ]


def test_the_scores_of_each_series_are_read_beside_its_own_best_naive_forecast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ACCURACY.parent))
    facts = importlib.import_module("benchmark_stages.accuracy_facts")
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "report.json").write_text('{"baselines": {"x": {}, "y": {}}}')
    rows = ["model,workload,metric,step,mae,coverage_90"]
    errors = {"kforecast": (2, 0, 3), "series id 0": (1, 1, 1), "x": (4, 0, 5), "y": (1, 2, 0)}
    for model, maes in errors.items():
        covered = "0.75" if model == "kforecast" else ""
        rows += [f"{model},w,{metric},all,{mae},{covered}" for metric, mae in zip("abc", maes, strict=True)]
        rows += [f"{model},w,a,1,9,{covered}", f"{model},*,*,all,9,{covered}"]
    (tmp_path / "evaluation" / "scores.csv").write_text("\n".join(rows))
    found = facts.series_of_run(tmp_path)
    assert [(one.metric, one.naive, one.ratio, one.coverage) for one in found] == [
        ("a", "y", 2.0, 0.75),
        ("b", "x", 1.0, 0.75),  # both are exact
        ("c", "y", math.inf, 0.75),
    ]


def test_widths_are_compared_at_equal_coverage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ACCURACY.parent))
    intervals = importlib.import_module("benchmark_stages.accuracy_intervals")
    rng = np.random.default_rng(0)
    count = 4000
    spread = np.where(np.arange(count) % 2, 1.0, 9.0)  # known in advance to the first forecaster only
    actual = 100 + spread * rng.uniform(-1, 1, count)
    keys = {"workload": "w", "metric": "m", "origin": np.arange(count), "step": 1}

    def written(name: str, half: np.ndarray | float | None) -> Path:
        frame = pd.DataFrame(keys | {"value": 100.0, "actual": actual})
        if half is not None:
            frame = frame.assign(**{"q0.05": 100 - half, "q0.95": 100 + half})
        frame.to_csv(tmp_path / name, index=False)
        return tmp_path / name

    knows = written("knows.csv", spread / 7)
    plain = written("plain.csv", 50.0)
    without = written("without.csv", None)
    # 90 % of the targets lie within 0.9 times their own spread, and within 7.2 of the forecast.
    assert intervals.equal_coverage(knows, plain) == (pytest.approx(5 * 0.9 / 7.2, rel=0.02),) * 2
    assert intervals.equal_coverage(plain, knows)[1] == pytest.approx(1)
    own, conformal = intervals.equal_coverage(knows, without)
    assert own is None
    assert conformal == pytest.approx(5 * 0.9 / 7.2, rel=0.02)
    assert intervals.equal_coverage(without, plain) == (None, None)


def test_outages_are_injected_where_the_forecast_hours_were_a_season_ago(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ACCURACY.parent))
    outages = importlib.import_module("benchmark_stages.accuracy_outages")
    window = Window(Frequency.parse("1H"), 3, 2)
    pairs = (("a", "m"), ("b", "m"))
    panel = Panel(np.ones((2, 300), np.float32), np.ones((2, 300), bool), START, window.frequency, pairs)
    panel.observed[1, 200:] = False  # the second series cannot be forecast from there

    class Seasonal:
        """Forecasts the mean of the forecast hours of a day ago and of a week ago."""

        def __init__(self) -> None:
            self.window = window

        def forecast_windows(self, known: Panel, rows: np.ndarray, origin: np.ndarray) -> SimpleNamespace:
            assert set(rows) == {0}
            assert (origin == known.num_bins).all()
            hours = [known.values[rows, known.num_bins - back :][:, :2] for back in (24, 168)]
            return SimpleNamespace(values=np.mean(hours, axis=0))

    found = outages.measured(Seasonal(), panel, 220, 5)
    # Half of the forecast is of the day that was injected.
    assert found["yesterday x 0.05"]["ratio"] == pytest.approx(0.525)
    assert found["a week ago x 0"]["ratio"] == pytest.approx(0.5)
    assert found["both x 3"] == {"ratio": pytest.approx(3), "off": pytest.approx(2)}
    assert len(found) == 9
    panel.observed[:] = False
    assert outages.measured(Seasonal(), panel, 220, 5) == {}


def test_a_short_history_hides_what_is_older_and_what_is_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ACCURACY.parent))
    history = importlib.import_module("benchmark_stages.accuracy_history")
    forecaster = Forecaster.pretrained(Window("1H", 6, 2))
    forecaster = dataclasses.replace(forecaster, online=None, intervals=None)
    hours = START + 3600 * np.arange(480)
    values = 50 + 20 * np.sin(np.arange(480) * 2 * np.pi / 24) + np.random.default_rng(0).normal(0, 3, 480)
    rows = pd.DataFrame({"timestamp": hours, "value": values, "workload": "a", "metric": "m"})
    asked = pd.DataFrame({"workload": "a", "metric": "m", "origin": hours[[400, 430]]})

    def forecasts(rows: pd.DataFrame) -> np.ndarray:
        frame, found = history.measured(forecaster, Panel.from_frame(rows, Frequency.parse("1H")), asked, 48)
        assert found["ratio"] > 0
        assert frame["step"].tolist() == [1, 2, 1, 2]
        return frame["value"].to_numpy()

    made = forecasts(rows)
    # The first forecast sees the bins 353 to 400.
    older, unseen, newer = (rows.copy() for _ in range(3))
    older.loc[:352, "value"] *= 3
    unseen.loc[431:, "value"] *= 3
    newer.loc[400, "value"] *= 3
    np.testing.assert_array_equal(forecasts(older), made)
    np.testing.assert_array_equal(forecasts(unseen), made)
    assert (forecasts(newer) > made + 5)[:2].all()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--history", "7"], "3h or 7D"),
        (["--history", "7D", "model=auto"], "model=auto would have no effect"),
        (["--history", "7D", "--stage", "drops"], "--stage would have no effect"),
        (["--history", "7D", "--seed", "5"], "--seed would have no effect"),
    ],
)
def test_a_wrong_history_of_the_accuracy_benchmark_is_refused(arguments: list[str], words: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ACCURACY), *arguments], capture_output=True, text=True, timeout=HANG
    )
    assert done.returncode == 2
    assert words in done.stderr


def test_traffic_with_a_nightly_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ACCURACY.parent))
    drops = importlib.import_module("benchmark_stages.accuracy_drops")
    drops.export(tmp_path)
    rows, task = pd.read_csv(tmp_path / "full.csv"), json.loads((tmp_path / "task.json").read_text())
    hour = rows["timestamp"] % 86_400 // 3600
    level = rows.groupby(["workload", hour])["value"].mean().unstack()
    assert (level[2] < 0.1 * level[[1, 3]].min(axis=1)).all()
    assert pd.read_csv(tmp_path / "train.csv")["timestamp"].max() < task["train_end"]
    # A forecast that knows nothing of the pause is wrong in it, and only there.
    judged = rows[rows["timestamp"] >= task["train_end"]].assign(actual=lambda frame: frame["value"])
    usual = judged.groupby("workload")["actual"].transform("mean")
    paused = judged["timestamp"] % 86_400 // 3600 == 2
    judged.assign(value=judged["actual"].where(~paused, usual)).to_csv(tmp_path / "made.csv", index=False)
    found = drops.facts(7, tmp_path / "made.csv")
    assert (found.seed, found.elsewhere) == (7, 0)
    assert 0.9 < found.paused < 1
    judged.assign(value=judged["actual"].where(~paused, usual / 2)).to_csv(tmp_path / "half.csv", index=False)
    against = drops.facts(7, tmp_path / "made.csv", tmp_path / "half.csv")
    assert against.of_rival == pytest.approx(2, rel=0.1)
    table = importlib.import_module("benchmark_stages.accuracy_table")
    (line,) = table.drop_lines([drops.DropFacts(1, 0.01, 0.2, 1.1), drops.DropFacts(2, 0.03, 0.4, 0.9)])
    assert line == (
        "recurring drops: error in the hours of a nightly pause 0.0200 of the mean traffic (seed 1: 0.0100, "
        "seed 2: 0.0300), 1.000 of the other recipe's; in the other hours 0.3000"
    )
    assert table.drop_lines([]) == []


def test_an_accuracy_benchmark_that_is_stopped_leaves_nothing_running(tmp_path: Path) -> None:
    waits = PROTOCOL.replace(
        "def main():",
        "def main():\n    import time\n    Path('pid').write_text(str(os.getpid()))\n    time.sleep(6000)",
    )
    bench = bench_folder(tmp_path / "bench", waits)
    command = list(map(str, [sys.executable, ACCURACY, "--bench", bench, "--out", "out", "--jobs", "2"]))
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as script:
        written, until = tmp_path / "pid", time.monotonic() + HANG
        while not (written.exists() and written.read_text()) and time.monotonic() < until:
            time.sleep(0.05)
        script.terminate()
        _, errors = script.communicate(timeout=HANG)
    assert script.returncode == 130
    assert errors == "stopped; runs that are done are kept\n"
    with pytest.raises(ProcessLookupError):
        os.kill(int(written.read_text()), 0)


def test_a_failed_run_of_the_accuracy_benchmark_is_said_and_the_others_go_on(tmp_path: Path) -> None:
    fails = PROTOCOL.replace('if verb == "export":', 'if verb == "export":\n        sys.exit("no data")')
    bench = bench_folder(tmp_path / "bench", fails)
    command = list(
        map(str, [sys.executable, ACCURACY, "--bench", bench, "--out", "out", "--stage", "outages"])
    )
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    for seed in (42, 43):
        assert f"small seed {seed}: " in done.stderr
    assert done.stderr.count("no data") == 2
    assert done.stderr.endswith("2 of 2 runs failed\n")


def test_an_accuracy_benchmark_without_a_protocol_or_of_an_unknown_task_is_refused(tmp_path: Path) -> None:
    def refused(*arguments: str) -> str:
        command = [sys.executable, str(ACCURACY), "--bench", str(tmp_path / "bench"), *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        return done.stderr

    (line,) = refused().splitlines()
    assert line.endswith("protocol.py: no such file; name the folder of the protocol with --bench")
    bench_folder(tmp_path / "bench")
    assert "unknown task large; known: small" in refused("--task", "large")
    assert "name the seed with --seed" in refused("seed=3")
    assert "--jobs must be at least 1" in refused("--jobs", "0")
