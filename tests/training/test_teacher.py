"""``teacher=ARTIFACT``: a network also learns from the forecasts of a better one."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import kforecast
from conftest import composed, run_command
from kforecast.artifact import Artifact, EstimatorConfig
from kforecast.config.checks import built
from kforecast.data.distillation import TaughtWindows
from kforecast.data.origins import Cells
from kforecast.data.panel import Panel
from kforecast.data.split import SplitSettings, split_windows
from kforecast.data.windows import WindowDataset
from kforecast.errors import DataError
from kforecast.models import Fcnet, Network, SeasonalMLP
from kforecast.training.teacher import Teacher
from kforecast.window import Frequency, Window

HOURLY = Window(Frequency.parse("1H"), 24, 6)
SOURCE = ["source=synthetic", "source.workloads=2", "source.days=21", "source.step=3600", "window=1h"]
TEACHER = ["model=seasonal_mlp", "model.members=2", "model.hidden=8", "trainer.max_epochs=2"]
TAUGHT = ["experiment=smoke", "teacher=teacher"]


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two artifacts: ``teacher``, untrained, and ``individual``, which knows two series."""
    folder = tmp_path_factory.mktemp("untrained")
    torch.manual_seed(0)
    save(SeasonalMLP(HOURLY, 2, members=1, hidden=4), folder / "teacher")
    save(Fcnet(HOURLY, 2), folder / "individual")
    return folder


def save(net: Network, directory: Path) -> None:
    config = EstimatorConfig(
        freq=HOURLY.frequency.name,
        prediction_length=HOURLY.prediction_length,
        context_length=HOURLY.context_length,
        num_series=net.num_series,
        model=type(net).__name__,
        network=net.settings(),
    )
    ids = {f"shop/other-{number}qps": number for number in range(net.num_series)}
    Artifact(config, ids, net.artifact_state(), {"fill": "interpolate"}).save(directory)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``teacher``, a trained artifact."""
    folder = tmp_path_factory.mktemp("taught")
    train(folder, *TEACHER, "artifact_dir=teacher")
    return folder


def train(folder: Path, *arguments: str, refused: bool = False) -> str:
    """The output of a training."""
    done = run_command("kforecast-train", *SOURCE, "logger=none", *arguments, cwd=folder)
    assert done.returncode == (2 if refused else 0), done.stderr
    return done.stderr if refused else done.stdout


def test_targets_are_nine_tenths_the_teachers_and_alone_its_where_nothing_was_observed() -> None:
    values = np.arange(1.0, 41.0, dtype=np.float32).reshape(2, 20)
    observed = np.ones((2, 20), dtype=bool)
    observed[1, 12] = False
    panel = Panel(
        values * observed, observed, 0, Frequency.parse("1H"), (("shop/a", "qps"), ("shop/b", "qps"))
    )
    cells = Cells(np.array([4, 30]), np.array([6, 3]))  # origins 4 to 9 of one series, 10 to 12 of the other
    forecasts = np.arange(18, dtype=np.float32).reshape(9, 2) * 100
    windows = WindowDataset(panel, Window(panel.frequency, 4, 2), "interpolate")
    asked = torch.tensor([31, 4, 32])
    batch, plain = TaughtWindows(windows, cells, forecasts)[asked], windows[asked]
    # Origin 11 of the second: bins 11 (value 32) and 12 (unobserved); origin 12: bins 12 and 13 (value 34).
    expected = [[0.9 * 1400 + 3.2, 1500], [0.9 * 0 + 0.5, 0.9 * 100 + 0.6], [1600, 0.9 * 1700 + 3.4]]
    torch.testing.assert_close(batch.target, torch.tensor(expected))
    assert batch.observed.all()
    assert torch.equal(batch.context, plain.context)
    assert not plain.observed.all()


@pytest.mark.slow
def test_what_is_learned_leans_towards_the_teacher(folder: Path) -> None:
    said = train(folder, *TAUGHT, "artifact_dir=taught")
    said_alone = train(folder, "experiment=smoke", "artifact_dir=alone")
    assert "Learning from the forecasts of teacher too (teacher)" in said
    # Same seed, windows and weights: only the targets differ, in the second training, too.
    first, second = (losses_of_first_epochs(words) for words in (said, said_alone))
    assert len(first) == len(second) == 2
    assert all(ours != theirs for ours, theirs in zip(first, second, strict=True))
    taught, alone = Artifact.load(folder / "taught"), Artifact.load(folder / "alone")
    assert taught.metadata["config"]["teacher"] == "teacher"
    assert {name: weight.shape for name, weight in taught.state.items()} == {
        name: weight.shape for name, weight in alone.state.items()
    }
    found = {name: forecasts(folder, name) for name in ("teacher", "taught", "alone")}
    assert (
        np.abs(found["taught"] - found["teacher"]).mean() < np.abs(found["alone"] - found["teacher"]).mean()
    )


@pytest.mark.slow
def test_a_teacher_is_trained_first_and_its_lesson_is_that_of_its_artifact(tmp_path: Path) -> None:
    said = train(tmp_path, "experiment=smoke", "teacher=auto", "hydra.run.dir=run", "artifact_dir=one")
    assert "Training a teacher first: model=auto (teacher=auto)" in said
    taught, teacher = Artifact.load(tmp_path / "one"), Artifact.load(tmp_path / "run" / "teacher")
    assert (taught.config.model, teacher.config.model) == ("Fcnet", "SeasonalMLP")
    assert taught.metadata["config"]["teacher"] == "auto"
    assert teacher.metadata["data"] == taught.metadata["data"]
    assert sorted(path.name for path in (tmp_path / "run").glob("teacher*")) == ["teacher"]
    train(tmp_path, "experiment=smoke", "teacher=run/teacher", "artifact_dir=other")
    other = Artifact.load(tmp_path / "other").state
    assert all(torch.equal(value, other[name]) for name, value in taught.state.items())


def test_with_many_windows_no_teacher_is_trained(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    frame = built(composed(*SOURCE).source, "source").fetch()
    monkeypatch.setattr("kforecast.training.run.TEACHING_HELPS", 100)
    with caplog.at_level("INFO", "kforecast"):
        taught = kforecast.train(frame, HOURLY, max_epochs=1, overrides=["teacher=auto"], verbose=False)
    assert "windows are enough without (teacher=auto)" in caplog.text
    alone = kforecast.train(frame, HOURLY, max_epochs=1, verbose=False)
    assert all(
        torch.equal(value, alone.artifact.state[name]) for name, value in taught.artifact.state.items()
    )


def losses_of_first_epochs(said: str) -> list[str]:
    """Training losses of the first epoch of each training."""
    return re.findall(r"Epoch: 1, Steps: \d+ \| Train Loss: ([\d.]+)", said)


def forecasts(folder: Path, name: str) -> np.ndarray:
    """The forecasts of one artifact over the newest days."""
    done = run_command(
        "kforecast-evaluate",
        *(f"artifact_dir={name}", *SOURCE[:4], f"hydra.run.dir=judged-{name}"),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    found: np.ndarray = pd.read_csv(folder / f"judged-{name}" / "forecasts.csv")["value"].to_numpy()
    return found


@pytest.mark.slow
def test_a_teacher_that_has_seen_the_test_part_is_said(folder: Path) -> None:
    train(folder, *TEACHER, "data.test=0", "artifact_dir=knows_all")
    said = train(folder, "experiment=smoke", "teacher=knows_all")
    assert re.search(r"WARNING: The teacher has seen data until .*, the test part begins at", said)
    assert "WARNING: The teacher" not in train(folder, *TAUGHT)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["teacher=nowhere"], ["teacher: nowhere: no such directory"]),
        (["teacher="], ["teacher"]),
        (
            ["teacher=teacher", "window.prediction_length=5"],
            ["teacher: teacher forecasts 6 steps of 1H", "5 steps of 1H", "window.prediction_length"],
        ),
        (["teacher=teacher", "window=10min"], ["steps of 1H", "3 steps of 10min"]),
    ],
)
def test_a_teacher_of_something_else_is_refused_before_the_data_is_read(
    untrained: Path, arguments: list[str], words: list[str]
) -> None:
    folder = untrained
    (folder / "rubbish.csv").write_text("rubbish")
    done = run_command("kforecast-train", "--dataset-file=rubbish.csv", "window=1h", *arguments, cwd=folder)
    said = done.stderr
    assert done.returncode == 2, said
    assert all(word in said for word in words), said
    assert "rubbish.csv" not in said
    assert len(said.strip().splitlines()) == 1


def test_more_forecasts_than_fit_into_memory_are_refused(
    untrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel, window = (
        Panel.from_frame(built(composed(*SOURCE).source, "source").fetch(), HOURLY.frequency),
        HOURLY,
    )
    split = split_windows(panel, window, SplitSettings())
    teacher = Teacher.load(untrained / "teacher", window)
    assert teacher.forecasts(panel, split).shape == (len(split.train), 6)
    monkeypatch.setattr("kforecast.training.teacher._MOST_BYTES", 4 * 6 * len(split.train) - 1)
    with pytest.raises(DataError, match=f"forecasts of {len(split.train):,} windows x 6 steps are more than"):
        teacher.forecasts(panel, split)


def test_a_teacher_that_does_not_know_a_series_is_refused(untrained: Path) -> None:
    said = train(untrained, "experiment=smoke", "teacher=individual", refused=True)
    assert "teacher: individual cannot forecast shop/" in said
    assert "train it on the same series" in said
