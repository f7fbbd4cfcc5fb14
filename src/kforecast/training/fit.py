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
    hopeless:
        Whether it was stopped because other jobs of its sweep did better.
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
        The loss that is reported when no ModelCheckpoint watches one.
    run_checkpoint:
        One of the trainer's callbacks.
    resumed:
        A checkpoint of this training to go on from; a training that was finished is not repeated.

    Raises
    ------
    TrainingError
        When the loss is not a finite number.
    ConfigError
        When a callback watches what is not logged.
    KeyboardInterrupt
        When the user interrupts.
    """
    if resumed is not None and "finished" in resumed:
        module.load_state_dict(resumed["state_dict"])
        return _fitted(module, data, trainer, resumed["finished"])
    begun = time.perf_counter()
    try:
        # Where it lies does not matter: what is loaded is at hand.
        path = None if resumed is None else LAST
        trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)
    except SystemExit as error:
        # Lightning turns Ctrl-C into exit code 1.
        if error.code == 1 and trainer.interrupted:
            raise KeyboardInterrupt from error
        raise
    except TrainingError as error:
        best = run_checkpoint.best
        kept = (
            "there was no better model before"
            if best is None
            else f"the best so far, of epoch {best['epoch'] + 1}, is kept"
        )
        raise TrainingError(
            f"{error}; {kept}; try a smaller optimizer.lr, or trainer.gradient_clip_val=1"
        ) from error
    except MisconfigurationException as error:
        raise ConfigError(f"trainer or callbacks: {' '.join(str(error).split())}") from error
    except ValueError as error:
        if "val_check_interval" in str(error):  # longer than an epoch, which only the data tells
            raise ConfigError(f"trainer.val_check_interval: {' '.join(str(error).split())}") from error
        raise
    except RuntimeError as error:
        # What EarlyStopping and ModelCheckpoint say when nothing logs what they watch.
        if "conditioned on metric" in str(error) or "could not find the monitored key" in str(error):
            raise ConfigError(f"callbacks: {' '.join(str(error).split())}") from error
        raise
    seconds = run_checkpoint.seconds + time.perf_counter() - begun

    stopping = trainer.early_stopping_callback
    hopeless = next((one.reason for one in _median_stopping(trainer) if one.reason is not None), None)
    epochs = best_epoch = trainer.current_epoch
    score = run_checkpoint.losses.get(monitor, float("nan"))
    if (best := run_checkpoint.best) is not None:
        module.load_state_dict(best["state_dict"])
        score, best_epoch = best["score"], best["epoch"] + 1
    if not torch.isfinite(torch.tensor(score)):
        raise TrainingError(f"{monitor} is {score} after {epochs} epochs; try a smaller optimizer.lr")
    if hopeless is not None:
        stopped_by = hopeless
    elif isinstance(stopping, EarlyStopping) and stopping.wait_count >= stopping.patience:
        stopped_by = f"early stopping: no better {stopping.monitor} in {stopping.patience} epochs"
    elif isinstance(stopping, EarlyStopping) and stopping.stopped_epoch:
        stopped_by = f"early stopping: {stopping.stopping_reason_message}"
    elif epochs == trainer.max_epochs:
        stopped_by = f"trainer.max_epochs={trainer.max_epochs}"
    else:
        stopped_by = "another limit of the trainer"
    outcome = {"score": score, "epochs": epochs, "best_epoch": best_epoch, "stopped_by": stopped_by}
    outcome |= {"seconds": seconds, "hopeless": hopeless is not None}
    if trainer.is_global_zero:
        run_checkpoint.finish(module, outcome)
    return _fitted(module, data, trainer, outcome)


def _median_stopping(trainer: pl.Trainer) -> list[MedianStopping]:
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if isinstance(callback, MedianStopping)]


def _fitted(module: ForecastModule, data: ForecastDataModule, trainer: pl.Trainer, outcome: State) -> Fit:
    module.to(trainer.strategy.root_device).eval()
    return Fit(module, data, **outcome)
