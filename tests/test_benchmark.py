"""What scripts/benchmark.py finds about memory is a promise; its times are not tested."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "benchmark.py"
ACCURACY = SCRIPT.with_name("benchmark_accuracy.py")
# A protocol of the same verbs, with one small task; it scores nothing but that every forecast is there.
PROTOCOL = """
import json, math, sys
from pathlib import Path
import pandas as pd
verb, given = sys.argv[1], dict(zip(sys.argv[2::2], sys.argv[3::2]))
step, start, bins, train_end = 3600, 1704067200, 480, 400
times = [start + step * i for i in range(bins)]
def rows(count):
    value = [50 + 20 * math.sin(t / 86400 * 6.283) for t in times[:count]]
    return pd.DataFrame({"timestamp": times[:count], "value": value, "workload": "a", "metric": "m"})
if verb == "export":
    out = Path(given["--out"])
    out.mkdir(parents=True)
    rows(train_end).to_csv(out / "train.csv", index=False)
    rows(bins).to_csv(out / "full.csv", index=False)
    facts = {"freq": "1H", "context_length": 6, "prediction_length": 2, "train_end": times[train_end]}
    (out / "task.json").write_text(json.dumps(facts))
elif verb == "score":
    made = pd.read_csv(given["--forecast"])
    wanted = {(t - step, s) for t in times[train_end:-1] for s in (1, 2)}
    assert wanted <= set(zip(made["origin"], made["step"]))
    print(json.dumps({"NMAE": 0.1, "MASE": 0.2, "under": 0.3, "over": 0.4}))
else:
    print("the table")
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads memory from /proc")
def test_sixty_days_of_twenty_series_are_exact_in_bounded_memory() -> None:
    command = [sys.executable, str(SCRIPT), "memory"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    found = re.search(r"([\d,]+) points, exact: (\w+): resident memory grew by (\d+) MB", done.stdout)
    assert found is not None, done.stdout
    assert found[1] == "1,728,020"
    assert found[2] == "True"
    assert 0 < int(found[3]) < 300


def test_an_unknown_stage_is_refused() -> None:
    command = [sys.executable, str(SCRIPT), "fetsh"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "unknown stage fetsh; known: csv, windows, step, epoch, " in done.stderr


def test_a_table_has_a_line_for_each_figure_and_the_memory_of_the_stage() -> None:
    command = [sys.executable, str(SCRIPT), "--markdown", "forecast"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
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
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    found = re.search(
        r"1,000 series x 14 days .* one run, trainer.max_epochs=1: ([\d,]+) MB at most", done.stdout
    )
    assert found is not None, done.stdout
    assert 500 < int(found[1].replace(",", "")) < 3072


def test_the_accuracy_benchmark_trains_evaluates_and_scores_every_task(tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "protocol.py").write_text(PROTOCOL)
    (tmp_path / "bench" / "tasks.json").write_text(json.dumps([{"name": "small"}]))
    command = [sys.executable, str(ACCURACY), "--bench", "bench", "--out", "out", "trainer.max_epochs=1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = done.stdout.strip().splitlines()
    assert first.startswith("small: NMAE 0.1000, MASE 0.2000, under 0.3000, over 0.4000 (1 epochs, ")
    assert second == "the table"


def test_an_accuracy_benchmark_without_a_protocol_or_of_an_unknown_task_is_refused(tmp_path: Path) -> None:
    def refused(*arguments: str) -> str:
        command = [sys.executable, str(ACCURACY), "--bench", str(tmp_path), *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2
        return done.stderr

    assert "protocol.py: no such file" in refused()
    (tmp_path / "protocol.py").write_text("")
    (tmp_path / "tasks.json").write_text(json.dumps([{"name": "small"}]))
    assert "unknown task large; known: small" in refused("--task", "large")
