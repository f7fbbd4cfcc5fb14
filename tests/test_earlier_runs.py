"""Runs of an earlier layout of the source: ``resume``, ``--repeat``, export and leaderboard read them.

``golden/earlier_runs`` holds a finished run, and one that was interrupted after five of its twelve epochs.
Their recorded configurations name classes by modules that have moved since.
"""

import json
import shutil
from pathlib import Path

import pytest

from conftest import run_command
from kforecast.forecaster import Forecaster

GOLDEN = Path(__file__).parent / "golden" / "earlier_runs"
MOVED = "kforecast.training.hopeless.MedianStopping"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(GOLDEN, tmp_path, dirs_exist_ok=True)
    assert MOVED in (tmp_path / "done" / ".hydra" / "config.yaml").read_text(encoding="utf-8")
    return tmp_path


def result(run: Path) -> dict[str, object]:
    return json.loads((run / "result.json").read_text(encoding="utf-8"))


def test_an_interrupted_run_is_resumed_to_the_same_result(folder: Path) -> None:
    done = run_command("kforecast-train", "resume=auto", "hydra.run.dir=interrupted", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "Going on in epoch 6" in done.stdout
    found, expected = result(folder / "interrupted"), result(folder / "done")
    for key in ("status", "epochs", "best_epoch", "stopped_by", "data", "threads"):
        assert found[key] == expected[key], key
    # On a processor of another kind the last bits may differ.
    assert found["score"] == pytest.approx(expected["score"], rel=1e-3)


def test_a_finished_run_is_repeated(folder: Path) -> None:
    done = run_command("kforecast-train", "--repeat=done", "hydra.run.dir=again", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "those of done" in done.stdout
    assert result(folder / "again")["score"] == pytest.approx(result(folder / "done")["score"], rel=1e-3)
    assert (folder / "done" / "result.json").read_bytes() == (GOLDEN / "done" / "result.json").read_bytes()


@pytest.mark.parametrize("run", ["done", "interrupted"])
def test_a_run_is_exported(folder: Path, run: str) -> None:
    done = run_command("kforecast-export", f"run={run}", "artifact_dir=model", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert len(Forecaster.load(folder / "model").item_ids) == 2


def test_its_artifact_forecasts(folder: Path) -> None:
    done = run_command(
        "kforecast-forecast", "artifact_dir=done/artifact", "--dataset-file=traffic.csv", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1 + 2 * 2


def test_the_leaderboard_lists_them(folder: Path) -> None:
    done = run_command("kforecast-leaderboard", ".", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "0.035279" in done.stdout
    assert "5.30%" in done.stdout
    assert "interrupted" in done.stdout
