"""Dry-run instantiation of all components, before data is read.

The settings of optimizer, trainer, callbacks and loggers belong to libraries, and only these can check them.
The shipped settings are known to be right; torch is imported early only for settings of the user's own.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object
from omegaconf import DictConfig
from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from kforecast.config.checks import CONF_DIR, built
from kforecast.config.settings import TrainSettings
from kforecast.console import no_log_lines
from kforecast.errors import ConfigError
from kforecast.files.directory import check_writable
from kforecast.validation import list_problems, nearest

if TYPE_CHECKING:
    from kforecast.window import Window

_SECTIONS = ("model", "data", "optimizer", "trainer", "callbacks", "logger")
_ANY_CLASS = ConfigDict(arbitrary_types_allowed=True)
# One process, on a device that every machine has.
_ALONE = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto"}
_SILENT = {"logger": False, "enable_progress_bar": False}


def is_own_recipe() -> bool:
    """Whether the configuration has settings that only a library can check."""
    hydra = HydraConfig.get()
    known = {*_keys(TrainSettings)}
    for override in hydra.overrides.task:
        key = override.partition("=")[0].lstrip("+~").partition("@")[0]
        if key.partition(".")[0] in _SECTIONS and "." in key and key not in known:
            return True
    found = [Path(source.path) for source in hydra.runtime.config_sources if source.schema == "file"]
    return any(path != CONF_DIR for path in found) or hydra.runtime.choices.get("experiment") is not None


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        for inside in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(inside, type) and issubclass(inside, BaseModel):
                yield from _keys(inside, f"{prefix}{name}.")
                break
        else:
            yield f"{prefix}{name}"


def try_recipe(cfg: DictConfig, window: Window) -> None:
    """Build each component once, as far as that has no side effects.

    Raises
    ------
    ConfigError
        When a library refuses its settings.
    """
    # Libraries log each object that they build, and each failure.
    with no_log_lines(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _build_all(cfg, window)


def _build_all(cfg: DictConfig, window: Window) -> None:
    import torch
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.pytorch.callbacks import Checkpoint

    def build(name: str, node: Any, **arguments: Any) -> Any:
        _check(name, node, *arguments)
        return built(node, name, **arguments)

    _check("data", cfg.data, "source", "window", "seed", "folder", "lookback", "teacher", "local_bins")
    build("model", cfg.model, window=window, num_series=1)
    build("optimizer", cfg.optimizer, params=[torch.nn.Parameter(torch.zeros(1))])
    callbacks = [build(f"callbacks.{name}", node) for name, node in cfg.callbacks.items() if node is not None]
    for name, node in cfg.logger.items():
        if node is not None:
            _check(f"logger.{name}", node)  # building one may call a server
    _check("trainer", cfg.trainer, "callbacks", "plugins", "logger")
    built(
        cfg.trainer,
        "trainer",
        **_ALONE,
        **_SILENT,
        callbacks=callbacks,
        plugins=[LightningEnvironment()],
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
    )


def _check(name: str, node: Any, *given: str) -> None:
    """Refuse settings that do not fit the signature of their class.

    Building the class finds most of these too, but often without the name of the key.

    Parameters
    ----------
    given:
        Arguments that the code supplies, which no configuration may set.
    """
    from lightning.pytorch.loggers import TensorBoardLogger
    from torch.utils.tensorboard import SummaryWriter

    if not isinstance(node, DictConfig) or not isinstance(node.get("_target_"), str):
        raise ConfigError(f"{name}: {node!r} is not a mapping with a _target_")
    try:
        made = get_object(node._target_)
        parameters = {**_signature(made).parameters}
        if made is TensorBoardLogger:  # passes its other arguments on
            del parameters["kwargs"]
            parameters = {**_signature(SummaryWriter).parameters} | parameters
    except Exception as error:  # from importing the module of the class
        raise ConfigError(f"{name}: {' '.join(str(error).split())}") from error
    variadic = {key for key, one in parameters.items() if one.kind in (one.VAR_KEYWORD, one.VAR_POSITIONAL)}
    known = parameters.keys() - variadic - {*given}
    values = {str(key): value for key, value in node.items() if not str(key).startswith("_")}
    problems = [
        f"{key}: missing" for key in known - values.keys() if parameters[key].default is Parameter.empty
    ]
    for key, value in values.items():
        if key in given or (key not in known and not variadic):
            problems.append(f"{key}: unknown key{nearest(key, known)}")
        elif key in known and (wanted := _wanted(value, parameters[key])):
            problems.append(f"{key}: {value!r} is wrong; {wanted} is wanted")
        elif key in ("dirpath", "save_dir", "default_root_dir") and isinstance(value, str):
            check_writable(Path(value))
    if problems:
        raise ConfigError(
            list_problems("configuration", [f"{name}.{problem}" for problem in sorted(problems)])
        )


def _wanted(value: object, parameter: Parameter) -> str | None:
    """The type of a parameter in words, when a value does not have it."""
    kind, default = parameter.annotation, parameter.default
    if kind is Parameter.empty:
        return "a number" if isinstance(default, int | float) and isinstance(value, str) else None
    if isinstance(kind, str) or not isinstance(value, bool | int | float | str):
        return None
    try:
        # A path may be given as text, but no number stands for a truth value.
        TypeAdapter(kind, config=_ANY_CLASS).validate_python(value, strict=not isinstance(value, str))
    except ValidationError:
        return kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
    except PydanticUserError:  # a type that pydantic does not know
        return None
    return None


def _signature(made: Any) -> Signature:
    try:
        return signature(made, eval_str=True)
    except NameError:  # a type that only a type checker imports
        return signature(made)
