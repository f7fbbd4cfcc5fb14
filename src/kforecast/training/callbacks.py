"""Lightning callbacks: log lines per epoch, progress, the best artifact so far, figures, a budget."""

import logging
import math
import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from kforecast.data.datamodule import ForecastDataModule
from kforecast.training.module import TRAIN_LOSS, VALIDATION_LOSS, ForecastModule

log = logging.getLogger(__name__)

_LOSS_NAMES = {TRAIN_LOSS: "Train loss", VALIDATION_LOSS: "Validation loss"}
_PROGRESS_SECONDS = 2.0


# Lightning calls callbacks of the class Checkpoint last, in their order. The first three read the result of
# ModelCheckpoint, so they are of that class and come after it.
class EpochLog(Checkpoint):
    """Writes the lines of Kapacity's log for each epoch (contract 6), and logs its speed."""

    def __init__(self) -> None:
        self._begun = 0.0
        self._best = math.inf
        self._windows = self._steps = 0

    def state_dict(self) -> dict[str, Any]:
        """The state of the epoch, for a checkpoint."""
        return {"best": self._best, "windows": self._windows, "steps": self._steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of the epoch."""
        self._best, self._windows, self._steps = (state_dict[name] for name in ("best", "windows", "steps"))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Start the clock of a resumed epoch."""
        self._begun = time.perf_counter()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Start the epoch's clock."""
        self._begun = time.perf_counter()
        self._windows, self._steps = 0, trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
        """Count the windows."""
        _module, _outputs, batch, _index = arguments
        self._windows += len(batch.context) * trainer.world_size

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Log the losses, whether the watched one improved, and the count of early stopping."""
        if not trainer.is_global_zero:
            return
        seconds = time.perf_counter() - self._begun
        metrics = trainer.callback_metrics
        losses = [
            f"{_LOSS_NAMES[name].title()}: {metrics[name]:.7f}" for name in _LOSS_NAMES if name in metrics
        ]
        epoch, steps = trainer.current_epoch + 1, trainer.global_step - self._steps
        log.info("Epoch: %d cost time: %.3f", epoch, seconds)
        log.info("Epoch: %d, Steps: %d | %s", epoch, steps, " ".join(losses))
        self._log_progress(trainer)
        if trainer.logger is not None:
            speed = {
                "epoch/seconds": seconds,
                "epoch/windows_per_second": self._windows / seconds,
                "epoch/learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            }
            for logger in trainer.loggers:
                logger.log_metrics(speed, step=trainer.global_step)

    def _log_progress(self, trainer: pl.Trainer) -> None:
        checkpoint, score = watching(trainer), best_score(trainer)
        if checkpoint is None or checkpoint.monitor is None:
            return
        name = _LOSS_NAMES.get(checkpoint.monitor, checkpoint.monitor)
        value = float(trainer.callback_metrics.get(checkpoint.monitor, math.nan))
        if score is not None and score < self._best:
            log.info("%s decreased (%.6f --> %.6f).  Saving model ...", name, self._best, value)
            self._best = score
        stopping = trainer.early_stopping_callback
        if isinstance(stopping, EarlyStopping) and stopping.wait_count:
            log.info("EarlyStopping counter: %d out of %d", stopping.wait_count, stopping.patience)


class Progress(Checkpoint):
    """Reports the progress of a training, with a line every few seconds and one at the end.

    Parameters
    ----------
    say:
        Receives the line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._best, self._best_epoch = math.inf, 0
        self._said, self._line = 0.0, ""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Report the losses, if enough time has passed."""
        metrics, epoch = trainer.callback_metrics, trainer.current_epoch + 1
        if (score := best_score(trainer)) is not None and score != self._best:
            self._best, self._best_epoch = score, epoch
        losses = [
            f"{_LOSS_NAMES[name].lower()} {metrics[name]:.5f}" for name in _LOSS_NAMES if name in metrics
        ]
        best = f" (best {self._best:.5f}, epoch {self._best_epoch})" if self._best_epoch else ""
        self._line = f"epoch {epoch}: {', '.join(losses)}{best}"
        if time.monotonic() - self._said >= _PROGRESS_SECONDS:
            self._report()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Report the last epoch, unless that was done."""
        self._report()

    def _report(self) -> None:
        if self._line:
            self._say(self._line)
        self._said, self._line = time.monotonic(), ""


class ArtifactWriter(Checkpoint):
    """Writes the artifact each time ModelCheckpoint has found a better model.

    Parameters
    ----------
    write:
        Called with the module, which holds the weights just saved, and whether this is the first call.
    """

    def __init__(self, write: Callable[[ForecastModule, bool], None]) -> None:
        self._write = write
        self._best, self._first_time = math.inf, True

    def state_dict(self) -> dict[str, Any]:
        """The score of the artifact on disk, for a checkpoint."""
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the score."""
        self._best = state_dict["best"]

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write when the best score has improved."""
        score = best_score(trainer)
        if score is not None and score < self._best and trainer.is_global_zero:
            assert isinstance(pl_module, ForecastModule)
            self._write(pl_module, self._first_time)
            self._best, self._first_time = score, False


class WindowBudget(Callback):
    """Ends a training after an epoch once it has seen enough windows, repeated ones included.

    Parameters
    ----------
    windows:
        Number of windows, over all epochs and processes.
    """

    def __init__(self, windows: int) -> None:
        self.windows = windows
        self.used_up = False

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Stop if the windows are used up."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, ForecastDataModule) and trainer.global_step * data.batch_size >= self.windows:
            trainer.should_stop = self.used_up = True


class ForecastFigures(Callback):
    """Draws forecasts and observed values of a few windows into TensorBoard.

    Parameters
    ----------
    every_n_epochs:
        Epochs from one figure to the next; the last epoch is always drawn.
    num_windows:
        Number of windows, spread evenly over the validation part, or the training part without one.
    """

    def __init__(self, every_n_epochs: int, num_windows: int) -> None:
        self.every_n_epochs, self.num_windows = every_n_epochs, num_windows
        self._drawn = -1

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw if it is the turn of this epoch."""
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._draw(trainer, pl_module, trainer.current_epoch)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the last epoch, unless that was done."""
        epoch = max(trainer.current_epoch - 1, 0)
        if epoch != self._drawn:
            self._draw(trainer, pl_module, epoch)

    @torch.inference_mode()
    def _draw(self, trainer: pl.Trainer, pl_module: pl.LightningModule, epoch: int) -> None:
        self._drawn = epoch
        boards = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not trainer.is_global_zero or not boards or not isinstance(data, ForecastDataModule):
            return
        from kforecast.training.figures import forecast_figure

        part = "validation" if len(data.split.validation) else "train"
        cells = getattr(data.split, part).spread(self.num_windows)
        batch = data.windows[torch.from_numpy(cells)]
        figure = forecast_figure(
            context=batch.context.cpu().numpy(),
            target=torch.where(batch.observed, batch.target, torch.nan).cpu().numpy(),
            forecast=pl_module(batch).cpu().numpy(),
            titles=[data.title(int(cell)) for cell in cells],
        )
        for board in boards:
            board.experiment.add_figure(f"forecast/{part}", figure, global_step=trainer.global_step)


def watching(trainer: pl.Trainer) -> ModelCheckpoint | None:
    """The ModelCheckpoint that watches a score, if there is one."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor is not None:
            return callback
    return None


def best_score(trainer: pl.Trainer) -> float | None:
    """The best watched score so far; None if there is none."""
    checkpoint = watching(trainer)
    found = None if checkpoint is None else checkpoint.best_model_score
    return None if found is None else float(found)
