"""What a training is put together from, tried before data is read.

Settings of optimizer, trainer, callbacks and loggers belong to libraries, which alone know whether they are
right. Those that ship are; torch is loaded early only where some are the user's own.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from kforecast.config.checks import CONF_DIR, built
from kforecast.config.settings import TrainSettings
from kforecast.errors import ConfigError
from kforecast.files.directory import check_writable
from kforecast.validation import list_problems, nearest

if TYPE_CHECKING:
    from kforecast.window import Window

_SECTIONS = ("model", "data", "optimizer", "trainer", "callbacks", "logger")
_ANY_CLASS = ConfigDict(arbitrary_types_allowed=True)
# Without what else a process of a group says, and on a device that every machine has.
_ALONE = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto"}


def is_own_recipe() -> bool:
    """Whether a setting may be wrong that no check of ours knows."""
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
    """Make once what a training is put together from, as far as that has no effect.

    Raises
    ------
    ConfigError
        When a library refuses its settings.
    """
    # Of libraries, which tell of what is made and of what fails.
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _try(cfg, window)
    finally:
        logging.disable(before)


def _try(cfg: DictConfig, window: Window) -> None:
    import torch
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.pytorch.callbacks import Checkpoint

    _check_keys(cfg.data, "source", "window", "seed", "folder", "lookback", "teacher")
    _check_keys(cfg.model, "window", "num_series")
    built(cfg.model, window=window, num_series=1)
    _check_keys(cfg.optimizer, "params")
    built(cfg.optimizer, params=[torch.nn.Parameter(torch.zeros(1))])
    callbacks = []
    for node in _nodes(cfg.callbacks):
        _check_keys(node)
        callbacks.append(built(node))
    for node in _nodes(cfg.logger):
        _check_keys(node)  # to make one may mean to ask a server
    _check_keys(cfg.trainer, "callbacks", "plugins", "logger")
    trainer = cfg.trainer.copy()
    OmegaConf.set_struct(trainer, False)
    trainer.pop("gradient_clip_val", None)
    built(
        trainer,
        **_ALONE,
        callbacks=callbacks,
        plugins=[LightningEnvironment()],
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
    )


def _nodes(section: DictConfig) -> Iterator[DictConfig]:
    for name, node in ((str(name), node) for name, node in section.items()):
        if isinstance(node, DictConfig):
            yield node
        elif node is not None:
            raise ConfigError(
                f"{section._get_full_key('')}.{name}: {node!r} is not a mapping with a _target_"
            )


def _check_keys(node: DictConfig, *given: str) -> None:
    """Refuse what a class does not take; ``given`` are arguments that no configuration holds."""
    from lightning.pytorch.loggers import TensorBoardLogger
    from torch.utils.tensorboard import SummaryWriter

    name = node._get_full_key("")
    if not isinstance(node.get("_target_"), str):
        raise ConfigError(f"{name}._target_: {node.get('_target_')!r} is not the name of a class")
    try:
        made = get_object(node._target_)
        parameters = {**inspect.signature(made).parameters}
        if made is TensorBoardLogger:  # hands on what it does not know
            del parameters["kwargs"]
            parameters = {**inspect.signature(SummaryWriter).parameters} | parameters
    except Exception as error:  # of importing whatever is named there
        raise ConfigError(f"{name}: {' '.join(str(error).split())}") from error
    names = {key for key, one in parameters.items() if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)}
    own = {str(key) for key in node if not str(key).startswith("_")}
    problems = [
        f"{name}.{key}: unknown key{nearest(key, names - {*given})}"
        for key in sorted(own - names | own & {*given})
        if key in given or names == {*parameters}
    ]
    needed = (key for key in names - own - {*given} if parameters[key].default is inspect.Parameter.empty)
    problems += [f"{name}.{key}: missing" for key in sorted(needed)]
    problems += _wrong_types(node, made, own & names - {*given})
    for key in sorted(own & names):  # where a class writes no types, text is no number
        bare = parameters[key].annotation is inspect.Parameter.empty
        if bare and isinstance(parameters[key].default, int | float) and isinstance(node[key], str):
            problems.append(f"{name}.{key}: {node[key]!r} is wrong; a number is wanted")
    if problems:
        raise ConfigError(list_problems("configuration", problems))
    for key in own & {"dirpath", "save_dir", "default_root_dir"}:
        if isinstance(node[key], str):
            check_writable(Path(node[key]))


def _wrong_types(node: DictConfig, made: object, keys: Iterable[str]) -> list[str]:
    """What is not of the type that a class wants, as far as that is written."""
    try:
        types = get_type_hints(vars(made).get("__init__", made) if isinstance(made, type) else made)
    except Exception:  # names that are only there for a type checker
        return []
    problems = []
    for key in sorted(keys & types.keys()):
        value = node[key]
        if isinstance(value, bool | int | float | str):
            try:
                kind: TypeAdapter[Any] = TypeAdapter(types[key], config=_ANY_CLASS)
                # A path may be given as text, but no number stands for a truth value.
                kind.validate_python(value, strict=not isinstance(value, str))
            except ValidationError:
                place = node._get_full_key(key)
                problems.append(f"{place}: {value!r} is wrong; {_said(types[key])} is wanted")
            except PydanticUserError:
                continue
    return problems


def _said(kind: object) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
