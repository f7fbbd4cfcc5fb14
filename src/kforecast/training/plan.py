"""A configuration of a training, checked, and what can be made of it before the data is read."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from kforecast.config.checks import (
    built,
    check_processes,
    check_step,
    check_train_settings,
    source_of,
    window_of,
)
from kforecast.config.settings import TrainSettings
from kforecast.files.directory import check_writable
from kforecast.training.distributed.process_group import check_devices
from kforecast.training.distributed.processes import Process, this_process
from kforecast.training.dry_run import is_own_recipe, try_recipe
from kforecast.training.result import read_result
from kforecast.training.resume.earlier_run import UNFINISHED, Earlier, earlier_run

if TYPE_CHECKING:
    from kforecast.evaluation.capacity import Capacity
    from kforecast.evaluation.champion import Champion
    from kforecast.metrics.source import MetricSource
    from kforecast.training.teacher import Teacher
    from kforecast.training.warm_start import WarmStart
    from kforecast.window import Window


class Plan(NamedTuple):
    """A configuration that has been checked, and what could be made of it before the data is read."""

    settings: TrainSettings
    artifact_dir: Path
    window: Window
    source: MetricSource
    capacity: Capacity
    teacher: Teacher | None
    champion: Champion | None
    warm_start: WarmStart | None
    earlier: Earlier


def check(cfg: DictConfig) -> None:
    """Find what is wrong with a configuration, as far as that can be told without data."""
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    logging.disable(logging.CRITICAL)  # what there is to tell is told when the run begins
    try:
        make_plan(cfg, run_dir, this_process(), is_unfinished(run_dir))
    finally:
        logging.disable(logging.NOTSET)


def is_unfinished(run_dir: Path) -> bool:
    """Whether a folder holds a run that has not come to its end."""
    return read_result(run_dir).get("status") in UNFINISHED


def make_plan(cfg: DictConfig, run_dir: Path, process: Process, unfinished: bool) -> Plan:
    """Check a configuration, and make what needs no data.

    Parameters
    ----------
    unfinished:
        Whether ``run_dir`` holds a run that has not come to its end.

    Raises
    ------
    ConfigError, ArtifactError
        All that is wrong, as far as that can be told without data.
    OutputError
        When the artifact could not be written.
    """
    settings = check_train_settings(cfg)
    check_processes(settings.trainer, process.count)
    check_devices(settings.trainer)
    artifact_dir = _artifact_dir(settings, run_dir)
    if process.first:
        check_writable(artifact_dir)
    window = window_of(settings.window)
    source = source_of(cfg)
    check_step(source, window)
    capacity, teacher = built(cfg.capacity), _teacher(settings.teacher, window)
    if is_own_recipe():
        try_recipe(cfg, window)
    champion, warm_start = _champion(settings.gate.champion, window), _warm_start(cfg, settings, window)
    earlier = earlier_run(cfg, settings, run_dir, unfinished) if process.first else Earlier()
    return Plan(settings, artifact_dir, window, source, capacity, teacher, champion, warm_start, earlier)


def _teacher(directory: str | None, window: Window) -> Teacher | None:
    if directory is None:
        return None
    from kforecast.training.teacher import Teacher

    return Teacher.load(Path(directory), window)


def _champion(directory: str | None, window: Window) -> Champion | None:
    if directory is None:
        return None
    from kforecast.artifact import load_for
    from kforecast.evaluation.champion import Champion

    return Champion.of(load_for("gate.champion", Path(directory), window), directory)


def _warm_start(cfg: DictConfig, settings: TrainSettings, window: Window) -> WarmStart | None:
    if settings.warm_start is None:
        return None
    from kforecast.training.assemble import warm_start_of

    return warm_start_of(cfg, settings, window)


def _artifact_dir(settings: TrainSettings, run_dir: Path) -> Path:
    directory = Path(settings.artifact_dir)
    if HydraConfig.get().mode == RunMode.MULTIRUN and not directory.is_relative_to(run_dir):
        # Jobs of a sweep that share one directory would overwrite each other's artifact.
        return directory / str(HydraConfig.get().job.num)
    return directory
