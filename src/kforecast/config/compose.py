"""Compose configurations, and leave Hydra's global state as it was.

Hydra keeps its state in singletons of the process, and its resolvers in OmegaConf. Only this module saves and
restores them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobRuntime
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf, open_dict

from kforecast.config.conf_dir import CONF_DIR

# Singletons that a composition changes; all others are shared.
_CHANGED = (GlobalHydra, HydraConfig, JobRuntime, VersionBase)
_KEPT = (*_CHANGED, ConfigStore, Plugins)
_one_at_a_time = threading.Lock()


def composed(
    config_name: str,
    overrides: Sequence[str] = (),
    *,
    values: Mapping[str, Any] | None = None,
    output_dir: str | None = None,
) -> DictConfig:
    """Compose a configuration of ``conf/``, also inside of somebody else's Hydra application.

    Parameters
    ----------
    config_name:
        The primary config, for instance ``train``.
    overrides:
        As on the command line.
    values:
        Values by dotted key, set after the overrides and exempt from their grammar.
    output_dir:
        The run's folder. With one, all interpolations are resolved; without, they stay as they are written.

    Returns
    -------
    The configuration without its ``hydra`` node.

    Raises
    ------
    HydraException, OmegaConfBaseException
        When an override is wrong; :func:`kforecast.config.explain.explain` says how.
    """
    with _own_state():
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            cfg = compose(config_name, list(overrides), return_hydra_config=True)
        with open_dict(cfg):
            if output_dir is not None:
                cfg.hydra.runtime.output_dir = output_dir
                HydraConfig.instance().set_config(cfg)
            del cfg["hydra"]
        for key, value in (values or {}).items():
            OmegaConf.update(cfg, key, value, merge=False)
        if output_dir is not None:
            OmegaConf.resolve(cfg)
    return cfg


@contextmanager
def hydra_config_kept() -> Iterator[None]:
    """Restore ``HydraConfig`` after the block.

    By assignment, as in Hydra's own ``run_job``: ``set_config`` does not accept None.
    """
    instance = HydraConfig.instance()
    before = instance.cfg
    try:
        yield
    finally:
        instance.cfg = before


@contextmanager
def _own_state() -> Iterator[None]:
    """Let Hydra work on new singletons inside the block; one block at a time."""
    with _one_at_a_time:
        own = {kind: kind.instance() for kind in _KEPT}  # before the copy: plugins register others
        state = Singleton.get_state()  # copies of all, and OmegaConf's resolvers
        kept = state["instances"] | own
        fresh = {kind: found for kind, found in kept.items() if kind not in _CHANGED}
        Singleton.set_state(state | {"instances": fresh})
        try:
            yield
        finally:
            Singleton.set_state(state | {"instances": kept})
