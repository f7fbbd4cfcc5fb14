"""The current job of a sweep."""

from __future__ import annotations

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode


def runs_beside_others() -> bool:
    """Whether this process runs a job of a sweep whose launcher may run several jobs at once."""
    hydra_config = HydraConfig.get()
    return hydra_config.mode == RunMode.MULTIRUN and hydra_config.runtime.choices["hydra/launcher"] != "basic"
