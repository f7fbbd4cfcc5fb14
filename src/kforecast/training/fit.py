"""One training: a module, its data and a trainer in, the best weights out."""

import time
from dataclasses import dataclass

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping

from kforecast.data.datamodule import ForecastDataModule
from kforecast.errors import ConfigError, TrainingError
from kforecast.models import Network
from kforecast.training.callbacks import watching
from kforecast.training.module import ForecastModule


@dataclass(frozen=True)
class Fit:
    """A finished training.

    Attributes
    ----------
    module:
        Holds the best weights, ready to forecast.
    data:
        What it was trained on.
    score:
        The best of the watched loss.
    epochs, best_epoch:
        How many were run, and which was the best, counted from 1.
    stopped_by:
        In words.
    seconds:
        Of the training alone.
    """

    module: ForecastModule
    data: ForecastDataModule
    score: float
    epochs: int
    best_epoch: int
    stopped_by: str
    seconds: float

    @property
    def net(self) -> Network:
        """The network with the best weights."""
        return self.module.net


def fit(module: ForecastModule, data: ForecastDataModule, trainer: pl.Trainer, monitor: str) -> Fit:
    """Train, and put the best weights back into the module.

    Parameters
    ----------
    monitor:
        The loss that is reported when no ModelCheckpoint watches one.

    Raises
    ------
    TrainingError
        When the loss is not a finite number.
    ConfigError
        When a callback watches what is not logged.
    KeyboardInterrupt
        When the user interrupts.
    """
    begun = time.perf_counter()
    try:
        trainer.fit(module, datamodule=data)
    except SystemExit as error:
        # Lightning turns Ctrl-C into exit code 1.
        if error.code == 1 and trainer.interrupted:
            raise KeyboardInterrupt from error
        raise
    except MisconfigurationException as error:
        raise ConfigError(f"trainer or callbacks: {' '.join(str(error).split())}") from error
    except RuntimeError as error:
        # What EarlyStopping and ModelCheckpoint say when nothing logs what they watch.
        if "conditioned on metric" in str(error) or "could not find the monitored key" in str(error):
            raise ConfigError(f"callbacks: {' '.join(str(error).split())}") from error
        raise
    seconds = time.perf_counter() - begun

    checkpoint, stopping = watching(trainer), trainer.early_stopping_callback
    epochs = best_epoch = trainer.current_epoch
    score = float(trainer.callback_metrics.get(monitor, float("nan")))
    if checkpoint is not None and checkpoint.best_model_path and checkpoint.best_model_score is not None:
        score = float(checkpoint.best_model_score)
        # The file is on the first process's machine, which alone goes on with the weights.
        if trainer.is_global_zero:
            best = torch.load(checkpoint.best_model_path, map_location="cpu", weights_only=True)
            module.load_state_dict(best["state_dict"])
            best_epoch = best["epoch"] + 1
    if not torch.isfinite(torch.tensor(score)):
        raise TrainingError(f"{monitor} is {score} after {epochs} epochs; try a smaller optimizer.lr")
    if isinstance(stopping, EarlyStopping) and stopping.wait_count >= stopping.patience:
        stopped_by = f"early stopping: no better {stopping.monitor} in {stopping.patience} epochs"
    elif isinstance(stopping, EarlyStopping) and stopping.stopped_epoch:
        stopped_by = f"early stopping: {stopping.stopping_reason_message}"
    elif epochs == trainer.max_epochs:
        stopped_by = f"trainer.max_epochs={trainer.max_epochs}"
    else:
        stopped_by = "another limit of the trainer"
    module.to(trainer.strategy.root_device).eval()
    return Fit(module, data, score, epochs, best_epoch, stopped_by, seconds)
