"""Explain errors of Hydra and OmegaConf in one line, with the nearest valid name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from hydra.errors import OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kforecast.config.compose import composed
from kforecast.config.conf_dir import CONF_DIR
from kforecast.errors import ConfigError
from kforecast.validation import nearest

# Options of hydra/launcher, and the extra that installs each.
EXTRAS = {
    "joblib": "joblib",
    "ray": "ray",
    "ray_aws": "ray",
    "submitit_local": "submitit",
    "submitit_slurm": "submitit",
}


def explain(error: Exception, config_name: str, arguments: Sequence[str] = ()) -> ConfigError:
    """Turn an error of Hydra or OmegaConf into one line that suggests the nearest valid name.

    Parameters
    ----------
    config_name:
        The primary config that was composed.
    arguments:
        The command line. Config groups that it adds (``+group=option``) bring keys of their own.
    """
    text = str(error)
    if isinstance(error, OverrideParseException):
        # The last line is a link; some of the others repeat the override and mark a place in it.
        said = [line for line in text.splitlines()[:-1] if error.override not in line and line.strip(" ^")]
        return ConfigError(": ".join([f"cannot read the override {error.override}", *said]))
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match[1].partition("@")[0]
        known = _known_keys(config_name, arguments)
        if key in known:
            return ConfigError(f"{key} is not a key of the chosen options (--cfg job shows all keys)")
        return ConfigError(f"unknown key {key}{nearest(key, known)} (--cfg job shows all keys)")
    if match := re.search(r"Could not find '([^']+)'", text):
        group, _, option = match[1].rpartition("/")
        options = re.findall(r"^\t(\S+)$", text, flags=re.MULTILINE)
        if group == "hydra/launcher" and option in EXTRAS:
            return ConfigError(
                f"the launcher {option} is not installed: pip install 'kforecast[{EXTRAS[option]}]'"
            )
        listed = f"; available: {', '.join(options)}" if options else ""
        if group == "window":
            listed += "; another bin width: window.freq=2H"
        if not group:
            return ConfigError(f"unknown config {option!r}{listed}")
        return ConfigError(
            f"unknown option {option!r} of the group {group}{nearest(option, options)}{listed}"
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if isinstance(error.__cause__, OmegaConfBaseException):
        lines.append(str(error.__cause__).splitlines()[0])
    return ConfigError(": ".join(dict.fromkeys(lines)) or type(error).__name__)


def config_groups() -> list[str]:
    """The config groups of ``conf/``."""
    return [path.name for path in CONF_DIR.iterdir() if path.is_dir()]


def _known_keys(config_name: str, arguments: Sequence[str]) -> list[str]:
    groups = config_groups()
    added = [word for word in arguments if word.startswith("+") and word[1:].partition("=")[0] in groups]
    keys = [*_keys(OmegaConf.to_container(composed(config_name, added), resolve=False))]
    return keys + [group for group in groups if group not in keys]


def _keys(tree: Any, prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{key}.")
