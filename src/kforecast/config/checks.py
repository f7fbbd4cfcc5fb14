"""Checks of a composed configuration that need neither data nor torch."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from kforecast.config.allow_list import check_classes, check_names
from kforecast.config.conf_dir import CONF_DIR as CONF_DIR
from kforecast.config.secrets import check_content, forget, named_only, without_secrets
from kforecast.config.settings import (
    AIMS_WITHOUT_TEST,
    EvaluateSettings,
    ForecastSettings,
    TrainerSection,
    TrainSettings,
    WindowSection,
)
from kforecast.data.events.known import KnownEvents
from kforecast.errors import ConfigError, ours
from kforecast.simulation.capacity import unfit
from kforecast.validation import list_problems, problems_of, validate
from kforecast.window import FREQUENCIES, Frequency, Window

NO_SOURCE = """no source of traffic is given; name one of:
  --dataset-file=FILE  or  source=csv source.path=FILE     a CSV or Parquet file, or an export of another tool
  --metrics-server-addr=HOST:PORT with --config-file=FILE  Kapacity's metrics provider
  source=prometheus source.url=URL source.queries=[...]    Prometheus itself
  source=synthetic                                         built-in traffic, to try things out"""

# Extras that provide the package of a logger or of a model, by the class.
_EXTRAS = {"MLFlowLogger": "mlflow", "WandbLogger": "wandb", "BoostedTrees": "lightgbm"}


def check_train_settings(cfg: DictConfig) -> TrainSettings:
    """Check a composed train configuration.

    Raises
    ------
    ConfigError
        All problems at once.
    """
    settings = validate(TrainSettings, plain(cfg), "configuration")
    problems = [*_of_parts(settings), *_of_model(settings), *_of_training(settings)]
    if problems:
        raise ConfigError(list_problems("configuration", problems))
    return settings


def _of_parts(settings: TrainSettings) -> list[str]:
    """Problems of the parts of the history, and of what needs them."""
    problems = []
    if settings.data.validation + settings.data.test >= 1:
        problems.append(
            f"data.validation + data.test: {settings.data.validation:g} + {settings.data.test:g} leave "
            "nothing to train on; their sum must be below 1"
        )
    if not settings.data.validation and settings.monitor == "validation/loss":
        problems.append("data.validation: 0 leaves no validation loss to watch; add monitor=train/loss")
    if settings.gate.require_skill is not None and not settings.data.test:
        problems.append(
            f"gate.require_skill: {settings.gate.require_skill:g} needs data that the model has never seen; "
            "set data.test above 0"
        )
    if settings.gate.champion is not None and not settings.data.test:
        problems.append(
            "gate.champion: the comparison needs data that neither has seen; set data.test above 0"
        )
    if not settings.data.test and (judged := set(settings.objective) - set(AIMS_WITHOUT_TEST)):
        problems.append(
            f"objective: {', '.join(sorted(judged))} needs data that the model has never seen; set data.test "
            "above 0"
        )
    return problems


def _of_model(settings: TrainSettings) -> list[str]:
    """Problems of the model and the packages."""
    loggers = [(f"logger.{name}", target) for name, target in settings.logger_classes]
    problems = [
        f"{key}: needs a package: pip install 'kforecast[{extra}]'"
        for key, target in [("model", settings.model.target), *loggers]
        if (extra := _EXTRAS.get(target.rpartition(".")[2])) is not None and find_spec(extra) is None
    ]
    if settings.artifact.per_series and settings.model.shared_embedding is None:
        problems.append(
            "artifact.per_series: true is for Kapacity's network, which serves one embedding per artifact; "
            "leave it out, or add model=fcnet"
        )
    frequency = Frequency.parse(settings.window.freq)
    if "capacity_cost" in settings.objective and (reason := unfit(frequency)):
        problems.append(f"objective: capacity_cost needs simulated replicas, and {reason}; use another one")
    if settings.model.shared_embedding is not None and not frequency.calendar_fields:
        problems.append(
            f"window.freq: Kapacity's network knows bins of {', '.join(FREQUENCIES)} only; for "
            f"{frequency.name} add model=auto or model=seasonal_mlp"
        )
    if settings.combine and settings.model.shared_embedding is not None:
        problems.append(
            "combine is not for Kapacity's network, because its job would serve the network alone; add "
            "model=auto"
        )
    return problems


def _of_training(settings: TrainSettings) -> list[str]:
    """Problems of epochs, trees and processes."""
    problems = []
    trainer = settings.trainer
    alone = settings.model.name == "BoostedTrees"
    if not trainer.max_epochs and settings.model.name != "Pretrained":
        problems.append(
            "trainer.max_epochs: 0 trains nothing, and only model=pretrained forecasts without training; at "
            "least 1"
        )
    if trainer.max_epochs and getattr(settings.model, "fine_tune", True) is False:
        problems.append(
            "model.fine_tune: false leaves nothing to train; add trainer.max_epochs=0, or leave it out"
        )
    if alone and settings.warm_start is not None:
        problems.append("warm_start: is not for model=lightgbm, whose trees are always new; leave it out")
    if settings.trees and settings.model.name != "SeasonalMLP":
        problems.append(
            "trees: true is for model=auto and model=seasonal_mlp; leave it out, or add model=auto"
        )
    elif settings.trees and find_spec("lightgbm") is None:
        problems.append("trees: true needs a package: pip install 'kforecast[lightgbm]'")
    if alone and trainer.processes > 1:
        problems.append(
            f"trainer.devices: {trainer.processes} processes cannot share the trees of model=lightgbm; leave "
            "it out, one process uses all cores"
        )
    elif trainer.processes > 1 and (trainer.strategy != "ddp" or trainer.use_distributed_sampler):
        problems.append(
            f"trainer.devices: {trainer.devices} on {trainer.num_nodes} machines work together only with "
            f"trainer=ddp; add trainer=ddp trainer.devices={trainer.devices}"
        )
    if settings.trains_teacher and trainer.processes > 1:
        problems.append(
            f"teacher: auto trains a teacher in one process, but there are {trainer.processes}; train one "
            "with model=auto, and give its artifact"
        )
    if settings.data.batch_size < trainer.processes:
        problems.append(
            f"data.batch_size: {settings.data.batch_size} windows cannot be shared out to "
            f"{trainer.processes} processes (trainer.devices x trainer.num_nodes); at least one for each"
        )
    return problems


def check_processes(trainer: TrainerSection, started: int) -> None:
    """Check the configured number of processes against the number that a launcher has started.

    Raises
    ------
    ConfigError
        When they differ, or when several machines need a launcher.
    """
    asked = f"trainer.devices={trainer.devices} trainer.num_nodes={trainer.num_nodes}"
    if started == 1 and trainer.num_nodes > 1:
        raise ConfigError(
            f"trainer.num_nodes: {trainer.num_nodes} machines need a launcher that starts this command on "
            "each: torchrun, srun or Kubeflow (docs/scale.md)"
        )
    if started > 1 and started != trainer.processes:
        raise ConfigError(
            f"the launcher has started {started} processes, but {asked} are {trainer.processes}; give "
            "trainer=ddp, with trainer.devices of one machine and trainer.num_nodes"
        )


def check_evaluate_settings(cfg: DictConfig) -> EvaluateSettings:
    """Check a composed evaluate configuration.

    Raises
    ------
    ConfigError
        All problems at once.
    """
    settings = validate(EvaluateSettings, plain(cfg), "configuration")
    start, end = settings.evaluate.start, settings.evaluate.end
    if start is not None and end is not None and end < start:
        raise ConfigError(f"configuration: evaluate.end: {end} is before evaluate.start, {start}")
    if settings.evaluate.save_intervals and settings.evaluate.as_consumed:
        raise ConfigError(
            "configuration: evaluate.save_intervals: intervals of what Kapacity's job serves are not the "
            "artifact's own; leave out evaluate.as_consumed"
        )
    return settings


def check_forecast_settings(cfg: DictConfig) -> ForecastSettings:
    """Check a composed forecast configuration.

    Raises
    ------
    ConfigError
        All problems at once.
    """
    return validate(ForecastSettings, plain(cfg), "configuration")


def built(node: DictConfig, name: str, /, **arguments: Any) -> Any:
    """Build the object that a config node describes.

    Parameters
    ----------
    name:
        Key of the node, for messages.
    arguments:
        Further arguments, which no configuration can hold.

    Raises
    ------
    ConfigError
        When the class is not allowed, or refuses its arguments.
    """
    check_classes(node, name)
    try:
        node, texts = _without_dollars(node)
        arguments = texts | arguments
        # In two steps: instantiate() would turn dataclasses among the arguments into configs.
        return instantiate(node, _partial_=True)(**arguments)
    except OSError:
        raise
    except Exception as error:  # each library raises its own types for a wrong argument
        if found := ours(error):
            raise found from error
        cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        if isinstance(cause, ValidationError):
            raise ConfigError(list_problems("configuration", problems_of(cause, name))) from error
        reason = without_secrets(" ".join(str(cause).split())) or type(cause).__name__
        raise ConfigError(f"{name}: {reason}") from error


def _without_dollars(node: DictConfig) -> tuple[DictConfig, dict[str, Any]]:
    """Take the values that contain ``${`` out of a node: instantiate() would resolve them a second time."""
    content = OmegaConf.to_container(node, resolve=True)
    assert isinstance(content, dict)
    texts = {str(key): value for key, value in content.items() if _has_dollar(value)}
    if not texts:
        return node, {}
    return OmegaConf.create({key: value for key, value in content.items() if key not in texts}), texts


def _has_dollar(value: Any) -> bool:
    if isinstance(value, dict):
        return "_target_" not in value and any(map(_has_dollar, value.values()))
    if isinstance(value, list):
        return any(map(_has_dollar, value))
    return isinstance(value, str) and "${" in value


def source_of(cfg: DictConfig) -> Any:
    """Build the configured source and run its checks that need no data.

    Raises
    ------
    ConfigError, DataError
        When the source refuses its settings, or has nothing to read or to query.
    """
    source = built(cfg.source, "source")
    check = getattr(source, "check", None)
    if check is not None:
        check()
    return source


def events_of(path: str | None, source: Any) -> KnownEvents | None:
    """The events in a file, whose times without a zone are those of the source; None without a file.

    Raises
    ------
    ConfigError
        All problems of the file at once.
    """
    return None if path is None else KnownEvents.read(path, getattr(source, "timezone", None))


def window_of(section: WindowSection) -> Window:
    """The configured window."""
    return Window(Frequency.parse(section.freq), section.context_length, section.prediction_length)


def check_step(source: Any, window: Window) -> None:
    """Refuse a source whose step is longer than a bin.

    Raises
    ------
    ConfigError
        Naming both lengths.
    """
    step = getattr(source, "step", None)
    if step is not None and step > window.frequency.step:
        raise ConfigError(
            f"source.step: {step} s is coarser than the bins of {window.frequency.name} (window.freq), so "
            f"that most would stay empty; at most {window.frequency.step} s"
        )


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as plain values with resolved interpolations.

    Raises
    ------
    ConfigError
        When a value is missing, an interpolation leads nowhere, a ``_target_`` is not allowed, or a secret is
        in plain text.
    """
    _check_secrets(cfg)
    missing = sorted(OmegaConf.missing_keys(cfg))
    source = cfg.get("source") or {}  # not every verb has one
    if missing == ["source.path"] or ("path" in source and not missing and source["path"] is None):
        raise ConfigError(NO_SOURCE)
    if missing:
        raise ConfigError(f"no value for {', '.join(missing)}; give it on the command line: {missing[0]}=...")
    try:
        content = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    assert isinstance(content, dict)
    check_names(content)
    return {str(key): value for key, value in content.items()}


def recorded(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as an artifact records it: plain values without possible secrets.

    Interpolations like ``${oc.env:TOKEN}`` stay unresolved, and so do all interpolations of the source.
    """
    written = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(written, dict)
    found: dict[str, Any] = named_only(plain(cfg), written)
    return found | {"source": written["source"]}


def _check_secrets(cfg: DictConfig) -> None:
    try:
        check_content(OmegaConf.to_container(cfg, resolve=False))
    except ConfigError:
        # The secret came from a file, and Hydra has already recorded it.
        if HydraConfig.initialized() and (folder := HydraConfig.get().output_subdir) is not None:
            forget(Path(HydraConfig.get().runtime.output_dir) / folder)
        raise
