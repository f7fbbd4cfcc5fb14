"""What happens around training: the epoch's log lines, the artifact of the best so far, figures."""

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


# Lightning calls callbacks of the class Checkpoint last, in their order. These two look at what
# ModelCheckpoint has just done, so they are of that class and stand behind it.
class EpochLog(Checkpoint):
    """Says of each epoch what Kapacity's log says (contract 6), and logs its speed."""

    def __init__(self) -> None:
        self._begun = 0.0
        self._best = math.inf
        self._windows = self._steps = 0

    def state_dict(self) -> dict[str, Any]:
        """What is known of the epoch, for a checkpoint."""
        return {"best": self._best, "windows": self._windows, "steps": self._steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on amid the epoch."""
        self._best, self._windows, self._steps = (state_dict[name] for name in ("best", "windows", "steps"))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Start the clock of an epoch that is gone on with."""
        self._begun = time.perf_counter()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Start the epoch's clock."""
        self._begun = time.perf_counter()
        self._windows, self._steps = 0, trainer.global_step

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: Any,
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Count the windows."""
        self._windows += len(batch.context) * trainer.world_size

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Say the epoch's losses, whether the watched one improved, and how patient we still are."""
        if not trainer.is_global_zero:
            return
        seconds = time.perf_counter() - self._begun
        metrics = trainer.callback_metrics
        losses = [
            f"{_LOSS_NAMES[name].title()}: {metrics[name]:.7f}" for name in _LOSS_NAMES if name in metrics
        ]
        log.info("Epoch: %d cost time: %.3f", trainer.current_epoch + 1, seconds)
        log.info(
            "Epoch: %d, Steps: %d | %s",
            trainer.current_epoch + 1,
            trainer.global_step - self._steps,
            " ".join(losses),
        )
        self._say_progress(trainer)
        if trainer.logger is not None:
            speed = {
                "epoch/seconds": seconds,
                "epoch/windows_per_second": self._windows / seconds,
                "epoch/learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            }
            for logger in trainer.loggers:
                logger.log_metrics(speed, step=trainer.global_step)

    def _say_progress(self, trainer: pl.Trainer) -> None:
        checkpoint = watching(trainer)
        if checkpoint is None or checkpoint.monitor is None:
            return
        name = _LOSS_NAMES.get(checkpoint.monitor, checkpoint.monitor)
        value = float(trainer.callback_metrics.get(checkpoint.monitor, math.nan))
        if checkpoint.best_model_score is not None and float(checkpoint.best_model_score) < self._best:
            log.info("%s decreased (%.6f --> %.6f).  Saving model ...", name, self._best, value)
            self._best = float(checkpoint.best_model_score)
        stopping = trainer.early_stopping_callback
        if isinstance(stopping, EarlyStopping) and stopping.wait_count:
            log.info("EarlyStopping counter: %d out of %d", stopping.wait_count, stopping.patience)


class Progress(Checkpoint):
    """Says how a training goes, in a line every few seconds and one at its end.

    Parameters
    ----------
    say:
        Gets the line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._best, self._best_epoch = math.inf, 0
        self._said, self._line = 0.0, ""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Say the losses, when it is time."""
        metrics, epoch = trainer.callback_metrics, trainer.current_epoch + 1
        checkpoint = watching(trainer)
        if checkpoint is not None and checkpoint.best_model_score is not None:
            score = float(checkpoint.best_model_score)
            if score != self._best:
                self._best, self._best_epoch = score, epoch
        losses = [
            f"{_LOSS_NAMES[name].lower()} {metrics[name]:.5f}" for name in _LOSS_NAMES if name in metrics
        ]
        best = f" (best {self._best:.5f}, epoch {self._best_epoch})" if self._best_epoch else ""
        self._line = f"epoch {epoch}: {', '.join(losses)}{best}"
        if time.monotonic() - self._said >= _PROGRESS_SECONDS:
            self._tell()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Say the last epoch's, unless they were."""
        self._tell()

    def _tell(self) -> None:
        if self._line:
            self._say(self._line)
        self._said, self._line = time.monotonic(), ""


class ArtifactWriter(Checkpoint):
    """Writes the artifact each time ModelCheckpoint has found a better model.

    Parameters
    ----------
    write:
        Called with the module, whose weights at that moment are the ones just saved, and whether it is for
        the first time.
    """

    def __init__(self, write: Callable[[ForecastModule, bool], None]) -> None:
        self._write = write
        self._best, self._first_time = math.inf, True

    def state_dict(self) -> dict[str, Any]:
        """How good the artifact is that lies there, for a checkpoint."""
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Leave it until there is a better one."""
        self._best = state_dict["best"]

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write when the best score has moved."""
        checkpoint = watching(trainer)
        if checkpoint is None or checkpoint.best_model_score is None:
            return
        score = float(checkpoint.best_model_score)
        if score < self._best and trainer.is_global_zero:
            assert isinstance(pl_module, ForecastModule)
            self._write(pl_module, self._first_time)
            self._best, self._first_time = score, False


class ForecastFigures(Callback):
    """Draws forecast against actual for a few windows into TensorBoard.

    Parameters
    ----------
    every_n_epochs:
        How often; the last epoch is always drawn.
    num_windows:
        How many windows, spread evenly over the validation part (the training part when there is none).
    """

    def __init__(self, every_n_epochs: int, num_windows: int) -> None:
        self.every_n_epochs, self.num_windows = every_n_epochs, num_windows
        self._drawn = -1

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw every so many epochs."""
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._draw(trainer, pl_module, trainer.current_epoch)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw at the end."""
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
