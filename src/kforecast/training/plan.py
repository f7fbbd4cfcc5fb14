"""The recipe of a run: a configuration, checked and frozen, before its data is read.

This is the last module of a training that sees ``cfg``; what it calls gets the recipe, or parts of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict

from kforecast.config.checks import (
    built,
    check_processes,
    check_step,
    check_train_settings,
    recorded,
    source_of,
    window_of,
)
from kforecast.config.job import Job
from kforecast.config.settings import TrainSettings
from kforecast.console import no_log_lines
from kforecast.data.history import kept_history
from kforecast.files.directory import check_writable
from kforecast.training.distributed.process_group import check_devices
from kforecast.training.distributed.processes import this_process
from kforecast.training.dry_run import is_own_recipe, try_recipe
from kforecast.training.result import read_result
from kforecast.training.resume.earlier_run import UNFINISHED, Earlier, earlier_run

if TYPE_CHECKING:
    from kforecast.evaluation.capacity import Capacity
    from kforecast.evaluation.champion import Champion
    from kforecast.models import Network
    from kforecast.training.teacher import Teacher
    from kforecast.training.warm_start import WarmStart
    from kforecast.window import Window

# Callbacks that choose an epoch, or show the validation part: a training on all data has no use for them.
_OF_VALIDATION = ("early_stopping", "model_checkpoint", "forecast_figures")


class Component:
    """A class and its settings; calling it builds the object, and imports its library only then."""

    def __init__(self, key: str, node: DictConfig) -> None:
        self._key, self._node = key, node

    def __call__(self, **arguments: Any) -> Any:
        """The object, with further arguments that no configuration can hold.

        Raises
        ------
        ConfigError
            When the class refuses its arguments.
        """
        return built(self._node, self._key, **arguments)

    @property
    def settings(self) -> dict[str, Any]:
        """Its settings as plain values."""
        return _plain_values(self._node, resolve=True)


@dataclass(frozen=True)
class Recipe:
    """All of a run that is known before its data is read.

    Attributes
    ----------
    settings:
        The keys of ours, checked.
    recorded:
        The whole configuration as artifacts and checkpoints keep it: plain values without secrets.
    job:
        The command's run; None when a Python program calls.
    run_dir:
        The folder where the run writes.
    artifact_dir:
        Where the artifact goes; None: it is returned only.
    window:
        Bin width, context and horizon.
    source:
        Of the history: one of ``kforecast.metrics``, or a frame.
    source_settings:
        How a command names the source: plain values, what comes from the environment only named.
    data, network, optimizer, trainer, callbacks, loggers:
        Build the objects of Lightning's world.
    capacity:
        How a cluster is scaled, for the report.
    teacher, champion, warm_start:
        Earlier artifacts that take part.
    earlier:
        What is taken over from an earlier run.
    """

    settings: TrainSettings
    recorded: Mapping[str, Any]
    job: Job | None
    run_dir: Path
    artifact_dir: Path | None
    window: Window
    source: Any
    source_settings: Mapping[str, Any]
    data: Component
    network: Component
    optimizer: Component
    trainer: Component
    callbacks: Mapping[str, Component]
    loggers: Mapping[str, Component]
    capacity: Capacity
    teacher: Teacher | None
    champion: Champion | None
    warm_start: WarmStart | None
    earlier: Earlier
    _cfg: DictConfig
    """For the two variations below alone."""

    @property
    def history(self) -> Any:
        """The source, or the history that an earlier run has kept of it."""
        kept = self.earlier.history
        return self.source if kept is None else kept_history(kept)

    @property
    def checkpoint_dir(self) -> Path | None:
        """Where the checkpoints of the first training lie; None for none."""
        folder = OmegaConf.select(self._cfg, "callbacks.model_checkpoint.dirpath")
        return None if folder is None else Path(folder)

    def on_all_data(self, epochs: int) -> Recipe:
        """The recipe of the second training: on the validation part too, for a known number of epochs."""
        cfg, settings = self._cfg.copy(), self.settings.model_copy(update={"monitor": "train/loss"})
        OmegaConf.update(cfg, "trainer.max_epochs", epochs)
        OmegaConf.update(cfg, "monitor", "train/loss")
        OmegaConf.update(cfg, "data.validation", 0.0)
        for name in _OF_VALIDATION:
            if name in cfg.callbacks:
                cfg.callbacks[name] = None
        return self._varied(cfg, settings)

    def with_own_embeddings(self) -> Recipe:
        """The recipe of the training that gives each series an embedding of its own."""
        cfg = self._cfg.copy()
        if self.checkpoint_dir is not None:
            cfg.callbacks.model_checkpoint.dirpath = str(self.run_dir / "checkpoints" / "per_series")
        with open_dict(cfg):
            cfg.model.shared_embedding = False
        return self._varied(cfg, self.settings)

    def _varied(self, cfg: DictConfig, settings: TrainSettings) -> Recipe:
        return replace(self, settings=settings, _cfg=cfg, **_components(cfg))


def check(cfg: DictConfig) -> None:
    """Find what is wrong with a configuration, as far as that can be told without data."""
    with no_log_lines():  # the run logs them when it begins
        make_recipe(cfg, Job.current())


def make_recipe(cfg: DictConfig, job: Job, unfinished: bool | None = None) -> Recipe:
    """Check the configuration of a command, and build what needs no data.

    Parameters
    ----------
    unfinished:
        Whether the run folder holds a run that has not come to its end; None: look.

    Raises
    ------
    ConfigError, ArtifactError
        All that is wrong, as far as that can be told without data.
    OutputError
        When the artifact could not be written.
    """
    settings, process = check_train_settings(cfg), this_process()
    check_processes(settings.trainer, process.count)
    check_devices(settings.trainer)
    artifact_dir = _artifact_dir(settings, job)
    if process.first:
        check_writable(artifact_dir)
    window = window_of(settings.window)
    source = source_of(cfg)
    check_step(source, window)
    capacity, teacher = built(cfg.capacity, "capacity"), _teacher(settings.teacher, window)
    if is_own_recipe():
        try_recipe(cfg, window)
    champion, warm_start = _champion(settings.gate.champion, window), _warm_start(cfg, settings, window)
    earlier = Earlier()
    if process.first:
        if unfinished is None:
            unfinished = is_unfinished(job.run_dir)
        earlier = earlier_run(cfg, settings, job.run_dir, unfinished)
    return Recipe(
        settings=settings,
        recorded=recorded(cfg),
        job=job,
        run_dir=job.run_dir,
        artifact_dir=artifact_dir,
        window=window,
        source=source,
        source_settings=_plain_values(cfg.source, resolve=False),
        capacity=capacity,
        teacher=teacher,
        champion=champion,
        warm_start=warm_start,
        earlier=earlier,
        _cfg=cfg,
        **_components(cfg),
    )


def make_recipe_for_frame(cfg: DictConfig, source: Any, folder: Path) -> Recipe:
    """Check a configuration that a Python program has composed, for a frame of its own.

    Parameters
    ----------
    folder:
        A temporary folder for what the training writes.

    Raises
    ------
    ConfigError, ArtifactError
        All that is wrong, as far as that can be told without data.
    """
    settings = check_train_settings(cfg)
    check_devices(settings.trainer)
    window = window_of(settings.window)
    try_recipe(cfg, window)
    return Recipe(
        settings=settings,
        recorded=recorded(cfg),
        job=None,
        run_dir=folder,
        artifact_dir=None,
        window=window,
        source=source,
        source_settings={},
        capacity=built(cfg.capacity, "capacity"),
        teacher=_teacher(settings.teacher, window),
        champion=None,
        warm_start=_warm_start(cfg, settings, window),
        earlier=Earlier(),
        _cfg=cfg,
        **_components(cfg),
    )


def is_unfinished(run_dir: Path) -> bool:
    """Whether a folder holds a run that has not come to its end."""
    return read_result(run_dir).get("status") in UNFINISHED


def _components(cfg: DictConfig) -> dict[str, Any]:
    def several(key: str, section: DictConfig) -> dict[str, Component]:
        found = {str(name): node for name, node in section.items() if node is not None}
        return {name: Component(f"{key}.{name}", node) for name, node in found.items()}

    # Lightning leaves clipping to a module that steps by itself: it is in the settings.
    trainer = cfg.trainer.copy()
    OmegaConf.set_struct(trainer, False)
    trainer.pop("gradient_clip_val", None)
    return {
        "data": Component("data", cfg.data),
        "network": Component("model", cfg.model),
        "optimizer": Component("optimizer", cfg.optimizer),
        "trainer": Component("trainer", trainer),
        "callbacks": several("callbacks", cfg.callbacks),
        "loggers": several("logger", cfg.logger),
    }


def _plain_values(node: DictConfig, resolve: bool) -> dict[str, Any]:
    content = OmegaConf.to_container(node, resolve=resolve)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


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
    from kforecast.training.warm_start import WarmStart

    net: Network = built(cfg.model, "model", window=window, num_series=1)
    return WarmStart.load(Path(settings.warm_start), window, net)


def _artifact_dir(settings: TrainSettings, job: Job) -> Path:
    directory = Path(settings.artifact_dir)
    if job.of_sweep and not directory.is_relative_to(job.run_dir):
        # Jobs of a sweep that share one directory would overwrite each other's artifact.
        return directory / str(job.number)
    return directory
