"""Checkpoints that an interrupted training goes on from, to the same weights as if nothing had happened."""

from __future__ import annotations

import io
import logging
import math
import signal
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping

from kforecast.directory import check_still_there, writing
from kforecast.errors import ConfigError
from kforecast.output import replace_file
from kforecast.training.callbacks import watching
from kforecast.training.differences import differences, flat
from kforecast.training.group import first
from kforecast.untrusted import read_file

log = logging.getLogger(__name__)

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
# After a signal the step, or a validation, may take so long; then the checkpoint of before must do.
_GRACE_SECONDS = 3.5
_MOST_BYTES = 8 << 30

State = dict[str, Any]


class WholeFiles(CheckpointIO):
    """Writes checkpoints whole or not at all, and hands out the one that a training goes on from.

    Parameters
    ----------
    resumed:
        What is loaded, whatever path Lightning asks for: read, and found whole, before.
    """

    def __init__(self, resumed: State | None = None) -> None:
        self._resumed = resumed

    def save_checkpoint(self, checkpoint: State, path: str | Path, storage_options: Any = None) -> None:  # noqa: ARG002
        """See :class:`CheckpointIO`."""
        check_still_there(Path(path).parent)
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        replace_file(Path(path), lambda staged: _write(staged, buffer))

    def load_checkpoint(
        self,
        path: str | Path,  # noqa: ARG002
        map_location: Any = None,  # noqa: ARG002
        weights_only: bool | None = None,  # noqa: ARG002
    ) -> State:
        """See :class:`CheckpointIO`."""
        assert self._resumed is not None
        return self._resumed

    def remove_checkpoint(self, path: str | Path) -> None:
        """See :class:`CheckpointIO`."""
        Path(path).unlink(missing_ok=True)


class RunCheckpoint(Checkpoint):
    """Keeps the newest two checkpoints of a training, and writes one before a signal ends the process.

    A checkpoint is written between two steps when it is time, at the end, and on Ctrl-C or SIGTERM; a second
    signal ends the process at once. It holds the best weights so far too, so that it suffices alone. With
    several processes signals end each at once, and checkpoints are written at the end of epochs.

    Parameters
    ----------
    folder:
        Where; None for no checkpoints.
    about:
        What the training is of, for :func:`check_same`.
    every_seconds:
        How much training is lost at most when the process is killed without a word.
    artifact:
        What an artifact says besides the weights, so that one can be made of a checkpoint alone.
    """

    def __init__(
        self, folder: Path | None, about: State, every_seconds: float, artifact: State | None = None
    ) -> None:
        self.best: State | None = None
        """``score``, ``epoch`` (from 0) and ``state_dict`` of the best; None when no score is watched."""
        self.losses: dict[str, float] = {}
        """Of the last epoch."""
        self.seconds = 0.0
        """How long training took in processes that were interrupted."""
        self._folder, self._about, self._every_seconds = folder, about, every_seconds
        self._artifact = artifact or {}
        self._told: int | None = None
        self._handlers: dict[int, Any] = {}
        self._begun = self._saved = 0.0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:  # noqa: ARG002
        """Remember the handlers of signals; Lightning sets its own before the training starts."""
        self._begun = self._saved = time.monotonic()
        if self._folder is not None and trainer.is_global_zero:
            with writing(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            # One that is ignored (a shell's background) stays so; None is a handler that is not Python's.
            self._handlers = {
                number: handler
                for number, handler in handlers.items()
                if handler not in (signal.SIG_IGN, None)
            }

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """From here on a signal waits for a checkpoint to be written, where there is one to write.

        Training that had ended early has ended.
        """
        # Processes that exchange gradients hang when one of them goes on alone.
        waits = self._folder is not None and trainer.world_size == 1
        for number, handler in self._handlers.items():
            signal.signal(number, self._note if waits else handler)
        stopping = trainer.early_stopping_callback
        if isinstance(stopping, EarlyStopping) and (
            stopping.stopped_epoch or stopping.wait_count >= stopping.patience
        ):
            trainer.should_stop = True

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Save when it is time, and leave when told to."""
        # Lightning does not make up for a validation that was still to come: the end of an epoch is another
        # place to save at.
        validates = trainer.val_check_batch not in (None, math.inf) and (
            trainer.fit_loop.epoch_loop.batch_progress.current.ready % int(trainer.val_check_batch) == 0
        )
        if trainer.world_size == 1 and not trainer.is_last_batch and not validates:
            self._pause(trainer, self._is_time)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the best weights; save when it is time, and leave when told to."""
        self.losses = {name: float(value) for name, value in trainer.callback_metrics.items()}
        checkpoint = watching(trainer)
        if checkpoint is not None and checkpoint.best_model_score is not None:
            score = float(checkpoint.best_model_score)
            if self.best is None or score != self.best["score"]:
                state = {name: value.cpu().clone() for name, value in pl_module.state_dict().items()}
                self.best = {"score": score, "epoch": trainer.current_epoch, "state_dict": state}
        self._pause(trainer, trainer.world_size > 1 or self._is_time)

    def finish(self, module: pl.LightningModule, outcome: State) -> None:
        """Keep what a finished training came to, and leave when told to.

        Parameters
        ----------
        outcome:
            Plain values, which :func:`newest` gives back under ``finished``.
        """
        if self._folder is not None:
            content = {
                "about": self._about,
                "artifact": self._artifact,
                "finished": outcome,
                "state_dict": module.state_dict(),
            }
            self._put(lambda path: WholeFiles().save_checkpoint(content, path), True)
        if self._told is not None:
            self._leave()

    def restore_handlers(self) -> None:
        """Let signals end the process at once again."""
        if self._told is not None and hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def state_dict(self) -> State:
        """What a checkpoint keeps of this callback."""
        return {
            "about": self._about,
            "artifact": self._artifact,
            "best": self.best,
            "losses": self.losses,
            "seconds": self.seconds + time.monotonic() - self._begun,
        }

    def load_state_dict(self, state_dict: State) -> None:
        """Go on from it."""
        self.best, self.losses, self.seconds = (state_dict[name] for name in ("best", "losses", "seconds"))

    @property
    def _is_time(self) -> bool:
        return time.monotonic() - self._saved >= self._every_seconds

    def _pause(self, trainer: pl.Trainer, due: bool) -> None:
        if self._folder is not None and (due or self._told is not None):
            self._put(trainer.save_checkpoint, trainer.is_global_zero)
            self._saved = time.monotonic()
        if self._told is not None:
            self._leave()

    def _put(self, save: Callable[[Path], None], writes: bool) -> None:
        assert self._folder is not None
        new, last = self._folder / "new.ckpt", self._folder / LAST
        save(new)
        if writes:  # of several processes only the first
            with writing(last):
                if last.exists():
                    last.replace(self._folder / PREVIOUS)
                new.replace(last)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self._told is not None:
            self._leave()
        self._told = number
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, lambda *_: self._leave())
            signal.setitimer(signal.ITIMER_REAL, _GRACE_SECONDS)

    def _leave(self) -> None:
        assert self._told is not None
        self.restore_handlers()
        signal.raise_signal(self._told)


@dataclass(frozen=True)
class Checkpoints:
    """Where the trainings of a run keep their checkpoints, and which one the first goes on from.

    Attributes
    ----------
    folder:
        Those of the first training lie here, those of another in a folder of its name; None for none.
    about:
        What is trained, as far as it decides on the weights: ``config`` and ``data``.
    every_seconds:
        See :class:`RunCheckpoint`.
    resumed:
        The first training's, read and found whole; None to train from the beginning.
    newest_of_all:
        Whether the other trainings of the run go on from their newest ones.
    artifact:
        See :class:`RunCheckpoint`.
    """

    folder: Path | None
    about: State
    every_seconds: float
    resumed: State | None = None
    newest_of_all: bool = False
    artifact: State = field(default_factory=dict)

    def of(self, training: str) -> tuple[RunCheckpoint, State | None]:
        """What writes the checkpoints of a training, and the one to go on from, in each process.

        Checkpoints that are not gone on from are removed, so that no later run takes them for its own.
        """
        folder = None if self.folder is None else self.folder / training
        found = first(lambda: self._find(training, folder))
        return RunCheckpoint(folder, self.about, self.every_seconds, self.artifact), found

    def _find(self, training: str, folder: Path | None) -> State | None:
        found = self.resumed
        if training:
            found = newest(folder) if folder is not None and self.newest_of_all else None
        if found is not None and about_of(found) == self.about:
            return found
        for name in (LAST, PREVIOUS):
            if folder is not None:
                (folder / name).unlink(missing_ok=True)
        return None


def newest(folder: Path) -> State | None:
    """The newest checkpoint in a folder that is whole; None when there is none.

    Its ModelCheckpoint will go on in this folder, wherever the file was written.
    """
    for name in (LAST, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            return read_checkpoint(path, folder)
        except ConfigError as error:
            log.warning("%s; taking the one before", error)
    return None


def read_checkpoint(path: Path, folder: Path) -> State:
    """Read a checkpoint that :class:`RunCheckpoint` wrote, running nothing in it.

    Raises
    ------
    ConfigError
        When it is none, or damaged.
    """
    try:
        content = read_file(path, _MOST_BYTES)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            # torch never compresses: what is inside is no larger than the file.
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("it is compressed")
            damaged = archive.testzip()  # torch itself does not look at the checksums
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} is wrong")
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a damaged or a malicious file
        said = str(error).splitlines()[0] if isinstance(error, OSError | ValueError) else type(error).__name__
        raise ConfigError(f"{path}: not a whole checkpoint ({said})") from error
    if not isinstance(state, dict) or ("finished" not in state and not {"loops", "callbacks"} <= set(state)):
        raise ConfigError(f"{path}: not a checkpoint to go on from; {LAST} of a run's checkpoints/ is one")
    for kept in (state.get("callbacks") or {}).values():
        if isinstance(kept, dict) and "best_k_models" in kept:
            _move(kept, folder)
    return state


def _move(state: State, folder: Path) -> None:
    def here(path: str) -> str:
        return str(folder.resolve() / Path(path).name) if path else path

    state["dirpath"] = str(folder.resolve())
    for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
        state[name] = here(state[name])
    state["best_k_models"] = {here(path): score for path, score in state["best_k_models"].items()}


def about_of(checkpoint: State) -> State:
    """What the training was of that a checkpoint belongs to."""
    about = checkpoint.get("about") or checkpoint["callbacks"][RunCheckpoint.__qualname__]["about"]
    assert isinstance(about, dict)
    return about


def artifact_of(checkpoint: State) -> State:
    """What the artifact of the training says besides the weights; nothing where the checkpoint is older."""
    kept = checkpoint if "finished" in checkpoint else checkpoint["callbacks"][RunCheckpoint.__qualname__]
    return dict(kept.get("artifact") or {})


def best_of(checkpoint: State) -> State:
    """The best weights that a checkpoint knows of: ``score``, ``epoch`` (from 1) and ``state_dict``."""
    if "finished" in checkpoint:
        score, epoch = (checkpoint["finished"][name] for name in ("score", "best_epoch"))
        return {"score": score, "epoch": epoch, "state_dict": checkpoint["state_dict"]}
    best: State | None = checkpoint["callbacks"][RunCheckpoint.__qualname__]["best"]
    scores = [kept.get("best_model_score") for kept in checkpoint["callbacks"].values() if kept]
    score = next((float(found) for found in scores if found is not None), None)
    if best is None or score not in (None, best["score"]):
        # What ModelCheckpoint has just found to be better than all before, or no score is watched.
        return {"score": score, "epoch": checkpoint["epoch"] + 1, "state_dict": checkpoint["state_dict"]}
    return best | {"epoch": best["epoch"] + 1}


def epoch_of(checkpoint: State) -> int | None:
    """The epoch that training goes on in, counted from 1; None behind the last."""
    if "finished" in checkpoint:
        return None
    return int(checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]) + 1


def check_same(checkpoint: State, config: State) -> None:
    """Refuse a checkpoint of a training that had other settings.

    Raises
    ------
    ConfigError
        Naming each setting that differs.
    """
    then, now = flat(about_of(checkpoint)["config"]), flat(config)
    if listed := differences(now, then, "the checkpoint"):
        raise ConfigError(
            f"resume: the checkpoint's training had other settings; leave out resume to begin anew{listed}"
        )


def deciding(settings: State) -> State:
    """The part of a recorded configuration that decides on the weights, the data aside."""
    kept = {name: settings[name] for name in _DECIDING}
    kept["data"] = {name: value for name, value in settings["data"].items() if name != "num_workers"}
    kept["trainer"] = {name: value for name, value in settings["trainer"].items() if name not in _FREE}
    kept["early_stopping"] = settings["callbacks"].get("early_stopping")
    return kept


# Keys of train.yaml that decide on the weights, and keys of trainer that do not.
_DECIDING = (
    *("seed", "window", "model", "optimizer", "monitor", "average_windows", "schedule", "refit", "teacher"),
)
_FREE = (
    *("_target_", "default_root_dir", "accelerator", "log_every_n_steps", "enable_model_summary"),
    *("num_sanity_val_steps", "enable_progress_bar", "profiler"),
)


def _write(path: Path, buffer: io.BytesIO) -> None:
    path.write_bytes(buffer.getbuffer())
