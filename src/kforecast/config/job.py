"""The job of a sweep that this process runs."""

from __future__ import annotations

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode


def runs_beside_others() -> bool:
    """Whether this is a job of a sweep whose launcher may run several at once."""
    hydra_config = HydraConfig.get()
    return hydra_config.mode == RunMode.MULTIRUN and hydra_config.runtime.choices["hydra/launcher"] != "basic"
