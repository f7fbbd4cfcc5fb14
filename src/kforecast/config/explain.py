"""Errors of Hydra and OmegaConf in one line, with the nearest valid name."""

from __future__ import annotations

import re
import sys

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from kforecast.config.checks import CONF_DIR
from kforecast.errors import ConfigError
from kforecast.validation import nearest

# Options of hydra/launcher that an extra of ours installs.
EXTRAS = {
    "joblib": "joblib",
    "ray": "ray",
    "ray_aws": "ray",
    "submitit_local": "submitit",
    "submitit_slurm": "submitit",
}


def explain(error: Exception, config_name: str) -> ConfigError:
    """Hydra's words for a wrong command line, in one line and with the nearest right one."""
    text = str(error)
    if isinstance(error, OverrideParseException):
        # The last line is a link; of the others, some only repeat the override and mark a place in it.
        said = [line for line in text.splitlines()[:-1] if error.override not in line and line.strip(" ^")]
        return ConfigError(": ".join([f"cannot read the override {error.override}", *said]))
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match[1].partition("@")[0]
        known = _known_keys(config_name)
        if key in known:
            return ConfigError(
                f"{key} is no key of what the other arguments choose (--cfg job shows all keys)"
            )
        return ConfigError(f"unknown key {key}{nearest(key, known)} (--cfg job shows all keys)")
    if match := re.search(r"Could not find '([^']+)'", text):
        group, _, option = match[1].rpartition("/")
        options = re.findall(r"^\t(\S+)$", text, flags=re.MULTILINE)
        if group == "hydra/launcher" and option in EXTRAS:
            return ConfigError(
                f"the launcher {option} is not installed: pip install 'kforecast[{EXTRAS[option]}]'"
            )
        listed = f"; available: {', '.join(options)}" if options else ""
        if not group:
            return ConfigError(f"unknown config {option!r}{listed}")
        return ConfigError(
            f"unknown option {option!r} of the group {group}{nearest(option, options)}{listed}"
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if isinstance(error.__cause__, OmegaConfBaseException):
        lines.append(str(error.__cause__).splitlines()[0])
    return ConfigError(": ".join(dict.fromkeys(lines)) or type(error).__name__)


def _known_keys(config_name: str) -> list[str]:
    GlobalHydra.instance().clear()
    groups = _groups()
    # Those that are added on the command line bring keys too.
    added = [word for word in sys.argv[1:] if word.startswith("+") and word[1:].partition("=")[0] in groups]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose(config_name, added)
    keys: list[str] = []

    def walk(node: DictConfig, prefix: str) -> None:
        for key in map(str, node):
            keys.append(f"{prefix}{key}")
            child = node._get_node(key)
            if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
                walk(child, f"{prefix}{key}.")

    walk(cfg, "")
    return keys + [group for group in groups if group not in keys]


def _groups() -> list[str]:
    return [path.name for path in CONF_DIR.iterdir() if path.is_dir()]
