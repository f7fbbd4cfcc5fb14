"""``kforecast-retrain``: the serving version after each cycle, and files that never change."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from conftest import HANG, START, run_command, run_process
from kforecast.artifact import Artifact
from kforecast.metrics.synthetic import SyntheticSource

SOURCE = ["source=synthetic", "source.workloads=1", "source.days=4", "source.step=600"]
TRAINING = ["experiment=smoke", "logger=none", "trainer=cpu", "refit=false"]
QUICK = [*SOURCE, *TRAINING, "callbacks.forecast_figures=null", "retrain.dir=models"]
ALWAYS, NEVER = "gate.require_gain=-99", "gate.require_gain=0.99"


def retrain(cwd: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = run_command("kforecast-retrain", *arguments, cwd=cwd)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def cycles(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "models" / "state.json").read_text())["cycles"]
    return found


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cycles: the first champion, a rejected candidate, and one that is promoted."""
    folder = tmp_path_factory.mktemp("cycles") / "work"
    folder.mkdir()
    retrain(folder, *QUICK)
    retrain(folder, *QUICK, "seed=2", NEVER)
    retrain(folder, *QUICK, "seed=3", ALWAYS, "retrain.warm_start=true")
    return folder


@pytest.fixture
def work(history: Path, tmp_path: Path) -> Path:
    """A copy of these cycles, to be changed."""
    shutil.copytree(history, tmp_path / "work", symlinks=True)
    return tmp_path / "work"


def test_each_cycle_is_told(history: Path) -> None:
    found = cycles(history)
    assert [cycle["decision"] for cycle in found] == ["first", "kept", "promoted"]
    assert [cycle["candidate"] for cycle in found] == [1, 2, 3]
    assert [cycle["champion"] for cycle in found] == [1, 1, 3]
    first, kept, promoted = found
    assert first["champion_wape"] is None
    assert first["candidate_wape"] > 0
    # All cycles have the same data, so that the champion has the same error as at its training.
    assert kept["champion_wape"] == pytest.approx(first["candidate_wape"])
    assert kept["champion_wape_then"] == pytest.approx(first["candidate_wape"])
    assert kept["drift"] == pytest.approx(0, abs=1e-6)
    assert kept["skill"] == pytest.approx(1 - kept["candidate_wape"] / kept["champion_wape"])
    assert kept["low"] <= kept["skill"] <= kept["high"]
    assert "gate.champion=models/champion" in kept["reason"]
    assert promoted["reason"] == ""
    frame = pd.read_csv(history / "models" / "history.csv")
    assert list(frame["decision"]) == ["first", "kept", "promoted"]
    page = (history / "models" / "report.html").read_text(encoding="utf-8")
    assert page.count("promoted") >= 1
    assert "<script" not in page


def test_what_is_served_is_an_artifact(history: Path) -> None:
    models = history / "models"
    assert hashes(models / "champion") == hashes(models / "versions" / "3")
    metadata = Artifact.load(models / "champion").metadata
    assert metadata is not None
    assert metadata["seed"] == 3
    assert "retrain" not in metadata["config"]
    done = run_command("kforecast-forecast", "artifact_dir=models/champion", *SOURCE, cwd=history)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("timestamp,workload,metric,value,age\n")


def test_the_report_of_a_run_compares_candidate_and_champion(history: Path) -> None:
    runs = sorted((history / "outputs").glob("*/*"))
    report = json.loads((runs[1] / "evaluation" / "report.json").read_text())
    assert report["champion"]["drifted"] is False
    assert "Candidate and champion" in (runs[1] / "evaluation" / "report.html").read_text()
    scores = pd.read_csv(runs[1] / "evaluation" / "scores.csv")
    of_champion = scores[(scores["model"] == "champion") & (scores["workload"] == "*")]
    assert of_champion[of_champion["step"] == "all"]["wape"].item() == pytest.approx(
        report["champion"]["wape"]
    )
    log = (runs[2] / "retrain.log").read_text()
    assert "Training begins from the weights of models/champion (warm_start)" in log


def test_the_way_back_restores_the_same_files(work: Path) -> None:
    models = work / "models"
    before = hashes(models / "versions" / "1")
    done = retrain(work, "--rollback", "retrain.dir=models")
    assert "Version 1 is the champion again: version 3 was taken back." in done.stdout
    assert "rolled back" in (models / "report.html").read_text(encoding="utf-8")
    assert hashes(models / "champion") == before
    assert cycles(work)[-1]["decision"] == "rolled back"
    assert cycles(work)[-1]["champion"] == 1
    refused = retrain(work, "--rollback", "retrain.dir=models", code=2)
    assert refused.stderr == "error: --rollback: models has no former champion to go back to\n"
    # The next candidate is compared with the restored champion, and numbers are not reused.
    retrain(work, *QUICK, NEVER)
    assert cycles(work)[-1] | {"champion": 1, "candidate": 4} == cycles(work)[-1]
    assert hashes(models / "champion") == before


def test_no_way_back_to_what_has_changed(work: Path) -> None:
    champion = hashes(work / "models" / "champion")
    (work / "models" / "versions" / "1" / "item2id.json").write_text("{}")
    done = retrain(work, "--rollback", "retrain.dir=models", code=2)
    assert "versions/1: is not what it was when it was the champion" in done.stderr
    assert hashes(work / "models" / "champion") == champion


def test_a_first_candidate_that_does_not_pass_the_gate(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    done = retrain(tmp_path / "work", *QUICK, "gate.require_skill=0.99", code=4)
    assert done.stderr.startswith("error: there is no champion: gate not passed (gate.require_skill=0.99)")
    models = tmp_path / "work" / "models"
    assert not (models / "champion").exists()
    assert Artifact.load(models / "candidate")
    assert cycles(tmp_path / "work")[-1]["decision"] == "rejected"


def test_a_first_candidate_that_forecasts_no_traffic(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    count = 144 * 6
    rng = np.random.default_rng(1)
    value = np.where(rng.random(count) < 0.03, rng.exponential(50, count), 0.0)
    rows = pd.DataFrame({"timestamp": START + 600 * np.arange(count), "value": value})
    rows.assign(workload="fn/a", metric="qps").to_csv(tmp_path / "work" / "traffic.csv", index=False)
    quick = ["--dataset-file=traffic.csv", *QUICK[len(SOURCE) :], "trainer.max_epochs=8"]
    done = retrain(tmp_path / "work", *quick, code=4)
    assert done.stderr.startswith("error: there is no champion: it forecasts ")
    assert "No champion yet. It forecasts " in done.stdout
    models = tmp_path / "work" / "models"
    assert not (models / "champion").exists()
    assert Artifact.load(models / "candidate")
    assert cycles(tmp_path / "work")[-1]["decision"] == "rejected"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["artifact_dir=elsewhere"], "artifact_dir=elsewhere: kforecast-retrain decides that itself"),
        (["gate.champion=models/champion"], "kforecast-retrain decides that itself"),
        (["warm_start=models/champion"], "kforecast-retrain decides that itself"),
        (["-m", "seed=1,2"], "kforecast-retrain trains one candidate: leave out -m"),
        (["--model-save-path=model"], "unknown flag --model-save-path"),
        (["artifact.per_series=true"], "artifact.per_series: a champion is one artifact"),
        (["retrain.keep=0"], "keep: 0"),
        (["retrain.warmstart=true"], "did you mean retrain.warm_start?"),
        (["retrain.warm_start=yes please"], "warm_start"),
        (["window=1h"], "gate.champion: models/champion forecasts 3 steps of 10min"),
        (["data.test=0"], "gate.champion: the comparison needs data that neither has seen"),
        (["retrain.dir=outputs"], "retrain.dir: outputs holds"),
        (["window.context_length=9", "retrain.warm_start=true"], "warm_start: models/champion holds a Fcnet"),
    ],
)
def test_bad_input_is_refused_before_anything_is_read(
    arguments: list[str], words: str, history: Path
) -> None:
    before = sorted(history.rglob("*"))
    done = retrain(history, *QUICK, *arguments, code=2)
    assert done.stderr.count("error: ") == 1
    assert words in done.stderr
    assert "Reading" not in done.stdout
    assert sorted(history.rglob("*")) == before


def test_a_directory_must_be_named(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    done = retrain(tmp_path / "work", *SOURCE, code=2)
    assert "retrain.dir" in done.stderr
    done = run_process("kforecast-retrain", "--rollback", cwd=tmp_path / "work")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "retrain.dir" in done.stderr


@pytest.mark.parametrize(
    ("number", "run"),
    [
        (signal.SIGKILL, run_command),  # SIGKILL acts on a fork as on any process
        pytest.param(signal.SIGKILL, run_process, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, run_process, marks=pytest.mark.slow),
    ],
)
def test_a_champion_outlives_a_killed_cycle(
    number: signal.Signals, run: Callable[..., subprocess.CompletedProcess[str]], work: Path
) -> None:
    before = hashes(work / "models" / "champion")
    long = [*QUICK, "trainer.max_epochs=100", "callbacks.early_stopping=null", "checkpoint_seconds=0"]
    command = [*long, "resume=auto", "hydra.run.dir=killed", NEVER]
    log, until = work / "killed" / "retrain.log", time.monotonic() + HANG
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, "kforecast-retrain", *command, cwd=work)
        while not (log.exists() and "Epoch: 2," in log.read_text(encoding="utf-8")):
            assert not running.done(), running.result()
            assert time.monotonic() < until
            time.sleep(0.02)
        # The writer of the models names itself to others.
        holder = re.search(r"process (\d+)", (work / ".models.lock").read_text(encoding="utf-8"))
        assert holder is not None
        os.kill(int(holder[1]), number)
    assert running.result().returncode == (143 if number == signal.SIGTERM else -9)
    assert hashes(work / "models" / "champion") == before
    assert len(cycles(work)) == 3
    # The same command resumes the same training.
    done = retrain(work, *command)
    assert "Going on in epoch" in done.stdout
    assert [cycle["decision"] for cycle in cycles(work)] == ["first", "kept", "promoted", "kept"]


def eight_weeks(folder: Path, level: float) -> list[dict[str, Any]]:
    """A cycle per week, on the newest four weeks; from the fourth cycle, traffic rises by ``level`` means."""
    folder.mkdir()
    day = 86_400
    traffic = {"hourly": 0.25, "weekend": 0.6, "trend": 0.0, "noise": 0.08, "spikes": 1.5, "gaps": 1.0}
    source = SyntheticSource(
        workloads=4, days=28 + 7 * 8, step=600, start=1_704_067_200, seed=1, timezone="UTC", **traffic
    )
    frame = source.fetch()
    since = frame["timestamp"] - source.start
    mean = frame.groupby("workload", observed=True)["value"].transform("mean")
    frame["value"] += np.where(since >= (28 + 7 * 3) * day, level, 0.0) * mean
    for week in range(9):
        newest = (since >= 7 * week * day) & (since < (28 + 7 * week) * day)
        frame[newest].to_csv(folder / "traffic.csv", index=False)
        quiet = ["logger=none", "trainer=cpu", "callbacks.forecast_figures=null"]
        retrain(folder, "--dataset-file=traffic.csv", "retrain.dir=models", *quiet)
    return cycles(folder)


@pytest.mark.slow
def test_without_a_change_the_champion_stays_eight_weeks(tmp_path: Path) -> None:
    found = eight_weeks(tmp_path / "work", level=0.0)
    assert [cycle["decision"] for cycle in found] == ["first", *["kept"] * 8]


@pytest.mark.slow
def test_a_level_shift_is_followed_within_a_cycle(tmp_path: Path) -> None:
    work = tmp_path / "work"
    found = eight_weeks(work, level=2.0)
    assert [cycle["decision"] for cycle in found[:4]] == ["first", *["kept"] * 3]
    follows = found[4]
    assert follows["decision"] == "promoted"
    assert follows["drift"] > 0.5
    assert follows["candidate_wape"] < 0.95 * follows["champion_wape"]
    # The former champion is unchanged.
    models = work / "models"
    former = json.loads((models / "state.json").read_text())["former"][-1]
    before = hashes(models / "versions" / str(former))
    retrain(work, "--rollback", "retrain.dir=models")
    assert hashes(models / "champion") == before
