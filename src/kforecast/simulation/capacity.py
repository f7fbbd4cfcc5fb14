"""The scaling rules of ``capacity``, their costs, and the load that one replica serves."""

from typing import Annotated, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from kforecast.autoscaling.policy import MOST_REPLICAS
from kforecast.simulation.load import step_of
from kforecast.window import Frequency

# In longer bins nothing is known about the minutes in which pods start.
_LONGEST_BIN = 3600
# Beyond these a target is no longer a number of thousandths, and sums of costs are no longer exact.
_MOST_HEADROOM, _MOST_COST = 1000.0, 1e9


class Capacity(BaseModel):
    """Scaling rules of a cluster, and the costs of too few and too many replicas.

    The defaults are those of ``conf/capacity/default.yaml``.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    per_replica: Annotated[float, Field(gt=0)] | None = None
    """Load that one replica serves, in the metric's units; None to derive it from ``mean_replicas``."""
    mean_replicas: Annotated[float, Field(gt=0)] = 10
    """Replicas that the mean load before the evaluated span needs, if ``per_replica`` is None."""
    min_replicas: Annotated[int, Field(ge=0)] = 1
    """Lower limit of an order."""
    max_replicas: Annotated[int, Field(ge=1, le=MOST_REPLICAS)] = 100
    """Upper limit of an order."""
    lead_time: Annotated[int, Field(ge=0, le=86_400)] = 300
    """Seconds from an order until its replicas serve."""
    interval: Annotated[int, Field(ge=1, le=86_400)] | None = None
    """Seconds between decisions; None for those of a horizontal pod autoscaler."""
    headroom: Annotated[float, Field(ge=0, le=_MOST_HEADROOM)] = 0.0
    """Share added to the load that replicas are ordered for, forecast or newest."""
    cost_under: Annotated[float, Field(ge=0, le=_MOST_COST)] = 10.0
    """Cost of a replica-hour of unserved load."""
    cost_over: Annotated[float, Field(gt=0, le=_MOST_COST)] = 1.0
    """Cost of an idle replica-hour."""

    @model_validator(mode="after")
    def _some_count_is_allowed(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(
                f"max_replicas ({self.max_replicas}) is less than min_replicas ({self.min_replicas})"
            )
        return self

    @property
    def best_quantile(self) -> float:
        """The quantile of the load with the lowest expected cost when ordered for.

        This is the newsvendor's critical ratio ``cost_under / (cost_under + cost_over)`` (Arrow, Harris &
        Marschak 1951, Optimal inventory policy). Up to this quantile an additional replica is worth its
        price.
        """
        return self.cost_under / (self.cost_under + self.cost_over)

    @property
    def share(self) -> float:
        """Utilisation of a replica at the autoscaler's target, which leaves the headroom."""
        return 1 / (1 + self.headroom)


def per_replica(settings: Capacity, mean_load: np.ndarray) -> np.ndarray:
    """Load that one replica of each series serves, float64 ``[series]``.

    Parameters
    ----------
    mean_load:
        Mean load before the evaluated span, ``[series]``. If it is 0 or NaN, a replica serves a load of 1.
    """
    if settings.per_replica is not None:
        return np.full(mean_load.shape, settings.per_replica, dtype=np.float64)
    return np.where(mean_load > 0, mean_load.astype(np.float64) / settings.mean_replicas, 1.0)


def unfit(frequency: Frequency) -> str:
    """Why an evaluation cannot simulate replicas in bins of a width, as a clause; empty if it can."""
    if frequency.step > _LONGEST_BIN:
        return f"bins of {frequency.name} are longer than 1H"
    try:
        step_of(frequency.step)
    except ValueError as error:
        return str(error)
    return ""
