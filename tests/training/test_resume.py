"""A resumed training ends with the weights of an uninterrupted one."""

import hashlib
import json
import os
import pickle
import random
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from kforecast.config.checks import built
from kforecast.data.windows import WindowDataset
from kforecast.metrics.proto import provider_pb2 as pb
from kforecast.training.assemble import Assembly, data_of, network_of
from kforecast.training.callbacks import EpochLog
from kforecast.training.fit import Fit
from kforecast.training.plan import make_recipe_for_frame
from kforecast.training.resume.checkpoints import Checkpoints
from kforecast.training.resume.reading import LAST, PREVIOUS, epoch_of, newest
from prepared import run_prepared

# Ten steps per epoch, two batches each; early stopping ends it.
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
    """Ctrl-C at the given steps of Lightning's loop, counted from 1."""

    def __init__(self, at: int) -> None:
        self.at, self.steps = at, 0

    def on_train_batch_end(self, *_: Any) -> None:
        self.steps += 1
        if self.steps == self.at:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Fit | None, list[int]]]:
    """Train as configured, in this process; return the result and all windows used."""
    taken: list[int] = []
    take = WindowDataset.__getitem__

    def taking(self: WindowDataset, cells: torch.Tensor) -> Any:
        taken.extend(cells.tolist())
        return take(self, cells)

    monkeypatch.setattr(WindowDataset, "__getitem__", taking)
    monkeypatch.setattr("kforecast.data.windows._TRAINING_WINDOWS", 64)

    def train(
        folder: Path, *arguments: str, resumed: Any = None, interrupt: int = 0
    ) -> tuple[Fit | None, list[int]]:
        taken.clear()
        cfg = composed(*TRAINING, *arguments)
        OmegaConf.update(cfg, "callbacks.model_checkpoint.dirpath", str(folder))
        recipe = make_recipe_for_frame(cfg, built(cfg.source, "source").fetch(), folder)
        data = data_of(recipe)
        data.setup("fit")
        seed_everything(recipe.settings.seed, verbose=False)
        net = network_of(recipe, data.panel)
        checkpoints = Checkpoints(folder, {"config": {}, "data": ""}, 1000.0, resumed)
        try:
            fit = Assembly(recipe, None, checkpoints).train(net, data, [Interrupt(interrupt)])
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
    [
        ([], 1),
        ([*MLP, "trainer.max_epochs=2"], 1),
        pytest.param([], 10, marks=pytest.mark.slow),
        pytest.param(MLP, 10, marks=pytest.mark.slow),
    ],
    ids=["fcnet", "seasonal_mlp", "fcnet more often", "seasonal_mlp more often"],
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
    assert total > 10
    for step in [*steps, 10]:  # the last step of an epoch, too
        folder = tmp_path / str(step)
        nothing, before = trained(folder, *model, interrupt=step)
        assert nothing is None
        resumed, after = trained(folder, *model, resumed=newest(folder))
        assert same(resumed, whole), step
        assert before + after == windows, step
        # A finished training is not repeated.
        again, none = trained(folder, *model, resumed=newest(folder))
        assert same(again, whole)
        assert none == []


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "steps, epochs", [([17], 3), pytest.param([3, 17], 12, marks=pytest.mark.slow)], ids=["short", "long"]
)
@pytest.mark.parametrize(
    "arguments",
    [
        ["+trainer.limit_train_batches=7"],
        pytest.param(["data.num_workers=2"], marks=pytest.mark.slow),
        pytest.param(["monitor=train/loss"], marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_whatever_hands_out_the_windows(
    arguments: list[str],
    steps: list[int],
    epochs: int,
    tmp_path: Path,
    trained: Callable[..., tuple[Fit, list[int]]],
) -> None:
    arguments = [*arguments, f"trainer.max_epochs={epochs}"]
    whole, _ = trained(tmp_path / "whole", *arguments)
    for step in steps:
        folder = tmp_path / str(step)
        trained(folder, *arguments, interrupt=step)
        resumed, _ = trained(folder, *arguments, resumed=newest(folder))
        assert same(resumed, whole), step


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "epochs, every", [(3, 7), pytest.param(12, 3, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_interrupted_again_and_again(
    epochs: int, every: int, tmp_path: Path, trained: Callable[..., tuple[Fit | None, list[int]]]
) -> None:
    short = f"trainer.max_epochs={epochs}"
    whole, windows = trained(tmp_path / "whole", short)
    found, taken, times = None, [], 0
    while found is None:
        found, more = trained(tmp_path / "run", short, resumed=newest(tmp_path / "run"), interrupt=every)
        times += 1
        taken += more
    assert times > 3
    assert whole is not None
    assert same(found, whole)
    # A validation cut off by the signal is repeated, the training is not.
    assert len(taken) <= len(windows) * 1.5
    assert {path.name for path in (tmp_path / "run").iterdir()} == {LAST, PREVIOUS, "best.ckpt"}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_torn_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, trained: Callable[..., tuple[Fit, list[int]]], caplog: pytest.LogCaptureFixture
) -> None:
    short = "trainer.max_epochs=3"
    whole, _ = trained(tmp_path / "whole", short)
    folder = tmp_path / "run"
    trained(folder, short, interrupt=4)
    trained(folder, short, resumed=newest(folder), interrupt=9)
    content = (folder / LAST).read_bytes()
    middle = len(content) // 2
    one_bit = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    for damaged in (b"", content[:100], one_bit):
        (folder / LAST).write_bytes(damaged)
        caplog.clear()
        found = newest(folder)
        assert found is not None
        assert found["global_step"] == 8  # optimizer steps, two per step of the loop
        assert f"{folder / LAST}: not a whole checkpoint" in caplog.text
    resumed, _ = trained(folder, short, resumed=found)
    assert same(resumed, whole)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_validation_that_takes_too_long_is_not_waited_for(
    tmp_path: Path, trained: Callable[..., tuple[Fit, list[int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    never, begun, over = threading.Event(), [], []

    def validate(*_: Any) -> None:
        begun.append(True)
        never.wait(HANG)
        over.append(True)

    monkeypatch.setattr("kforecast.training.resume.checkpoints._GRACE_SECONDS", 0.05)
    monkeypatch.setattr(Interrupt, "on_validation_batch_start", validate, raising=False)
    nothing, _ = trained(tmp_path, "checkpoint_seconds=0", interrupt=10)
    assert nothing is None
    assert (begun, over) == ([True], [])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.undo()


# As a user runs it

RUN = [
    *("source=synthetic", "source.days=4", "source.workloads=2", "source.step=600", "trainer=cpu"),
    *("trainer.max_epochs=4", "checkpoint_seconds=0", "callbacks.forecast_figures=null"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    done = run_command("kforecast-train", *RUN, "hydra.run.dir=run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def weights(run_dir: Path) -> str:
    result = json.loads((run_dir / "result.json").read_text())
    assert result["status"] == "done"
    checkpoint = (run_dir / "artifact" / "checkpoint.pth").read_bytes()
    assert result["weights"] == hashlib.sha256(checkpoint).hexdigest()
    return str(result["weights"])


def terminate_in_epoch(epoch: int) -> None:
    """Make this fork send itself SIGTERM in the middle of an epoch."""
    act = EpochLog.on_train_batch_start

    def told(self: EpochLog, trainer: Any, module: Any, batch: Any, number: int, *more: Any) -> Any:
        if trainer.current_epoch + 1 == epoch:
            os.kill(os.getpid(), signal.SIGTERM)
        return act(self, trainer, module, batch, number, *more)

    EpochLog.on_train_batch_start = told


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_a_terminated_run_is_resumed(whole: Path, tmp_path: Path) -> None:
    done = run_prepared(lambda: terminate_in_epoch(2), "kforecast-train", *RUN, "resume=auto", cwd=tmp_path)
    assert done.returncode == 143, done.stderr
    (run_dir,) = (tmp_path / "outputs").glob("*/*")
    assert "Nothing to resume" in done.stdout
    assert json.loads((run_dir / "result.json").read_text())["status"] == "interrupted"
    checkpoint = newest(run_dir / "checkpoints")
    assert checkpoint is not None
    assert epoch_of(checkpoint) == 3
    (events,) = (run_dir / "tensorboard").glob("events*")
    assert losses(events) >= 1
    said = re.search(r"to go on: kforecast-train (.*)", done.stdout)
    assert said
    # Without further arguments, the configuration of the newest unfinished run is used.
    done = run_command("kforecast-train", *said[1].split()[:1], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Going on in epoch 3" in done.stdout
    assert weights(run_dir) == weights(whole / "run")
    assert [path.name for path in (tmp_path / "outputs").glob("*/*")] == [run_dir.name]
    config = OmegaConf.load(run_dir / ".hydra" / "config.yaml")
    assert config.source.days == 4


def losses(events: Path) -> int:
    board = EventAccumulator(str(events))
    board.Reload()
    return len(board.Scalars("train/loss"))


NOTHING_HELD_OUT = ["data.validation=0", "data.test=0", "monitor=train/loss"]  # so there is no report
FROM_A_SERVER = [
    *("--config-file=config.yaml", "hydra.run.dir=run", "resume=auto", "logger=none", "trainer=cpu"),
    f"source.end={1_704_500_000 // 600 * 600}",
]


@contextmanager
def provider_for(folder: Path, epochs: int) -> Iterator[tuple[Provider, list[str]]]:
    """A provider, and the arguments of a training on its data."""
    target = {"workloadNamespace": "shop", "workloadName": "a", "historyLength": "60H"}
    target["metrics"] = [{"name": "cpu", "type": "External", "external": {"metric": {"name": "cpu"}}}]
    content = {"targets": [target], "freq": "10min", "predictionLength": 3, "contextLength": 7}
    content["hyperParams"] = {"epochs": epochs}
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    provider = Provider()
    with provider.serve() as address:
        yield provider, [*FROM_A_SERVER, f"--metrics-server-addr={address}"]


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on data of a server that is down now."""
    folder = tmp_path_factory.mktemp("fetched")
    with provider_for(folder, epochs=2) as (provider, arguments):
        done = run_command("kforecast-train", *arguments, *NOTHING_HELD_OUT, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert provider.requests
    return folder


def test_what_was_fetched_is_not_fetched_again(fetched: Path, tmp_path: Path) -> None:
    shutil.copytree(fetched, tmp_path, dirs_exist_ok=True)
    # Killed after its trainings, before its end.
    (tmp_path / "run" / "result.json").write_text('{"status": "running"}')
    with provider_for(tmp_path, epochs=2) as (provider, arguments):
        # The same command later, when the server would have other data.
        provider.answer = lambda request: pb.QueryResponse()
        done = run_command("kforecast-train", *arguments, *NOTHING_HELD_OUT, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert provider.requests == []
    assert "Going on behind a training that is done" in done.stdout
    assert weights(tmp_path / "run") == weights(fetched / "run")


def test_a_run_is_repeated(fetched: Path, tmp_path: Path) -> None:
    """The server is down, but its answers are kept."""
    done = run_command("kforecast-train", "--repeat", fetched / "run", "hydra.run.dir=again", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "bit for bit" in done.stdout
    assert weights(tmp_path / "again") == weights(fetched / "run")
    changes = ["trainer.max_epochs=1", "seed=1"]
    done = run_command(
        "kforecast-train", "--repeat", fetched / "run", *changes, "hydra.run.dir=other", cwd=tmp_path
    )
    assert re.search(
        r"The weights differ from those of \S+: trained with trainer.max_epochs=1 seed=1", done.stdout
    )
    config = Artifact.load(tmp_path / "other" / "artifact").metadata["config"]
    assert config["source"]["end"] == 1_704_500_000 // 600 * 600


@pytest.mark.slow
def test_a_repetition_is_repeated(whole: Path, tmp_path: Path) -> None:
    done = run_command("kforecast-train", "--repeat", whole / "run", "hydra.run.dir=again", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "bit for bit" in done.stdout
    assert weights(tmp_path / "again") == weights(whole / "run")
    done = run_command("kforecast-train", "--repeat=again", "trainer.max_epochs=1", "seed=1", cwd=tmp_path)
    assert "The weights differ from those of again: trained with trainer.max_epochs=1 seed=1" in done.stdout
    assert Artifact.load(tmp_path / "again" / "artifact").metadata["config"]["source"]["days"] == 4


@pytest.mark.slow
def test_what_was_fetched_is_not_fetched_again_amid_a_training(tmp_path: Path) -> None:
    with provider_for(tmp_path, epochs=400) as (provider, arguments):
        arguments.append("callbacks.early_stopping=null")
        process = started("kforecast-train", *arguments, cwd=tmp_path)
        try:
            wait_for("Epoch: 3,", tmp_path / "run" / "train.log", process)
            process.terminate()
            process.communicate(timeout=HANG)
        finally:
            process.kill()
        asked = len(provider.requests)
        provider.answer = lambda request: pb.QueryResponse()
        done = run_command("kforecast-train", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Going on in epoch" in done.stdout
    assert len(provider.requests) == asked
    done = run_command("kforecast-train", "--repeat=run", cwd=tmp_path)  # the server is down
    assert done.returncode == 0, done.stderr
    assert "bit for bit" in done.stdout


def test_resume_of_a_run_that_is_done_begins_anew(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "run", tmp_path / "run")
    arguments = [
        *RUN,
        "hydra.run.dir=run",
        "resume=auto",
        "trainer.max_epochs=1",
        "logger=none",
        *NOTHING_HELD_OUT,
    ]
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
        (["resume=weights.ckpt"], ["weights.ckpt", "not a checkpoint to resume from"]),
        (
            ["resume=last.ckpt", "optimizer.lr=0.5", "seed=1"],
            ["optimizer.lr: 0.5 now, 0.003", "seed: 1 now, 42"],
        ),
        (["resume=last.ckpt", "source.seed=1"], ["was trained on other data"]),
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
def test_what_cannot_be_resumed_is_refused(
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
