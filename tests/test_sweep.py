"""Sweeps (``-m``): a folder per job, a ranking at the end, and failures that do not stop other jobs."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from conftest import run_command
from kforecast.artifact import TRIO
from kforecast.training.sweeps.ranking import collect, ranking_table

COLUMNS = ["job", "status", "score", "epochs", "seconds", "artifact_dir"]
QUICK = ["trainer.max_epochs=1", "+trainer.limit_train_batches=2", "trainer=cpu", "logger=none"]
NOTHING_HELD_OUT = ["data.validation=0", "data.test=0", "monitor=train/loss"]  # so there is no report


def sweep(cwd: Path, data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    where = ["hydra.sweep.dir=sweep", "source=csv", f"source.path={data}"]
    return run_command("kforecast-train", "-m", *where, *QUICK, *arguments, cwd=cwd)


def test_a_sweep_with_failing_jobs(tmp_path: Path, traffic_csv: Callable[..., Path]) -> None:
    varied = ["window.context_length=4,7", "optimizer.lr=0.01,-1,0.001"]
    done = sweep(tmp_path, traffic_csv(series=2, points=200), *varied, *NOTHING_HELD_OUT)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == [
        "error: of 6 jobs 2 failed; see their logs in sweep"
    ]

    results = pd.read_csv(tmp_path / "sweep" / "results.csv")
    assert list(results.columns[:6]) == COLUMNS
    assert {"window.context_length", "optimizer.lr"} <= set(results.columns[6:])
    assert sorted(results["job"]) == [0, 1, 2, 3, 4, 5]
    assert list(results["status"]) == ["done"] * 4 + ["failed"] * 2
    good, bad = results[:4], results[4:]
    assert good["score"].is_monotonic_increasing
    assert (good["epochs"] == 1).all()
    assert bad["score"].isna().all()
    assert set(bad["optimizer.lr"]) == {-1}
    pairs = set(zip(good["window.context_length"], good["optimizer.lr"], strict=True))
    assert pairs == {(4, 0.01), (4, 0.001), (7, 0.01), (7, 0.001)}

    for job in results.to_dict("records"):
        folder = tmp_path / "sweep" / str(job["job"])
        result = json.loads((folder / "result.json").read_text())
        assert result["status"] == job["status"]
        log = (folder / "train.log").read_text()
        if job["status"] == "done":
            # Relative as given, to the directory of the command.
            assert (tmp_path / job["artifact_dir"]).resolve() == folder / "artifact"
            config = yaml.safe_load((folder / "artifact" / "estimator_config.yaml").read_text())
            assert config["context_length"] == job["window.context_length"]
            assert config["learning_rate"] == job["optimizer.lr"]
            assert result["score"] == pytest.approx(job["score"])
        else:
            assert "optimizer.lr" in result["error"]
            assert "job failed: " in log
            assert not (folder / "artifact").exists()

    best = good.iloc[0]
    ranking = done.stdout[done.stdout.index("Sweep, best first") :]
    assert f"{best['score']:.6f}" in ranking
    assert ranking.index(f"{best['score']:.6f}") < ranking.index(f"{good.iloc[3]['score']:.6f}")
    assert ranking.count("failed") == 2
    assert "results.csv" in ranking


def test_a_good_sweep_into_one_save_path(tmp_path: Path, traffic_csv: Callable[..., Path]) -> None:
    # The name passes through Hydra's grammar twice: flag to override, sweep to job.
    name = "Mia's best, really ${ok}"
    done = sweep(tmp_path, traffic_csv(), "seed=1,2", *NOTHING_HELD_OUT, f"--model-save-path={name}")
    assert done.returncode == 0, done.stderr
    assert "error:" not in done.stderr
    results = pd.read_csv(tmp_path / "sweep" / "results.csv")
    assert list(results["status"]) == ["done", "done"]
    assert set(results["seed"]) == {1, 2}
    assert sorted(results["artifact_dir"]) == [f"{name}/0", f"{name}/1"]
    for number in ("0", "1"):
        assert {path.name for path in (tmp_path / name / number).iterdir()} >= set(TRIO)
    assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["0", "1"]


def make_job(
    folder: Path, number: int, result: dict[str, Any] | str | None, overrides: list[str] | None = None
) -> None:
    job = folder / str(number)
    (job / ".hydra").mkdir(parents=True)
    if result is not None:
        text = result if isinstance(result, str) else json.dumps(result)
        (job / "result.json").write_text(text)
    if overrides is not None:
        (job / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(overrides))


def done(score: float) -> dict[str, Any]:
    return {"status": "done", "score": score, "epochs": 3, "seconds": 1.5, "artifact_dir": "a"}


def test_collect_ranks_best_first_and_failed_last(tmp_path: Path) -> None:
    make_job(tmp_path, 0, done(0.5), ["optimizer.lr=0.1", "+trainer.x=1"])
    make_job(tmp_path, 1, {"status": "failed", "error": "e", "seconds": 0.1}, ["optimizer.lr=-1"])
    make_job(tmp_path, 2, done(0.25), ["optimizer.lr=0.2", "+trainer.x=1"])
    make_job(tmp_path, 10, done(0.75), ["optimizer.lr='a=b'", "+trainer.x=1"])
    lists = ["objective=[score,training_seconds]", "data.timezone={default: UTC}"]
    make_job(tmp_path, 11, done(0.9), ["optimizer.lr=0.3", "+trainer.x=1", *lists])
    (tmp_path / "notes").mkdir()
    (tmp_path / "multirun.yaml").write_text("{}")
    results = collect(tmp_path)
    assert list(results.columns) == [*COLUMNS, "optimizer.lr", "trainer.x", "objective", "data.timezone"]
    assert list(results["job"]) == [2, 0, 10, 11, 1]
    assert list(results["status"]) == ["done", "done", "done", "done", "failed"]
    assert list(results["optimizer.lr"]) == [0.2, 0.1, "a=b", 0.3, -1]
    assert list(results["epochs"][:3]) == [3, 3, 3]
    assert "objective" in ranking_table(results)


@pytest.mark.parametrize(
    "torn", [None, "", '{"status": "do', "[1, 2]", "\x00\x00"], ids=["missing", "empty", "cut", "list", "nul"]
)
def test_collect_takes_a_job_without_a_whole_result_as_failed(torn: str | None, tmp_path: Path) -> None:
    make_job(tmp_path, 0, torn, ["seed=1"])
    make_job(tmp_path, 1, done(0.5), ["seed=2"])
    results = collect(tmp_path)
    assert list(results["job"]) == [1, 0]
    assert list(results["status"]) == ["done", "failed"]
    assert list(results["seed"]) == [2, 1]
    assert pd.isna(results["score"][1])
    table = ranking_table(results)
    assert table.count("failed") == 1
    assert "0.500000" in table


@pytest.mark.parametrize("number", [1, 3])
def test_a_ranking_of_failures_alone(number: int, tmp_path: Path) -> None:
    for job in range(number):
        make_job(tmp_path, job, None, [f"seed={job}"])
    results = collect(tmp_path)
    assert list(results["status"]) == ["failed"] * number
    assert ranking_table(results).count("failed") == number


def test_collect_of_nothing(tmp_path: Path) -> None:
    assert collect(tmp_path).empty


def test_collect_bears_unreadable_overrides(tmp_path: Path) -> None:
    make_job(tmp_path, 0, done(0.5))
    make_job(tmp_path, 1, done(0.4))
    (tmp_path / "1" / ".hydra" / "overrides.yaml").write_text("[not: yaml")
    assert list(collect(tmp_path)["job"]) == [1, 0]
