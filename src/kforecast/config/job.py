"""The run, or the job of a sweep, that this process works at, as Hydra knows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode


@dataclass(frozen=True)
class Job:
    """A run, or a job of a sweep.

    Attributes
    ----------
    name:
        ``train`` or ``retrain``: the name of its log file.
    run_dir:
        Its folder.
    overrides, hydra_overrides:
        The command line's, those of Hydra's own configuration apart.
    choices:
        The option that was chosen of each config group.
    number, id:
        Of the job in its sweep; None for a run of its own.
    """

    name: str
    run_dir: Path
    overrides: tuple[str, ...]
    hydra_overrides: tuple[str, ...]
    choices: Mapping[str, str | None]
    number: int | None = None
    id: str | None = None

    @classmethod
    def current(cls) -> Job:
        """The one that this process works at."""
        hydra = HydraConfig.get()
        of_sweep = hydra.mode == RunMode.MULTIRUN
        return cls(
            name=hydra.job.name,
            run_dir=Path(hydra.runtime.output_dir),
            overrides=tuple(hydra.overrides.task),
            hydra_overrides=tuple(hydra.overrides.hydra),
            choices=dict(hydra.runtime.choices),
            number=int(hydra.job.num) if of_sweep else None,
            id=str(hydra.job.id) if of_sweep else None,
        )

    @property
    def of_sweep(self) -> bool:
        """Whether it is one of several."""
        return self.number is not None

    @property
    def searches(self) -> bool:
        """Whether a search has proposed its settings."""
        return self.choices.get("hparams_search") is not None

    @property
    def values(self) -> dict[str, Any]:
        """The plain values of its overrides, by key."""
        parsed = OverridesParser.create().parse_overrides(list(self.overrides))
        values = {override.key_or_group: override.value() for override in parsed}
        return {name: value for name, value in values.items() if isinstance(value, bool | int | float | str)}

    @property
    def beside_others(self) -> bool:
        """Whether its sweep's launcher may run several jobs at once."""
        return self.of_sweep and self.choices["hydra/launcher"] != "basic"


def runs_beside_others() -> bool:
    """Whether this process works at a job of a sweep whose launcher may run several at once."""
    return Job.current().beside_others
