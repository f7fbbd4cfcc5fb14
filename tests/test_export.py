"""kforecast-export: a checkpoint of a run becomes an artifact; anything else is refused in one line."""

import copy
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from conftest import HANG, composed, run_command
from kforecast.artifact import CHECKPOINT, CONFIG, ITEM_IDS, Artifact
from kforecast.commands.export import export
from kforecast.errors import ConfigError
from kforecast.training.callbacks import EpochLog
from prepared import run_prepared

TRAINING = [
    *("source=synthetic", "source.workloads=2", "source.days=4", "source.step=600", "logger=none"),
    *("callbacks.forecast_figures=null", "trainer.max_epochs=8"),
    *("artifact_dir=published", "hydra.run.dir=run"),
]


def terminate_in_fifth_epoch() -> None:
    """Make this fork send itself SIGTERM in the middle of the fifth epoch."""

    def told(self: EpochLog, trainer: Any, *_: object) -> None:
        if trainer.current_epoch + 1 == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    EpochLog.on_train_batch_start = told  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a terminated run, next to the artifact that it had published."""
    folder = tmp_path_factory.mktemp("interrupted")
    done = run_prepared(terminate_in_fifth_epoch, "kforecast-train", *TRAINING, cwd=folder)
    assert done.returncode == 143, done.stderr
    return folder


def log_of(folder: Path) -> str:
    return (folder / "run" / "train.log").read_text(encoding="utf-8")


def exported(*arguments: object) -> Artifact:
    """The artifact that the command writes, run in this process."""
    cfg = configured(*map(str, arguments))
    export(cfg)
    return Artifact.load(str(cfg.artifact_dir))


@cache
def defaults() -> DictConfig:
    """The default configuration of the command."""
    return composed(name="export")


def configured(*arguments: str) -> DictConfig:
    cfg = copy.deepcopy(defaults())
    for argument in arguments:
        key, _, value = argument.partition("=")
        OmegaConf.update(cfg, key, value)
    return cfg


@pytest.mark.parametrize(
    "name", ["", "checkpoints", "checkpoints/best.ckpt", "checkpoints/last.ckpt"], ids=lambda n: n or "run"
)
def test_the_best_network_of_an_interrupted_run(name: str, interrupted: Path, tmp_path: Path) -> None:
    artifact = exported(f"run={interrupted / 'run' / name}", f"artifact_dir={tmp_path / 'model'}")
    published = Artifact.load(interrupted / "published")
    for file in (CHECKPOINT, CONFIG, ITEM_IDS):
        assert (tmp_path / "model" / file).read_bytes() == (interrupted / "published" / file).read_bytes()
    assert artifact.metadata is not None
    assert published.metadata is not None
    assert artifact.metadata["data"] == published.metadata["data"]
    assert artifact.metadata["config"]["source"]["workloads"] == 2
    scores = artifact.metadata["scores"]
    said = re.findall(r"decreased \(\S+ --> (\S+)\)", log_of(interrupted))
    assert scores["best"] == pytest.approx(float(said[-1]), abs=1e-6)
    assert 1 <= scores["best_epoch"] <= len(re.findall("cost time", log_of(interrupted)))


def test_a_killed_runs_damaged_checkpoint_is_not_taken(
    interrupted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    shutil.copytree(interrupted / "run", run)
    best = run / "checkpoints" / "best.ckpt"
    best.write_bytes(best.read_bytes()[:10_000])
    exported(f"run={run}", f"artifact_dir={tmp_path / 'model'}")
    assert "best.ckpt: not a whole checkpoint" in caplog.text
    expected = (interrupted / "published" / CHECKPOINT).read_bytes()
    assert (tmp_path / "model" / CHECKPOINT).read_bytes() == expected


@pytest.mark.slow
def test_a_finished_runs_second_training_is_what_was_published(interrupted: Path, tmp_path: Path) -> None:
    shutil.copytree(interrupted, tmp_path / "all")
    shutil.rmtree(tmp_path / "all" / "run")  # started again, and finished
    done = run_command("kforecast-train", *TRAINING, "trainer.max_epochs=2", cwd=tmp_path / "all")
    assert done.returncode == 0, done.stderr
    again = run_command("kforecast-export", "run=run", "artifact_dir=model", cwd=tmp_path / "all")
    assert again.returncode == 0, again.stderr
    assert "model: the network of epoch 2 (loss 0." in again.stderr
    made, published = (Artifact.load(tmp_path / "all" / name) for name in ("model", "published"))
    assert published.metadata is not None
    assert made.metadata is not None
    assert made.metadata["data"] == published.metadata["data"]
    assert made.metadata["sha256"] == published.metadata["sha256"]
    assert published.intervals is not None
    assert made.intervals is None


def changed(change: Callable[[dict[str, Any]], object], best: Path, folder: Path) -> Path:
    """A copy of a checkpoint with changed metadata of its artifact."""
    content = torch.load(best, weights_only=True)
    change(content["callbacks"]["RunCheckpoint"])
    path = folder / "changed.ckpt"
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda kept: kept.clear(), "not one of our trainings"),
        (lambda kept: kept.update(best=3), "not one of our trainings"),
        (lambda kept: kept.pop("artifact"), "by an earlier version"),
        (
            lambda kept: kept["artifact"].update(item_ids={"a": 0, "b": 7}),
            "the id of 'b' is not below num_series 2",
        ),
        (lambda kept: kept["artifact"].update(item_ids="ab"), "no artifact can be made of it"),
        (lambda kept: kept["artifact"].update(estimator_config="freq: 1H"), "context_length is missing"),
        (
            lambda kept: kept["artifact"].update(
                estimator_config=kept["artifact"]["estimator_config"].replace(
                    "context_length: 7", "context_length: 9"
                )
            ),
            "size mismatch for static_embeddings.0.weight",
        ),
        (
            lambda kept: kept["artifact"].update(
                estimator_config=kept["artifact"]["estimator_config"].replace("model: Fcnet", "model: Os")
            ),
            "Os",
        ),
        (lambda kept: kept["artifact"]["metadata"]["config"].update(model={"colour": "red"}), "colour"),
        (lambda kept: kept["artifact"].update(metadata=None), "no artifact can be made of it"),
    ],
    ids=["foreign", "best", "older", "id", "ids", "missing", "size", "class", "argument", "metadata"],
)
def test_a_checkpoint_of_anyones_is_refused(
    change: Callable[[dict[str, Any]], object], words: str, interrupted: Path, tmp_path: Path
) -> None:
    path = changed(change, interrupted / "run" / "checkpoints" / "best.ckpt", tmp_path)
    with pytest.raises(ConfigError, match=re.escape(words)) as refused:
        exported(f"run={path}", f"artifact_dir={tmp_path / 'model'}")
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["artifact_dir=model"], "run: say which run's network to take"),
        (["artifact_dir=new", "run=nowhere"], "run: nowhere: no such folder or checkpoint"),
        (["artifact_dir=new", "run=empty"], "run: empty: no whole checkpoint in it"),
        (["artifact_dir=new", "run=text.ckpt"], "text.ckpt: not a whole checkpoint"),
        (["artifact_dir=new", "run=empty", "output=m.onnx"], "output: only format=onnx writes a file"),
        (["artifact_dir=text.ckpt", "run=empty"], "text.ckpt: is a file"),
        (["artifact_dir=model", "format=pickle"], "format: 'pickle' is none of artifact, onnx"),
        (["artifact_dir=model", "format=onnx"], "output: format=onnx needs a file to write"),
        (["artifact_dir=model", "format=onnx", "output=m.pb"], "output: m.pb ends in none of .onnx"),
        (
            ["artifact_dir=nowhere", "format=onnx", "output=m.onnx"],
            "artifact_dir: nowhere: no such directory",
        ),
        (["artifact_dir=model", "format=onnx", "output=m.onnx", "run=empty"], "run: format=onnx reads"),
        (["run=empty"], "no value for artifact_dir"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_keys_are_refused(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("model", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "text.ckpt").write_text("text")
    with pytest.raises(ConfigError, match=re.escape(words)):
        export(configured(*arguments))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "model", "text.ckpt"]


def test_without_the_extra_one_line_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    script = (
        "import sys\n"
        "sys.modules['onnxscript'] = None\n"
        "from kforecast.commands.export import main\n"
        "import atexit\n"
        "atexit.register(lambda: print('heavy:', sorted({'torch', 'lightning', 'onnx'} & {*sys.modules})))\n"
        "main()\n"
    )
    command = [sys.executable, "-c", script, "artifact_dir=model", "format=onnx", "output=model.onnx"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=HANG, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: format=onnx needs a package (onnxscript): pip install 'kforecast[onnx]'\n"
    assert done.stdout == "heavy: []\n"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
