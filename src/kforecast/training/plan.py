"""The recipe of a run: the configuration, checked and frozen, before the data is read.

Only this module of a training sees ``cfg``. Everything after it takes the recipe, or parts of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict

from kforecast.config.checks import (
    built,
    check_processes,
    check_step,
    check_train_settings,
    events_of,
    recorded,
    source_of,
    window_of,
)
from kforecast.config.compose import composed
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
    from kforecast.data.panel import Panel
    from kforecast.evaluation.champion import Champion
    from kforecast.models import Network
    from kforecast.simulation.capacity import Capacity
    from kforecast.training.teacher import Teacher
    from kforecast.training.warm_start import WarmStart
    from kforecast.window import Window

# The class of a SeasonalMLP with trees beside it.
_WITH_TREES = "kforecast.models.seasonal_trees.SeasonalTrees"
# Callbacks that need a validation part, or decide when the first training ends.
_OF_FIRST_TRAINING = ("early_stopping", "model_checkpoint", "forecast_figures", "window_budget")


class Component:
    """A class and its settings; a call imports the library and builds the object."""

    def __init__(self, key: str, node: DictConfig) -> None:
        self._key, self._node = key, node

    def __call__(self, **arguments: Any) -> Any:
        """Build the object; ``arguments`` are those that no configuration can hold.

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


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything about a run that is known before its data is read.

    Attributes
    ----------
    settings:
        The checked settings.
    recorded:
        The whole configuration as artifacts and checkpoints keep it: plain values without secrets.
    job:
        The run of the command; None for :func:`kforecast.train`.
    run_dir:
        Folder of the run.
    artifact_dir:
        Directory of the artifact; None writes none.
    window:
        Bin width, context and horizon.
    source:
        Source of the history, from ``kforecast.metrics``.
    source_settings:
        Settings of the source as plain values; environment variables are named, not resolved.
    data, network, optimizer, trainer, callbacks, loggers:
        Build the data module, the network and Lightning's objects.
    capacity:
        How replicas are ordered, for the report.
    teacher, champion, warm_start:
        Earlier artifacts that the run uses.
    earlier:
        What the run takes over from an earlier one.
    """

    settings: TrainSettings
    recorded: Mapping[str, Any]
    job: Job | None = None
    run_dir: Path
    artifact_dir: Path | None = None
    window: Window
    source: Any
    source_settings: Mapping[str, Any] = field(default_factory=dict)
    data: Component
    network: Component
    optimizer: Component
    trainer: Component
    callbacks: Mapping[str, Component]
    loggers: Mapping[str, Component]
    capacity: Capacity
    teacher: Teacher | None = None
    champion: Champion | None = None
    warm_start: WarmStart | None = None
    earlier: Earlier = field(default_factory=Earlier)
    _cfg: DictConfig
    """For the two variants below."""

    @property
    def history(self) -> Any:
        """The source, or the history that an earlier run fetched from it and kept."""
        kept = self.earlier.history
        return self.source if kept is None else kept_history(kept)

    @property
    def checkpoint_dir(self) -> Path | None:
        """Folder of the first training's checkpoints; None writes none."""
        folder = OmegaConf.select(self._cfg, "callbacks.model_checkpoint.dirpath")
        return None if folder is None else Path(folder)

    @property
    def candidate_dir(self) -> Path:
        """Directory of an artifact that has not passed the gate."""
        return self.run_dir / "candidate"

    @property
    def continues(self) -> bool:
        """Whether the second training begins from the weights of the first."""
        return self.settings.refit == "continue"

    def on_all_data(self, epochs: int) -> Recipe:
        """The recipe of the second training: with the validation part, for a given number of epochs."""
        changes = {"monitor": "train/loss"} | ({"schedule": "linear"} if self.continues else {})
        cfg, settings = self._cfg.copy(), self.settings.model_copy(update=changes)
        OmegaConf.update(cfg, "trainer.max_epochs", epochs)
        OmegaConf.update(cfg, "monitor", "train/loss")
        OmegaConf.update(cfg, "data.validation", 0.0)
        for name in _OF_FIRST_TRAINING:
            if name in cfg.callbacks:
                cfg.callbacks[name] = None
        return self._varied(cfg, settings)

    def with_own_embeddings(self) -> Recipe:
        """The recipe of the training with an embedding for each series."""
        cfg = self._cfg.copy()
        if self.checkpoint_dir is not None:
            cfg.callbacks.model_checkpoint.dirpath = str(self.run_dir / "checkpoints" / "per_series")
        with open_dict(cfg):
            cfg.model.shared_embedding = False
        return self._varied(cfg, self.settings)

    def _varied(self, cfg: DictConfig, settings: TrainSettings) -> Recipe:
        return replace(self, settings=settings, _cfg=cfg, **_components(cfg, settings))


def check(cfg: DictConfig) -> None:
    """Check a configuration as far as possible without data; raises as :func:`make_recipe` does."""
    with no_log_lines():  # the run logs them when it begins
        job = Job.current()
        make_recipe(cfg, job, is_unfinished(job.run_dir))


def make_recipe(cfg: DictConfig, job: Job, unfinished: bool) -> Recipe:
    """Check the configuration of a command, and build what needs no data.

    Parameters
    ----------
    unfinished:
        Whether the run folder holds an unfinished run.

    Raises
    ------
    ConfigError, ArtifactError
        All problems that can be found without data.
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
    events_of(settings.data.events, source)
    if is_own_recipe():
        try_recipe(cfg, window)
    return _recipe(
        cfg,
        settings,
        job=job,
        run_dir=job.run_dir,
        artifact_dir=artifact_dir,
        source=source,
        source_settings=_plain_values(cfg.source, resolve=False),
        earlier=earlier_run(cfg, settings, job.run_dir, unfinished) if process.first else Earlier(),
    )


def make_recipe_for_frame(cfg: DictConfig, source: Any, folder: Path) -> Recipe:
    """Check the configuration of :func:`kforecast.train`, and build what needs no data.

    Parameters
    ----------
    source:
        The frame as a source.
    folder:
        A temporary folder for the files of the training.

    Raises
    ------
    ConfigError, ArtifactError
        All problems that can be found without data.
    """
    settings = check_train_settings(cfg)
    events_of(settings.data.events, source)
    check_devices(settings.trainer)
    try_recipe(cfg, window_of(settings.window))
    return _recipe(cfg, settings, run_dir=folder, source=source)


def recipe_of_teacher(pupil: Recipe, panel: Panel, folder: Path) -> Recipe:
    """The recipe of the teacher that is trained first (``teacher=auto``): ``model=auto`` on the same data.

    Parameters
    ----------
    folder:
        A temporary folder for the files of the training.
    """
    settings = pupil.settings
    values: dict[str, Any] = {"seed": settings.seed, "threads": settings.threads}
    values |= {f"window.{name}": value for name, value in settings.window.model_dump().items()}
    values |= {f"data.{name}": value for name, value in settings.data.split_arguments.items()}
    values |= {"data.timezone": settings.data.timezone, "data.holidays": settings.data.holidays}
    values |= {"trainer.accelerator": settings.trainer.accelerator}
    if not settings.data.validation:
        values["monitor"] = "train/loss"
    fixed = [
        "model=auto",
        "model.prior=false",
        "logger=none",
        "source=csv",
        "source.path=panel",
        "callbacks.epoch_log=null",
    ]
    return make_recipe_for_frame(
        composed("train", fixed, values=values, output_dir=str(folder)), panel, folder
    )


def _recipe(cfg: DictConfig, settings: TrainSettings, **others: Any) -> Recipe:
    """The recipe with everything that follows from the configuration alone."""
    window = window_of(settings.window)
    return Recipe(
        settings=settings,
        recorded=recorded(cfg),
        window=window,
        capacity=built(cfg.capacity, "capacity"),
        _cfg=cfg,
        **_components(cfg, settings),
        **_earlier_artifacts(cfg, settings, window),
        **others,
    )


def is_unfinished(run_dir: Path) -> bool:
    """Whether a folder holds an unfinished run."""
    return read_result(run_dir).get("status") in UNFINISHED


def _components(cfg: DictConfig, settings: TrainSettings) -> dict[str, Any]:
    model = cfg.model.copy()
    if settings.with_trees:
        model._target_ = _WITH_TREES
    if not settings.trainer.max_epochs:
        model.fine_tune = False

    def several(key: str, section: DictConfig) -> dict[str, Component]:
        found = {str(name): node for name, node in section.items() if node is not None}
        return {name: Component(f"{key}.{name}", node) for name, node in found.items()}

    # Lightning refuses it together with manual optimization; ForecastModule gets it from the settings.
    trainer = cfg.trainer.copy()
    OmegaConf.set_struct(trainer, False)
    trainer.pop("gradient_clip_val", None)
    return {
        "data": Component("data", cfg.data),
        "network": Component("model", model),
        "optimizer": Component("optimizer", cfg.optimizer),
        "trainer": Component("trainer", trainer),
        "callbacks": several("callbacks", cfg.callbacks),
        "loggers": several("logger", cfg.logger),
    }


def _plain_values(node: DictConfig, resolve: bool) -> dict[str, Any]:
    content = OmegaConf.to_container(node, resolve=resolve)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def _earlier_artifacts(cfg: DictConfig, settings: TrainSettings, window: Window) -> dict[str, Any]:
    """Load the artifacts that the settings name; the imports are here because they load torch."""
    found: dict[str, Any] = {}
    if settings.teacher is not None and not settings.trains_teacher:
        from kforecast.training.teacher import Teacher

        found["teacher"] = Teacher.load(Path(settings.teacher), window)
    if (champion := settings.gate.champion) is not None:
        from kforecast.artifact import load_for
        from kforecast.evaluation.champion import Champion

        found["champion"] = Champion.of(load_for("gate.champion", Path(champion), window), champion)
    if settings.warm_start is not None:
        from kforecast.training.warm_start import WarmStart

        net: Network = built(cfg.model, "model", window=window, num_series=1)
        found["warm_start"] = WarmStart.load(Path(settings.warm_start), window, net)
    return found


def _artifact_dir(settings: TrainSettings, job: Job) -> Path:
    directory = Path(settings.artifact_dir)
    if job.of_sweep and not directory.is_relative_to(job.run_dir):
        # Jobs of a sweep would overwrite each other's artifact in a shared directory.
        return directory / str(job.number)
    return directory
