"""One training with Lightning: takes a module, its data and a trainer, and returns the best weights."""

import math
import time
from dataclasses import dataclass

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping

from kforecast.data.datamodule import ForecastDataModule
from kforecast.data.windows import WindowBatch
from kforecast.errors import ConfigError, TrainingError
from kforecast.models import Network
from kforecast.training.callbacks import WindowBudget
from kforecast.training.median_stopping import MedianStopping
from kforecast.training.module import ForecastModule
from kforecast.training.resume.checkpoints import RunCheckpoint
from kforecast.training.resume.reading import LAST, State


@dataclass(frozen=True)
class Fit:
    """A finished training.

    Attributes
    ----------
    module:
        Holds the best weights, in evaluation mode.
    data:
        The data of the training.
    score:
        Best value of the watched loss.
    epochs, best_epoch:
        Number of epochs, and the best of them, counted from 1.
    stopped_by:
        Why the training ended, in words.
    seconds:
        Duration of the training alone.
    hopeless:
        Whether the training was stopped because other jobs of its sweep did better.
    """

    module: ForecastModule
    data: ForecastDataModule
    score: float
    epochs: int
    best_epoch: int
    stopped_by: str
    seconds: float
    hopeless: bool = False

    @property
    def net(self) -> Network:
        """The network with the best weights."""
        return self.module.net


def fit(
    module: ForecastModule,
    data: ForecastDataModule,
    trainer: pl.Trainer,
    monitor: str,
    run_checkpoint: RunCheckpoint,
    resumed: State | None = None,
) -> Fit:
    """Train, and put the best weights back into the module.

    Parameters
    ----------
    monitor:
        The loss to report if no ModelCheckpoint watches one.
    run_checkpoint:
        One of the trainer's callbacks.
    resumed:
        A checkpoint of this training to resume from; a finished training is not repeated.

    Raises
    ------
    TrainingError
        When the loss is not a finite number.
    ConfigError
        When a callback watches a value that is not logged.
    KeyboardInterrupt
        When the user interrupts.
    """
    if resumed is not None and "finished" in resumed:
        module.load_state_dict(resumed["state_dict"])
        outcome: State = resumed["finished"]
    else:
        begun = time.perf_counter()
        _train(module, data, trainer, run_checkpoint, resumed is not None)
        seconds = run_checkpoint.seconds + time.perf_counter() - begun
        epochs = best_epoch = trainer.current_epoch
        score = run_checkpoint.losses.get(monitor, float("nan"))
        if (best := run_checkpoint.best) is not None:
            module.load_state_dict(best["state_dict"])
            score, best_epoch = best["score"], best["epoch"] + 1
        if not math.isfinite(score):
            raise TrainingError(f"{monitor} is {score} after {epochs} epochs; try a smaller optimizer.lr")
        stopped_by, hopeless = _stopped_by(trainer)
        outcome = {"score": score, "epochs": epochs, "best_epoch": best_epoch, "stopped_by": stopped_by}
        outcome |= {"seconds": seconds, "hopeless": hopeless}
        if trainer.is_global_zero:
            run_checkpoint.finish(module, outcome)
    module.to(trainer.strategy.root_device).eval()
    return Fit(module, data, **outcome)


@torch.inference_mode()
def untrained(module: ForecastModule, data: ForecastDataModule) -> Fit:
    """The outcome of a training without epochs: the weights that the network came with, and their loss."""
    module.eval()
    data.look_back(module.net.lookback)
    total, count = 0.0, 0
    for batch in data.val_dataloader() or data.train_dataloader():
        assert isinstance(batch, WindowBatch)
        observed = int(batch.observed.sum())
        total, count = total + float(module.loss(batch)) * observed, count + observed
    score = total / max(1, count)
    return Fit(module, data, score, epochs=0, best_epoch=0, stopped_by="trainer.max_epochs=0", seconds=0.0)


def _train(
    module: ForecastModule,
    data: ForecastDataModule,
    trainer: pl.Trainer,
    run_checkpoint: RunCheckpoint,
    resumes: bool,
) -> None:
    """Run the trainer, and translate its errors."""
    try:
        # Any path will do: WholeFiles returns a checkpoint that is already in memory.
        trainer.fit(module, datamodule=data, ckpt_path=LAST if resumes else None, weights_only=True)
    except SystemExit as error:
        # Lightning turns Ctrl-C into exit code 1.
        if error.code == 1 and trainer.interrupted:
            raise KeyboardInterrupt from error
        raise
    except TrainingError as error:
        kept = "there was no better model before"
        if (best := run_checkpoint.best) is not None:
            kept = f"the best so far, of epoch {best['epoch'] + 1}, is kept"
        raise TrainingError(
            f"{error}; {kept}; try a smaller optimizer.lr, or trainer.gradient_clip_val=1"
        ) from error
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        message = " ".join(str(error).split())
        if isinstance(error, MisconfigurationException):
            raise ConfigError(f"trainer or callbacks: {message}") from error
        # It is longer than an epoch, whose length depends on the data.
        if isinstance(error, ValueError) and "val_check_interval" in message:
            raise ConfigError(f"trainer.val_check_interval: {message}") from error
        # EarlyStopping or ModelCheckpoint watches a value that is not logged.
        if "conditioned on metric" in message or "could not find the monitored key" in message:
            raise ConfigError(f"callbacks: {message}") from error
        raise


def _stopped_by(trainer: pl.Trainer) -> tuple[str, bool]:
    """Why the training ended, in words, and whether it was hopeless."""
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, MedianStopping) and callback.reason is not None:
            return callback.reason, True
    stopping = trainer.early_stopping_callback
    if isinstance(stopping, EarlyStopping) and stopping.wait_count >= stopping.patience:
        return f"early stopping: no better {stopping.monitor} in {stopping.patience} epochs", False
    if isinstance(stopping, EarlyStopping) and stopping.stopped_epoch:
        return f"early stopping: {stopping.stopping_reason_message}", False
    for callback in callbacks:
        if isinstance(callback, WindowBudget) and callback.used_up:
            return f"callbacks.window_budget.windows={callback.windows}", False
    if trainer.current_epoch == trainer.max_epochs:
        return f"trainer.max_epochs={trainer.max_epochs}", False
    return "another limit of the trainer", False
