"""Boosted trees trained by the commands: alone, and beside a network; served without LightGBM."""

import json
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from conftest import composed, run_command, run_process, started, wait_for
from kforecast.artifact import CHECKPOINT, Artifact, network_of
from kforecast.config.checks import check_train_settings
from kforecast.errors import ArtifactError, ConfigError
from kforecast.forecaster import Forecaster
from kforecast.models import BoostedTrees, SeasonalMLP, SeasonalTrees
from kforecast.models.forest import Forest

SOURCE = ["source=synthetic", "source.workloads=2", "source.days=16", "source.step=3600", "threads=1"]
TREES = ["model=lightgbm", *SOURCE, "window=1h", "trainer.max_epochs=12", "model.leaves=6", "logger=none"]
BESIDE = ["model=auto", "trees=true", *SOURCE, "window=1h", "trainer.max_epochs=1", "model.members=1"]
BESIDE += ["model.hidden=8", "logger=none", "data.windows_per_epoch=256"]
NEEDED = "needs a package: pip install 'kforecast[lightgbm]'"


def train(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    done = run_command("kforecast-train", *arguments, "hydra.run.dir=run", "artifact_dir=model", cwd=folder)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("lightgbm")
    folder = tmp_path_factory.mktemp("trees")
    train(folder, *TREES)
    return folder


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("lightgbm")
    folder = tmp_path_factory.mktemp("beside")
    train(folder, *BESIDE)
    return folder


def forecast(folder: Path, **environment: str) -> pd.DataFrame:
    command = ["kforecast-forecast", *SOURCE[:-1], "artifact_dir=model", "output=next.csv"]
    done = run_process(*command, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return pd.read_csv(folder / "next.csv")


@pytest.mark.parametrize(
    "arguments, key", [(["model=lightgbm"], "model"), (["model=auto", "trees=true"], "trees: true")]
)
def test_a_missing_extra_is_one_line(arguments: list[str], key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without_lightgbm(monkeypatch)
    with pytest.raises(ConfigError) as refusal:
        check_train_settings(composed("source=synthetic", *arguments))
    said = f"configuration: {key}{' ' if ': ' in key else ': '}{NEEDED}"
    assert str(refusal.value) == said
    assert refusal.value.exit_code == 2


def without_lightgbm(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("checks", "settings"):
        monkeypatch.setattr(
            f"kforecast.config.{module}.find_spec",
            lambda name: None if name == "lightgbm" else find_spec(name),
        )


def test_without_the_extra_auto_has_no_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    without_lightgbm(monkeypatch)
    assert not check_train_settings(composed("source=synthetic", "model=auto")).with_trees
    assert not check_train_settings(composed("source=synthetic", "model=fcnet")).with_trees


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["model=fcnet", "trees=true"], "trees: true is for model=auto"),
        (["model=lightgbm", "trees=true"], "trees: true is for model=auto"),
        (["model=lightgbm", "warm_start=x"], "warm_start: is not for model=lightgbm"),
        (["model=lightgbm", "trainer=ddp", "trainer.devices=2"], "trainer.devices: 2 processes cannot share"),
    ],
)
def test_settings_that_trees_do_not_have_are_refused(arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_train_settings(composed("source=synthetic", *arguments))


def test_a_forest_forecasts_as_lightgbm_does() -> None:
    lightgbm = pytest.importorskip("lightgbm")
    from kforecast.training.boosting import trees_of

    rng = np.random.default_rng(0)
    # Many equal values, and values that differ in the last bit only.
    rows = rng.choice(np.float32([0, 0.1, 0.30000001, 0.3, -100, 1e-30, 7]), (3000, 6))
    rows[:, 3:] = rng.standard_normal((3000, 3))
    target = rows[:, 0] * 3 + np.abs(rows[:, 4]) + rng.standard_normal(3000)
    settings: dict[str, Any] = {"objective": "regression_l1", "num_leaves": 12, "verbosity": -1}
    settings |= {"use_missing": False, "num_threads": 1, "min_data_in_leaf": 5}
    booster = lightgbm.train(settings, lightgbm.Dataset(rows, target), 30)
    forest = Forest(6)
    forest.grow(trees_of(booster.dump_model()))
    found = forest(torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(found, booster.predict(rows), rtol=1e-5, atol=1e-5)


def test_the_artifact_is_complete_without_lightgbm(trained: Path) -> None:
    usual = forecast(trained)
    blocked = trained / "blocked" / "lightgbm"
    blocked.mkdir(parents=True, exist_ok=True)
    (blocked / "__init__.py").write_text("raise ImportError('not installed')")
    pd.testing.assert_frame_equal(forecast(trained, PYTHONPATH=str(blocked.parent)), usual)
    artifact = Artifact.load(trained / "model")
    net = network_of(artifact, "it")
    assert isinstance(net, BoostedTrees)
    assert 0 < net.count <= 12
    result = json.loads((trained / "run" / "result.json").read_text())
    assert result["best_epoch"] == net.count


def test_trees_are_not_written_as_onnx(trained: Path) -> None:
    pytest.importorskip("onnx")
    command = ["format=onnx", "artifact_dir=model", "output=model.onnx"]
    done = run_command("kforecast-export", *command, cwd=trained)
    assert done.returncode == ArtifactError.exit_code
    assert done.stderr.startswith("error: model: boosted trees cannot be written as ONNX")
    assert not (trained / "model.onnx").exists()


def test_damaged_trees_are_refused(trained: Path, tmp_path: Path) -> None:
    artifact = Artifact.load(trained / "model")
    for name, value in (("left", 0.0), ("feature", 1e6), ("value", float("nan"))):
        state = {key: tensor.clone() for key, tensor in artifact.state.items()}
        state[f"correction.{name}"][0, 0] = value
        Artifact(artifact.config, artifact.item_ids, state).save(tmp_path / name)
        with pytest.raises(ArtifactError, match="trees") as refusal:
            Forecaster.load(tmp_path / name)
        assert "\n" not in str(refusal.value)


def test_the_same_seed_gives_the_same_trees(trained: Path, tmp_path: Path) -> None:
    train(tmp_path, *TREES)
    assert (tmp_path / "model" / CHECKPOINT).read_bytes() == (trained / "model" / CHECKPOINT).read_bytes()


def test_beside_a_network_the_trees_are_weighed_with_it(beside: Path) -> None:
    artifact = Artifact.load(beside / "model")
    net = network_of(artifact, "it")
    assert isinstance(net, SeasonalTrees)
    assert net.trees.count > 0
    assert {*artifact.config.combination} & {*net.parts}
    assert "trees" in artifact.config.combination
    assert np.isfinite(forecast(beside)["value"]).all()


@pytest.mark.slow
def test_a_network_with_trees_begins_another_one(beside: Path, tmp_path: Path) -> None:
    start = f"warm_start={beside / 'model'}"
    for number, trees in enumerate(("true", "false")):
        folder = tmp_path / str(number)
        folder.mkdir()
        train(folder, *BESIDE, f"trees={trees}", start)
        net = network_of(Artifact.load(folder / "model"), "it")
        assert isinstance(net, SeasonalMLP)
        assert isinstance(net, SeasonalTrees) == (trees == "true")
        # And one without trees begins one with them.
        start = f"warm_start={folder / 'model'}"
    folder = tmp_path / "last"
    folder.mkdir()
    train(folder, *BESIDE, start)
    assert isinstance(network_of(Artifact.load(folder / "model"), "it"), SeasonalTrees)


@pytest.mark.slow
def test_an_interrupted_training_can_be_resumed(trained: Path, tmp_path: Path) -> None:
    command = [*TREES, "trainer.max_epochs=100000", "callbacks.early_stopping=null", "hydra.run.dir=run"]
    process = started("kforecast-train", *command, cwd=tmp_path)
    wait_for("Tree 50", tmp_path / "run" / "train.log", process)
    process.terminate()
    process.communicate()
    assert process.returncode == -15 or process.returncode == 143
    assert not (tmp_path / "run" / "artifact").exists()
    train(tmp_path, *TREES, "resume=auto")
    assert (tmp_path / "model" / CHECKPOINT).read_bytes() == (trained / "model" / CHECKPOINT).read_bytes()
