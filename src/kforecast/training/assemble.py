"""The trainings that a configuration describes: the first, one more on all data, one with own embeddings."""

import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.fabric.plugins import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Checkpoint, RichProgressBar
from omegaconf import DictConfig, OmegaConf

from kforecast.artifact import EstimatorConfig
from kforecast.config.checks import built, window_of
from kforecast.config.job import runs_beside_others
from kforecast.config.settings import TrainSettings
from kforecast.data.datamodule import ForecastDataModule
from kforecast.data.panel import Panel
from kforecast.data.split import Split, SplitSettings, split_windows
from kforecast.evaluation.capacity import Capacity
from kforecast.evaluation.report.words import scores_table
from kforecast.models import Network
from kforecast.training.distributed.process_group import first
from kforecast.training.fit import Fit, fit
from kforecast.training.holdout import JudgedFit, judge_fit
from kforecast.training.median_stopping import MedianStopping
from kforecast.training.module import TRAIN_LOSS, ForecastModule
from kforecast.training.resume.checkpoints import Checkpoints, WholeFiles
from kforecast.training.teacher import Teacher
from kforecast.training.warm_start import WarmStart
from kforecast.window import Window

log = logging.getLogger(__name__)


def estimator_config(cfg: DictConfig, settings: TrainSettings, num_series: int) -> EstimatorConfig:
    """What estimator_config.yaml says of a training."""
    return EstimatorConfig(
        freq=settings.window.freq,
        prediction_length=settings.window.prediction_length,
        context_length=settings.window.context_length,
        num_series=num_series,
        learning_rate=settings.optimizer.lr,
        epochs=settings.trainer.max_epochs,
        batch_size=settings.data.batch_size,
        num_workers=settings.data.num_workers,
        patience=OmegaConf.select(cfg, "callbacks.early_stopping.patience") or 0,
        use_validation=bool(settings.data.validation),
    )


def network_of(cfg: DictConfig, window: Window, panel: Panel, warm_start: WarmStart | None) -> Network:
    """The network that is to be trained, with the weights that training begins from."""
    net: Network = built(cfg.model, window=window, num_series=panel.num_series)
    if warm_start is not None:
        warm_start.give(net, panel)
    return net


def warm_start_of(cfg: DictConfig, settings: TrainSettings, window: Window) -> WarmStart | None:
    """The weights that training begins from, where the configuration names some.

    Raises
    ------
    ArtifactError, ConfigError
        See :meth:`WarmStart.load`.
    """
    if settings.warm_start is None:
        return None
    net: Network = built(cfg.model, window=window, num_series=1)
    return WarmStart.load(Path(settings.warm_start), window, net)


def data_of(
    cfg: DictConfig,
    settings: TrainSettings,
    panel: Panel,
    split: Split,
    net: Network,
    teacher: Teacher | None,
) -> ForecastDataModule:
    """The windows that ``net`` is trained on."""
    data: ForecastDataModule = built(
        cfg.data,
        panel=panel,
        window=window_of(settings.window),
        split=split,
        seed=settings.seed,
        lookback=net.lookback,
        taught=None if teacher is None else teacher.forecasts(panel, split),
    )
    return data


def train_network(
    cfg: DictConfig,
    data: Any,
    net: Network,
    loggers: list[Any],
    cluster: ClusterEnvironment | None,
    checkpoints: Checkpoints,
    *more_callbacks: Any,
    training: str = "",
    schedule_epochs: int | None = None,
) -> Fit:
    """Put together what the configuration describes, and train ``net``; the first training has no name."""
    # An optimizer that refuses its settings is found now, not when training has begun.
    built(cfg.optimizer, params=net.parameters())
    callbacks = [built(callback) for callback in cfg.callbacks.values() if callback is not None]
    run_checkpoint, resumed = checkpoints.of(training)
    if training:  # other jobs are judged by their first one
        callbacks = [callback for callback in callbacks if not isinstance(callback, MedianStopping)]
    # It comes last, and sees what the others have done.
    callbacks += [*more_callbacks, run_checkpoint]
    # The bars of several jobs on one terminal would overwrite each other; no command: it is not ours alone.
    is_command = HydraConfig.initialized()
    watched_by_someone = sys.stdout.isatty() and is_command and not runs_beside_others()
    if watched_by_someone:
        callbacks.append(RichProgressBar(leave=False))
    # Lightning leaves clipping to a module that steps by itself.
    settings = cfg.trainer.copy()
    OmegaConf.set_struct(settings, False)
    gradient_clip_val = settings.pop("gradient_clip_val", None)
    trainer = built(
        settings,
        callbacks=callbacks,
        # Named even for one process: Lightning would look for a cluster in the environment by itself.
        plugins=[cluster or LightningEnvironment(), WholeFiles(resumed)],
        logger=loggers or False,
        enable_progress_bar=watched_by_someone,
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
    )
    module = ForecastModule(
        net,
        instantiate(cfg.optimizer),
        data.batch_size,
        gradient_clip_val=gradient_clip_val,
        average_windows=cfg.average_windows,
        schedule=cfg.schedule,
        schedule_epochs=schedule_epochs,
    )
    try:
        return fit(module, data, trainer, cfg.monitor, run_checkpoint, resumed)
    finally:
        run_checkpoint.restore_handlers()


def train_again(
    cfg: DictConfig,
    settings: TrainSettings,
    first_fit: Fit,
    teacher: Teacher | None,
    cluster: ClusterEnvironment | None,
    checkpoints: Checkpoints,
    warm_start: WarmStart | None = None,
) -> Fit:
    """The network trained again, on the validation part too, for as many epochs as were best before."""
    # Only the first process has read the checkpoint that says it.
    epochs = first(lambda: first_fit.best_epoch)
    log.info("Training again, with the validation part, for %d epochs (refit)", epochs)
    seed_everything(settings.seed, workers=True, verbose=False)
    panel, window = first_fit.data.panel, first_fit.data.windows.window
    again = cfg.copy()
    OmegaConf.update(again, "trainer.max_epochs", epochs)
    OmegaConf.update(again, "monitor", TRAIN_LOSS)
    # What chooses an epoch has nothing to choose by.
    for name in ("early_stopping", "model_checkpoint", "forecast_figures"):
        if name in again.callbacks:
            again.callbacks[name] = None
    split = replace(
        split_windows(panel, window, SplitSettings(**settings.data.split_arguments | {"validation": 0.0})),
        validation_end=first_fit.data.split.validation_end,
    )
    net = network_of(cfg, window, panel, warm_start)
    data = data_of(cfg, settings, panel, split, net, teacher)
    return train_network(
        again, data, net, [], cluster, checkpoints, training="refit", schedule_epochs=cfg.trainer.max_epochs
    )


def train_individually(
    cfg: DictConfig,
    run_dir: Path,
    first_fit: Fit,
    judged: JudgedFit | None,
    capacity: Capacity,
    cluster: ClusterEnvironment | None,
    checkpoints: Checkpoints,
) -> JudgedFit | None:
    """The network with individual embeddings: the one at hand, or another that is trained here.

    None in all processes but the first, which alone judges.
    """
    if not cfg.model.shared_embedding:
        return judged
    log.info("Training once more, with an embedding for each series, for artifact.per_series")
    cfg = cfg.copy()
    if OmegaConf.select(cfg, "callbacks.model_checkpoint.dirpath"):
        cfg.callbacks.model_checkpoint.dirpath = str(run_dir / "checkpoints" / "per_series")
    window, num_series = first_fit.data.windows.window, first_fit.data.panel.num_series
    net = built(cfg.model, window=window, num_series=num_series, shared_embedding=False)
    again = train_network(cfg, first_fit.data, net, [], cluster, checkpoints, training="per_series")
    if judged is None:
        return None
    found = judge_fit(again, cfg.data.fill, capacity, cfg.seed)
    if found.scoreboard is not None:
        log.info("How good are individual embeddings?\n%s", scores_table(found.scoreboard))
    return found
