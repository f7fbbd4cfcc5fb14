"""Checkpoints that an interrupted training goes on from, to the same weights as if nothing had happened."""

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
from kforecast.training.callbacks import watching
from kforecast.training.distributed.process_group import first
from kforecast.training.resume.reading import LAST, PREVIOUS, State, about_of, newest

log = logging.getLogger(__name__)

# After a signal the step, or a validation, may take so long; then the checkpoint of before must do.
_GRACE_SECONDS = 3.5


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


def _write(path: Path, buffer: io.BytesIO) -> None:
    path.write_bytes(buffer.getbuffer())
