"""Checkpoints to resume an interrupted training from, with the weights of an uninterrupted one."""

from __future__ import annotations

import io
import logging
import math
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping

from kforecast.files.directory import check_still_there, writing
from kforecast.files.output import replace_file
from kforecast.training.callbacks import best_score
from kforecast.training.distributed.process_group import first
from kforecast.training.resume.reading import LAST, PREVIOUS, State, about_of, newest

log = logging.getLogger(__name__)

# How long a step or a validation may take after a signal; then the process ends without a new checkpoint.
_GRACE_SECONDS = 3.5


class WholeFiles(CheckpointIO):
    """Writes checkpoints atomically, and loads the one to resume from.

    Parameters
    ----------
    resumed:
        The checkpoint to load for every path; it was read and verified before.
    """

    def __init__(self, resumed: State | None = None) -> None:
        self._resumed = resumed

    def save_checkpoint(self, checkpoint: State, path: str | Path, storage_options: Any = None) -> None:  # noqa: ARG002
        """See :class:`CheckpointIO`."""
        check_still_there(Path(path).parent)
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        replace_file(Path(path), lambda staged: _write(staged, buffer))

    def load_checkpoint(self, *_: Any, **__: Any) -> State:
        """See :class:`CheckpointIO`."""
        assert self._resumed is not None
        return self._resumed

    def remove_checkpoint(self, path: str | Path) -> None:
        """See :class:`CheckpointIO`."""
        Path(path).unlink(missing_ok=True)


class RunCheckpoint(Checkpoint):
    """Keeps the newest two checkpoints of a training, and writes one before a signal ends the process.

    A checkpoint is written every few seconds between two steps, at the end, and on Ctrl-C or SIGTERM; a
    second signal ends the process at once. A checkpoint also holds the best weights so far. With several
    processes a signal ends each process at once, and checkpoints are written at the end of each epoch.

    Parameters
    ----------
    folder:
        Folder of the checkpoints; None writes none.
    about:
        Configuration and data of the training, for :func:`check_same`.
    every_seconds:
        Seconds between checkpoints: the training time that a killed process can lose.
    artifact:
        The artifact without weights, so that a checkpoint alone is enough to make one.
    """

    def __init__(
        self, folder: Path | None, about: State, every_seconds: float, artifact: State | None = None
    ) -> None:
        self.best: State | None = None
        """``score``, ``epoch`` (from 0) and ``state_dict`` of the best epoch; None if no score is watched."""
        self.losses: dict[str, float] = {}
        """Losses of the last epoch."""
        self.seconds = 0.0
        """Training time of the interrupted processes before this one."""
        self._folder, self._about, self._every_seconds = folder, about, every_seconds
        self._artifact = artifact or {}
        self._signal: int | None = None
        self._handlers: dict[int, Any] = {}
        self._begun = self._saved = 0.0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:  # noqa: ARG002
        """Remember the signal handlers; Lightning sets its own before the training starts."""
        self._begun = self._saved = time.monotonic()
        if trainer.is_global_zero:
            self.make_folder()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                # An ignored signal (of a background job) stays ignored. None: not set from Python.
                if (handler := signal.getsignal(number)) not in (signal.SIG_IGN, None):
                    self._handlers[number] = handler

    def make_folder(self) -> None:
        """Make the folder of the checkpoints, where there is to be one."""
        if self._folder is not None:
            with writing(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """From here on a signal waits for a checkpoint. A resumed training that had stopped early ends."""
        # Not with several processes: those that exchange gradients hang when one of them ends first.
        waits = self._folder is not None and trainer.world_size == 1
        for number, handler in self._handlers.items():
            signal.signal(number, self._on_signal if waits else handler)
        stopping = trainer.early_stopping_callback
        if isinstance(stopping, EarlyStopping) and (
            stopping.stopped_epoch or stopping.wait_count >= stopping.patience
        ):
            trainer.should_stop = True

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Save when it is due, and end after a signal."""
        # Not before a validation, which a resumed run would skip; the end of the epoch saves then.
        validates = trainer.val_check_batch not in (None, math.inf) and (
            trainer.fit_loop.epoch_loop.batch_progress.current.ready % int(trainer.val_check_batch) == 0
        )
        if trainer.world_size == 1 and not trainer.is_last_batch and not validates:
            self._save_or_end(trainer, self._is_due)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the best weights; save when it is due, and end after a signal."""
        self.losses = {name: float(value) for name, value in trainer.callback_metrics.items()}
        score = best_score(trainer)
        if score is not None and (self.best is None or score != self.best["score"]):
            state = {name: value.cpu().clone() for name, value in pl_module.state_dict().items()}
            self.best = {"score": score, "epoch": trainer.current_epoch, "state_dict": state}
        self._save_or_end(trainer, trainer.world_size > 1 or self._is_due)

    def finish(self, module: pl.LightningModule, outcome: State) -> None:
        """Save the outcome of a finished training, and end after a signal.

        Parameters
        ----------
        outcome:
            Plain values, which :func:`newest` returns under ``finished``.
        """
        if self._folder is not None:
            content = {
                "about": self._about,
                "artifact": self._artifact,
                "finished": outcome,
                "state_dict": module.state_dict(),
            }
            self._put(lambda path: WholeFiles().save_checkpoint(content, path), True)
        if self._signal is not None:
            self._end()

    def restore_handlers(self) -> None:
        """Let signals end the process at once again."""
        if self._signal is not None and hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def state_dict(self) -> State:
        """The state of this callback, for a checkpoint."""
        return {
            "about": self._about,
            "artifact": self._artifact,
            "best": self.best,
            "losses": self.losses,
            "seconds": self.seconds + time.monotonic() - self._begun,
        }

    def load_state_dict(self, state_dict: State) -> None:
        """Restore the state."""
        self.best, self.losses, self.seconds = (state_dict[name] for name in ("best", "losses", "seconds"))

    @property
    def _is_due(self) -> bool:
        return time.monotonic() - self._saved >= self._every_seconds

    def _save_or_end(self, trainer: pl.Trainer, due: bool) -> None:
        if self._folder is not None and (due or self._signal is not None):
            self._put(trainer.save_checkpoint, trainer.is_global_zero)
            self._saved = time.monotonic()
        if self._signal is not None:
            self._end()

    def _put(self, save: Callable[[Path], None], writes: bool) -> None:
        assert self._folder is not None
        new, last = self._folder / "new.ckpt", self._folder / LAST
        save(new)
        if writes:  # of several processes only the first
            with writing(last):
                if last.exists():
                    last.replace(self._folder / PREVIOUS)
                new.replace(last)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self._signal is not None:
            self._end()
        self._signal = number
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, lambda *_: self._end())
            signal.setitimer(signal.ITIMER_REAL, _GRACE_SECONDS)

    def _end(self) -> None:
        assert self._signal is not None
        self.restore_handlers()
        signal.raise_signal(self._signal)


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of all trainings of a run.

    Attributes
    ----------
    folder:
        Folder of the first training's checkpoints; other trainings use a subfolder of their name. None writes
        none.
    about:
        The settings and the data that determine the weights: ``config`` and ``data``.
    every_seconds:
        See :class:`RunCheckpoint`.
    resumed:
        The verified checkpoint of the first training; None to train from the beginning.
    newest_of_all:
        Whether the other trainings of the run resume from their newest checkpoints.
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
        """The callback that writes the checkpoints of a training, and the one to resume from.

        Other checkpoints in the folder are removed, so that no later run resumes from them.
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


def _write(path: Path, buffer: io.BytesIO) -> None:
    path.write_bytes(buffer.getbuffer())
