"""The setting to scale with: chosen on the older part of a history, by cost or by unserved load."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Literal

import numpy as np

from kforecast.simulation.drivers import BOTH, REACTIVE, Driver
from kforecast.simulation.forecasts import Question
from kforecast.simulation.outcomes import Outcomes, Prices
from kforecast.simulation.service import LATE, PODS, UNSERVED

# A pod at its target must stay below what it can serve at most.
MOST_SHARE = 0.95


@dataclass(frozen=True)
class Choice:
    """A way to scale.

    Attributes
    ----------
    artifact:
        Number of the artifact whose forecast counts beside the newest load; None for the newest load alone.
    question:
        The forecast that counts.
    target:
        Factor of the autoscaler's target.
    floor:
        Quantile of the load whose replicas are the lower limit; None for the autoscaler's own limit.
    """

    artifact: int | None = None
    question: Question = field(default_factory=lambda: Question(None, 0))
    target: float = 1.0
    floor: float | None = None


@dataclass(frozen=True)
class Grid:
    """The settings that are tried.

    Attributes
    ----------
    artifacts:
        Number of artifacts.
    questions:
        Quantiles and windows.
    targets, floors:
        As in :class:`Choice`.
    """

    artifacts: int
    questions: Sequence[Question]
    targets: Sequence[float]
    floors: Sequence[float | None]

    def choices(self) -> list[Choice]:
        """All settings: first the autoscaler as it is, then other targets, then forecasts."""
        alone = [Choice(target=target) for target in sorted(self.targets, key=lambda factor: factor != 1.0)]
        with_forecast = product(range(self.artifacts), self.questions, self.targets, self.floors)
        return alone + [Choice(*parts) for parts in with_forecast]

    def driver(self, choice: Choice, name: str | None = None) -> Driver:
        """The driver of a setting, whose forecasts are numbered by artifact and question."""
        floor = self.floors.index(choice.floor)
        if choice.artifact is None:
            return Driver(name or REACTIVE, target=choice.target, floor=floor)
        number = choice.artifact * len(self.questions) + list(self.questions).index(choice.question)
        return Driver(name or BOTH, "forecast", forecast=number, target=choice.target, floor=floor)


@dataclass(frozen=True)
class Aim:
    """What a setting is chosen for: the lowest cost, under limits.

    Attributes
    ----------
    unserved:
        Largest share of the load that may be unserved; ``today`` for that of the autoscaler as it is; None
        for no limit.
    replica_hours:
        Largest replica-hours, as a multiple of those of the autoscaler as it is; None for no limit.
    """

    unserved: float | Literal["today"] | None = None
    replica_hours: float | None = None

    def best(self, counts: np.ndarray, load: np.ndarray, prices: Prices, step: int) -> tuple[int, bool]:
        """The number of the best setting, and whether it keeps the limits.

        Parameters
        ----------
        counts:
            Of each setting, the autoscaler as it is first, ``[counts, settings]``.
        load:
            Demand, ``[]``, in pod-steps.
        """
        cost = prices.cost(counts, step)
        short = counts[UNSERVED] + counts[LATE]
        enough = np.ones(len(cost), bool)
        if self.unserved is not None:
            most = short[0] if self.unserved == "today" else self.unserved * load
            enough = short <= most + 1e-9
        allowed = enough.copy()
        if self.replica_hours is not None:
            allowed &= counts[PODS] <= self.replica_hours * counts[PODS][0] + 1e-9
        if allowed.any():
            return int(np.argmin(np.where(allowed, cost, np.inf))), True
        if not enough.any():
            return int(np.argmin(short)), False
        return int(np.argmin(np.where(enough, counts[PODS], np.inf))), False


@dataclass(frozen=True)
class Advice:
    """The settings chosen.

    Attributes
    ----------
    fleet:
        For all services together.
    kept:
        Whether it keeps the limits on the older part.
    series:
        For single services, by number.
    """

    fleet: Choice
    kept: bool
    series: dict[int, Choice]


def advice(
    choices: Sequence[Choice], older: Outcomes, prices: Prices, aim: Aim, numbers: np.ndarray
) -> Advice:
    """Choose from the outcomes of all settings on the older part.

    Parameters
    ----------
    numbers:
        Numbers of the services in the outcomes, int64 ``[series]``.
    """
    counts, load = older.counts.sum(axis=0), older.load.sum(axis=0)
    fleet, kept = aim.best(counts.sum(axis=2), load.sum(), prices, older.step)
    series = {
        int(number): choices[aim.best(counts[:, :, row], load[row], prices, older.step)[0]]
        for row, number in enumerate(numbers)
    }
    return Advice(choices[fleet], kept, series)
