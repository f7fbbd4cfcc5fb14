"""Classes that a configuration may name with ``_target_``: foreign code is not run (SECURITY.md)."""

import importlib
import importlib.util
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from kforecast.errors import ConfigError
from kforecast.validation import list_problems

# Modules with allowed classes. Whole libraries are not allowed: parts of them run other code
# (lightning.pytorch.cli, torch.package, torch.utils.benchmark, every module they import).
_LIGHTNING = ("trainer", "callbacks", "loggers", "profilers", "strategies", "plugins", "accelerators")
_ALLOWED = (
    "kforecast",
    *(f"lightning.pytorch.{part}" for part in _LIGHTNING),
    *(f"lightning.fabric.{part}" for part in ("strategies", "plugins", "accelerators")),
    *("torch.optim", "torch.nn", "torchmetrics", "optuna.samplers"),
)
# Some of these classes are also exported here.
_SHORT = "lightning.pytorch"


def check_names(content: object, key: str = "") -> None:
    """Refuse each ``_target_`` that is not the name of an allowed class; this imports nothing.

    Raises
    ------
    ConfigError
        Naming all such keys.
    """
    problems = []
    for path, target in _targets(content, key):
        module, _, name = target.rpartition(".") if isinstance(target, str) else ("", "", "")
        # The name must be a module file and a class in it: names that a module imports lead elsewhere.
        in_place = (_is_below(module, _ALLOWED) or module == _SHORT) and _is_module(module)
        if not in_place or not re.fullmatch("[A-Z][A-Za-z0-9]*", name):
            problems.append(_refusal(path, target))
    if problems:
        raise ConfigError(list_problems("configuration", problems))


def check_classes(node: DictConfig, key: str) -> None:
    """Refuse a ``_target_`` in a node that is not an allowed class; this imports the class.

    Parameters
    ----------
    key:
        Key of the node, for the message.

    Raises
    ------
    ConfigError
        Naming the first such key.
    """
    content = OmegaConf.to_container(node, resolve=True)
    check_names(content, key)
    for path, target in _targets(content, key):
        module, _, name = target.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            continue  # Hydra reports it
        if not isinstance(found, type) or not _is_below(found.__module__, _ALLOWED):
            raise ConfigError(f"configuration: {_refusal(path, target)}")


def _targets(content: object, key: str = "") -> Iterator[tuple[str, Any]]:
    """Each ``_target_`` in plain values with its key."""
    if isinstance(content, dict):
        for name, value in content.items():
            path = f"{key}.{name}" if key else str(name)
            if name == "_target_":
                yield path, value
            yield from _targets(value, path)
    elif isinstance(content, list):
        for number, value in enumerate(content):
            yield from _targets(value, f"{key}[{number}]")


def _refusal(key: str, target: object) -> str:
    return (
        f"{key}: {target!r} is not a class that a configuration may name; those of {', '.join(_ALLOWED)} are"
    )


def _is_below(module: str, packages: tuple[str, ...]) -> bool:
    return module.startswith(tuple(f"{package}." for package in packages)) or module in packages


@lru_cache
def _is_module(name: str) -> bool:
    """Whether an installed package has this module, found without importing it."""
    package, *parts = name.split(".")
    spec = importlib.util.find_spec(package)
    places = spec.submodule_search_locations if spec is not None else None
    return bool(places) and any(
        all(re.fullmatch(r"[a-z]\w*", part) for part in parts)
        and ((path := Path(place, *parts)).is_dir() or path.with_suffix(".py").is_file())
        for place in places or ()
    )
