"""A training that was interrupted goes on to the weights that it would have come to."""

import hashlib
import json
import os
import pickle
import random
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Callback
from omegaconf import OmegaConf
from provider import Provider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conftest import HANG, composed, run_command, started, wait_for
from kforecast.artifact import Artifact
from kforecast.config import built, check_train_settings, window_of
from kforecast.data.panel import Panel
from kforecast.data.split import split_windows
from kforecast.data.windows import WindowDataset
from kforecast.metrics.proto import provider_pb2 as pb
from kforecast.training.fit import Fit
from kforecast.training.resume import LAST, PREVIOUS, Checkpoints, newest
from kforecast.training.trainings import data_of, train_network
from kforecast.window import Frequency

# Ten steps an epoch, two batches each; it stops early.
TRAINING = [
    *("source=synthetic", "source.workloads=2", "source.days=3", "source.step=600", "trainer=cpu"),
    *("trainer.max_epochs=12", "callbacks.early_stopping.patience=1", "optimizer.lr=0.3", "logger=none"),
    *(
        "data.windows_per_epoch=640",
        "data.batch_size=32",
        "schedule=cosine",
        "callbacks.forecast_figures=null",
    ),
]
MLP = [
    "model=seasonal_mlp",
    "model.members=2",
    "model.hidden=8",
    "data.batch_size=32",
    "source.days=12",
    "optimizer.lr=0.05",
]


class Interrupt(Callback):
    """Ctrl-C amid the training, at each of some steps of Lightning's loop, counted from 1."""

    def __init__(self, at: int) -> None:
        self.at, self.steps = at, 0

    def on_train_batch_end(self, *_: Any) -> None:
        self.steps += 1
        if self.steps == self.at:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Fit | None, list[int]]]:
    """Trains as configured, in this process; returns what came of it and every window that was taken."""
    taken: list[int] = []
    take = WindowDataset.__getitem__

    def taking(self: WindowDataset, cells: torch.Tensor) -> Any:
        taken.extend(cells.tolist())
        return take(self, cells)

    monkeypatch.setattr(WindowDataset, "__getitem__", taking)
    monkeypatch.setattr(WindowDataset, "training_windows", property(lambda self: 64))

    def train(
        folder: Path, *arguments: str, resumed: Any = None, interrupt: int = 0
    ) -> tuple[Fit | None, list[int]]:
        taken.clear()
        cfg = composed(*TRAINING, *arguments)
        OmegaConf.update(cfg, "callbacks.model_checkpoint.dirpath", str(folder))
        settings = check_train_settings(cfg)
        panel = Panel.from_frame(built(cfg.source).fetch(), Frequency.parse("10min"))
        split = split_windows(panel, window_of(settings.window), **settings.data.split_arguments)
        seed_everything(settings.seed, verbose=False)
        net = built(cfg.model, window=window_of(settings.window), num_series=panel.num_series)
        data = data_of(cfg, settings, panel, split, net, None)
        checkpoints = Checkpoints(folder, {"config": {}, "data": ""}, 1000.0, resumed)
        try:
            fit = train_network(cfg, data, net, [], None, checkpoints, Interrupt(interrupt))
        except KeyboardInterrupt:
            return None, [*taken]
        return fit, [*taken]

    return train


def same(one: Fit, other: Fit) -> bool:
    states = one.module.state_dict(), other.module.state_dict()
    facts = [(fit.score, fit.epochs, fit.best_epoch, fit.stopped_by) for fit in (one, other)]
    return facts[0] == facts[1] and all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "model, count",
    [([], 10), (MLP, 3), pytest.param(MLP, 10, marks=pytest.mark.slow)],
    ids=["fcnet", "seasonal_mlp", "seasonal_mlp more often"],
)
def test_interrupted_at_random_steps(
    model: list[str], count: int, tmp_path: Path, trained: Callable[..., tuple[Fit, list[int]]]
) -> None:
    whole, windows = trained(tmp_path / "whole", *model)
    total = whole.epochs * 10
    if not model:
        assert whole.stopped_by.startswith("early stopping")
        assert 2 < whole.epochs < 12
    steps = random.Random(7).sample(range(1, total), count)
    for step in [*steps, 10]:  # the last of an epoch too
        folder = tmp_path / str(step)
        nothing, before = trained(folder, *model, interrupt=step)
        assert nothing is None
        resumed, after = trained(folder, *model, resumed=newest(folder))
        assert same(resumed, whole), step
        assert before + after == windows, step
        # What was finished is not trained again.
        again, none = trained(folder, *model, resumed=newest(folder))
        assert same(again, whole)
        assert none == []


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "arguments", [["+trainer.limit_train_batches=7"], ["data.num_workers=2"], ["monitor=train/loss"]], ids=str
)
def test_whatever_hands_out_the_windows(
    arguments: list[str], tmp_path: Path, trained: Callable[..., tuple[Fit, list[int]]]
) -> None:
    whole, _ = trained(tmp_path / "whole", *arguments)
    for step in (3, 17):
        folder = tmp_path / str(step)
        trained(folder, *arguments, interrupt=step)
        resumed, _ = trained(folder, *arguments, resumed=newest(folder))
        assert same(resumed, whole), step


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_interrupted_again_and_again(
    tmp_path: Path, trained: Callable[..., tuple[Fit | None, list[int]]]
) -> None:
    whole, windows = trained(tmp_path / "whole")
    found, taken = None, []
    while found is None:
        found, more = trained(tmp_path / "run", resumed=newest(tmp_path / "run"), interrupt=3)
        taken += more
    assert whole is not None
    assert same(found, whole)
    # A validation that was cut off by the signal is done again, training is not.
    assert len(taken) <= len(windows) * 1.5
    assert {path.name for path in (tmp_path / "run").iterdir()} == {LAST, PREVIOUS, "best.ckpt"}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("damage", [0, 100, -1], ids=["empty", "cut", "one bit"])
def test_a_torn_checkpoint_falls_back_to_the_one_before(
    damage: int,
    tmp_path: Path,
    trained: Callable[..., tuple[Fit, list[int]]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole, _ = trained(tmp_path / "whole")
    folder = tmp_path / "run"
    trained(folder, interrupt=4)
    trained(folder, resumed=newest(folder), interrupt=9)
    content = bytearray((folder / LAST).read_bytes())
    if damage < 0:
        content[len(content) // 2] ^= 1
    (folder / LAST).write_bytes(content if damage < 0 else content[:damage])
    found = newest(folder)
    assert found is not None
    assert found["global_step"] == 8  # of the optimizer, two a step
    assert f"{folder / LAST}: not a whole checkpoint" in caplog.text
    resumed, _ = trained(folder, resumed=found)
    assert same(resumed, whole)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_validation_that_takes_too_long_is_not_waited_for(
    tmp_path: Path, trained: Callable[..., tuple[Fit, list[int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kforecast.training.resume._GRACE_SECONDS", 0.2)
    monkeypatch.setattr(Interrupt, "on_validation_batch_start", lambda *_: time.sleep(2), raising=False)
    begun = time.monotonic()
    nothing, _ = trained(tmp_path, "checkpoint_seconds=0", interrupt=10)
    assert nothing is None
    assert time.monotonic() - begun < 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.undo()


# As its user runs it

RUN = ["source=synthetic", "source.days=7", "trainer=cpu", "trainer.max_epochs=12", "checkpoint_seconds=0.05"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    done = run_command("kforecast-train", *RUN, "hydra.run.dir=run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def weights(run_dir: Path) -> str:
    result = json.loads((run_dir / "result.json").read_text())
    assert result["status"] == "done"
    checkpoint = Path(result["artifact_dir"], "checkpoint.pth").read_bytes()
    assert result["weights"] == hashlib.sha256(checkpoint).hexdigest()
    return str(result["weights"])


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_terminated_and_gone_on_with(whole: Path, tmp_path: Path) -> None:
    process = started("kforecast-train", *RUN, "resume=auto", cwd=tmp_path)
    run_dir = next(iter(wait_for_folder(tmp_path)))
    try:
        wait_for("Epoch: 2", run_dir / "train.log", process)
        process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        stdout, stderr = process.communicate(timeout=HANG)
    finally:
        process.kill()
    assert process.returncode == 143, stderr
    assert time.monotonic() - begun < 5
    assert "Nothing to resume" in stdout
    assert json.loads((run_dir / "result.json").read_text())["status"] == "interrupted"
    assert newest(run_dir / "checkpoints") is not None
    (events,) = (run_dir / "tensorboard").glob("events*")
    assert losses(events) >= 1
    said = re.search(r"to go on: kforecast-train (.*)", stdout)
    assert said
    # Without a word of the configuration the run's own is taken; and the newest unfinished run is found.
    done = run_command("kforecast-train", *said[1].split()[:1], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Going on in epoch" in done.stdout
    assert weights(run_dir) == weights(whole / "run")
    assert [path.name for path in (tmp_path / "outputs").glob("*/*")] == [run_dir.name]
    config = OmegaConf.load(run_dir / ".hydra" / "config.yaml")
    assert config.source.days == 7


def wait_for_folder(folder: Path) -> Iterator[Path]:
    for _ in range(600):
        found = [path.parent for path in folder.glob("outputs/*/*/result.json")]
        if found:
            yield from found
            return
        time.sleep(0.1)
    raise AssertionError("no run folder")


def losses(events: Path) -> int:
    board = EventAccumulator(str(events))
    board.Reload()
    return len(board.Scalars("train/loss"))


def test_a_run_is_repeated(whole: Path, tmp_path: Path) -> None:
    done = run_command("kforecast-train", "--repeat", whole / "run", "hydra.run.dir=again", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "bit for bit" in done.stdout
    assert weights(tmp_path / "again") == weights(whole / "run")
    done = run_command("kforecast-train", "--repeat=again", "trainer.max_epochs=1", "seed=1", cwd=tmp_path)
    assert "The weights differ from those of again: trained with trainer.max_epochs=1 seed=1" in done.stdout
    assert Artifact.load(tmp_path / "again" / "artifact").metadata["config"]["source"]["days"] == 7


def test_what_was_fetched_is_not_fetched_again(tmp_path: Path) -> None:
    target = {"workloadNamespace": "shop", "workloadName": "a", "historyLength": "60H"}
    target["metrics"] = [{"name": "cpu", "type": "External", "external": {"metric": {"name": "cpu"}}}]
    content = {"targets": [target], "freq": "10min", "predictionLength": 3, "contextLength": 7}
    content["hyperParams"] = {"epochs": 60}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    provider = Provider()
    with provider.serve() as address:
        arguments = ["--config-file=config.yaml", f"--metrics-server-addr={address}", "hydra.run.dir=run"]
        arguments += ["resume=auto", "callbacks.early_stopping=null", "logger=none", "trainer=cpu"]
        process = started(
            "kforecast-train", *arguments, f"source.end={1_704_500_000 // 600 * 600}", cwd=tmp_path
        )
        try:
            wait_for("Epoch: 3,", tmp_path / "run" / "train.log", process)
            process.terminate()
            process.communicate(timeout=HANG)
        finally:
            process.kill()
        asked = len(provider.requests)
        # The same command, later: the server would have other data by now.
        provider.answer = lambda request: pb.QueryResponse()
        done = run_command("kforecast-train", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Going on in epoch" in done.stdout
    assert len(provider.requests) == asked
    done = run_command("kforecast-train", "--repeat=run", cwd=tmp_path)  # the server has gone
    assert done.returncode == 0, done.stderr
    assert "bit for bit" in done.stdout


def test_resume_of_a_run_that_is_done_begins_anew(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "run", tmp_path / "run")
    arguments = [*RUN, "hydra.run.dir=run", "resume=auto", "trainer.max_epochs=1", "logger=none"]
    done = run_command("kforecast-train", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Nothing to resume in run" in done.stdout
    assert json.loads((tmp_path / "run" / "result.json").read_text())["epochs"] == 1


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch executed",)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["resume=nowhere.ckpt"], ["resume: nowhere.ckpt", "no such checkpoint"]),
        (["resume=evil.ckpt"], ["evil.ckpt", "not a whole checkpoint"]),
        (["resume=evil_zip.ckpt"], ["evil_zip.ckpt", "not a whole checkpoint"]),
        (["resume=weights.ckpt"], ["weights.ckpt", "not a checkpoint to go on from"]),
        (
            ["resume=last.ckpt", "optimizer.lr=0.5", "seed=1"],
            ["optimizer.lr: 0.5 now, 0.003", "seed: 1 now, 42"],
        ),
        (["resume=last.ckpt", "source.seed=1"], ["of other data"]),
        (["resume=auto"], ["resume=auto", "no unfinished run under outputs/"]),
        (
            ["--repeat", "run", "--model-save-path=x"],
            ["--repeat takes everything from run", "--model-save-path"],
        ),
        (["--repeat", "run", "model=auto"], ["model=auto cannot be chosen anew"]),
        (["--repeat", "model"], ["model", "not the folder of a run"]),
        (["--repeat", "broken"], ["config.yaml", "cannot be read"]),
        (["--repeat", "hostile"], ["optimizer", "os.system"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_gone_on_with_is_refused(
    arguments: list[str], words: list[str], whole: Path, tmp_path: Path
) -> None:
    (tmp_path / "evil.ckpt").write_bytes(pickle.dumps(_Evil()))
    torch.save({"loops": _Evil(), "callbacks": {}}, tmp_path / "evil_zip.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "weights.ckpt")
    shutil.copy(whole / "run" / "checkpoints" / LAST, tmp_path / LAST)
    (tmp_path / "model").mkdir()
    for name, content in (("broken", "a: [1"), ("hostile", None)):
        hydra = tmp_path / name / ".hydra"
        hydra.mkdir(parents=True)
        if content is None:
            config = OmegaConf.load(whole / "run" / ".hydra" / "config.yaml")
            config.optimizer._target_ = "os.system"
            config.hydra = {"callbacks": {"evil": {"_target_": "os.system", "command": "touch executed"}}}
            content = OmegaConf.to_yaml(config)
        (hydra / "config.yaml").write_text(content)
    given = arguments if {"--repeat", "resume=auto"} & {*arguments} else [*RUN, *arguments]
    done = run_command("kforecast-train", *given, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert [word for word in words if word not in done.stderr] == [], done.stderr
    assert not list(tmp_path.rglob("executed"))
