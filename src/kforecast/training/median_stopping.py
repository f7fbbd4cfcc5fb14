"""Stop hopeless jobs of a sweep early: the median stopping rule."""

import json
import logging
import math
from pathlib import Path
from statistics import median
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from kforecast.files.directory import check_still_there
from kforecast.files.output import write_json

log = logging.getLogger(__name__)

PROGRESS = "progress.json"


class MedianStopping(Callback):
    """Stops a job whose best loss so far is worse than the median of other jobs' best losses at that epoch.

    The rule of Vizier (Golovin et al. 2017), with the best loss in place of the average loss. Jobs see each
    other's progress in ``progress.json`` of their folders, wherever they run. A job that ended earlier counts
    with its final best loss. A run outside a sweep has no other jobs, and is never stopped.

    Parameters
    ----------
    monitor:
        Name of the monitored loss.
    run_dir:
        Folder of this job.
    sweep_dir:
        Folder that contains the folders of all jobs.
    warmup_epochs:
        Minimum number of epochs before a job can be stopped.
    min_jobs:
        Minimum number of other jobs that have reached the epoch.
    """

    def __init__(
        self, monitor: str, run_dir: str, sweep_dir: str, warmup_epochs: int = 5, min_jobs: int = 4
    ) -> None:
        if warmup_epochs < 1 or min_jobs < 1:
            raise ValueError(f"warmup_epochs={warmup_epochs}, min_jobs={min_jobs}: at least 1 each")
        self.reason: str | None = None
        """Why the job was stopped; None when it was not."""
        self._monitor, self._run_dir, self._sweep_dir = monitor, Path(run_dir), Path(sweep_dir)
        self._warmup_epochs, self._min_jobs = warmup_epochs, min_jobs
        self._best: list[float] = []
        self._ended: dict[Path, list[float]] = {}

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"best": self._best, "reason": self.reason}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self._best, self.reason = list(state_dict["best"]), state_dict["reason"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Write the progress; a job that was stopped before its checkpoint stays stopped."""
        trainer.should_stop = trainer.should_stop or self.reason is not None
        self._write(trainer, ended=False)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Write the progress, and stop the job when it is hopeless."""
        value = float(trainer.callback_metrics.get(self._monitor, math.inf))
        self._best.append(min(value, self._best[-1] if self._best else math.inf))
        self._write(trainer, ended=False)
        if trainer.is_global_zero and not trainer.should_stop and len(self._best) >= self._warmup_epochs:
            self._judge()
        # All processes of a job stop together.
        if trainer.strategy.reduce_boolean_decision(self.reason is not None, all=False):
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Write the final progress."""
        self._write(trainer, ended=True)

    def _judge(self) -> None:
        epoch = len(self._best)
        others = [
            best[min(epoch, len(best)) - 1]
            for best, ended in map(self._read, self._sweep_dir.glob(f"*/{PROGRESS}"))
            if best and (ended or len(best) >= epoch)
        ]
        if len(others) < self._min_jobs or self._best[-1] <= (middle := median(others)):
            return
        self.reason = (
            f"median stopping: the best {self._monitor} by epoch {epoch}, {self._best[-1]:.6g}, is worse "
            f"than the median of {len(others)} other jobs, {middle:.6g}"
        )
        log.info("%s", self.reason[0].upper() + self.reason[1:])

    def _read(self, path: Path) -> tuple[list[float], bool]:
        """Another job's best loss by each epoch, and whether it has ended."""
        if path.parent.resolve() == self._run_dir.resolve():
            return [], True
        if path not in self._ended:
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                best, ended = [float(value) for value in content["best"]], bool(content["ended"])
            except (OSError, ValueError, TypeError, KeyError):
                return [], False  # another job may not have written it yet
            if not ended:
                return best, False
            self._ended[path] = best
        return self._ended[path], True

    def _write(self, trainer: pl.Trainer, ended: bool) -> None:
        if trainer.is_global_zero:
            check_still_there(self._run_dir)
            write_json({"best": self._best, "ended": ended}, self._run_dir / PROGRESS)
