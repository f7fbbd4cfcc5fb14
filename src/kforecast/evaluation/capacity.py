"""Simulation of replicas: what scaling policies would have ordered, compared with the actual load."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, model_validator

# The policies that need no forecast.
REACTIVE, PERFECT = "reactive", "perfect"
# Rounding tolerance: three replicas serve a load of exactly three replicas.
_TOLERANCE = 1e-9
_COLUMNS = [
    "under_minutes",
    "unserved",
    "unserved_share",
    "replica_hours",
    "idle",
    "over_share",
    "scalings",
    "cost",
]


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
    max_replicas: Annotated[int, Field(ge=1)] = 100
    """Upper limit of an order."""
    lead_time: Annotated[int, Field(ge=0)] = 300
    """Seconds from an order until its replicas serve."""
    interval: Annotated[int, Field(ge=1)] | None = None
    """Seconds between decisions, rounded up to bins with a forecast; None to decide at every forecast."""
    headroom: Annotated[float, Field(ge=0)] = 0.0
    """Share added to the forecast."""
    cost_under: Annotated[float, Field(ge=0)] = 10.0
    """Cost of a replica-hour of unserved load."""
    cost_over: Annotated[float, Field(gt=0)] = 1.0
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


@dataclass(frozen=True)
class Timeline:
    """The load over the evaluated span, the same for all policies.

    Attributes
    ----------
    load:
        Actual mean load of each bin, float64 ``[series, bins]``; NaN where not observed.
    last:
        Newest observed value before the start of each bin, which a reactive rule sees, float64
        ``[series, bins]``; NaN if there is none.
    per_replica:
        Load that one replica serves, float64 ``[series]``.
    step:
        Seconds per bin.
    stride:
        Bins between origins: forecasts are made at bins 0, stride, 2 stride, ...
    """

    load: np.ndarray
    last: np.ndarray
    per_replica: np.ndarray
    step: int
    stride: int

    def __post_init__(self) -> None:
        if self.load.ndim != 2 or self.last.shape != self.load.shape:
            raise ValueError(f"load {self.load.shape} and last {self.last.shape} must be [series, bins]")
        if self.per_replica.shape != self.load.shape[:1] or not (self.per_replica > 0).all():
            raise ValueError("per_replica must be one number above 0 for each series")
        if self.step < 1 or self.stride < 1:
            raise ValueError(f"step ({self.step}) and stride ({self.stride}) must be at least 1")


@dataclass(frozen=True)
class Simulation:
    """The orders of every policy and their outcome.

    Attributes
    ----------
    outcomes:
        One row per policy (the index): the forecasts in their order, then ``reactive`` and ``perfect``.
        Columns are sums over all series and counted bins: ``under_minutes`` (time with more load than the
        replicas serve), ``unserved`` (unserved load in replica-hours), ``unserved_share`` (of the load; NaN
        without load), ``replica_hours``, ``idle`` (replica-hours), ``over_share`` (idle share of the
        replica-hours; NaN without replicas), ``scalings`` (changes of the count from one counted bin to the
        next) and ``cost``.
    series:
        The same by ``policy`` and ``series`` (number).
    replicas:
        Replicas in force by policy, int64 ``[series, bins]``; -1 without an order.
    counted:
        Bins on which all policies are judged, bool ``[series, bins]``: observed, and with an order of every
        policy in force.
    """

    outcomes: pd.DataFrame
    series: pd.DataFrame
    replicas: dict[str, np.ndarray]
    counted: np.ndarray


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


def simulate(settings: Capacity, timeline: Timeline, forecasts: Mapping[str, np.ndarray]) -> Simulation:
    """Order replicas by each forecast, by the last value (``reactive``) and by the actual load (``perfect``).

    With a lead of L bins and k bins between decisions, the order made at bin t is in force from bin t + L to
    before bin t + L + k, and is sized for the largest load forecast for them. A decision without a forecast
    repeats the previous order; after the last forecast of a series there are no more orders. Scaling down
    takes effect at the same time as scaling up. ``reactive`` equals a last-value forecast. ``perfect`` knows
    the load of the bins that it orders for, and has no headroom.

    Parameters
    ----------
    forecasts:
        By policy, float ``[series, bins, horizon]``: entry ``[s, t, h]`` is made at the start of bin t for
        bin t + h; NaN over the whole horizon if none was made. The last step is repeated beyond the horizon.

    Raises
    ------
    ValueError
        When a forecast has another shape, or is called ``reactive`` or ``perfect``.
    """
    if taken := {REACTIVE, PERFECT} & set(forecasts):
        raise ValueError(f"forecasts cannot be called {' or '.join(sorted(taken))}")
    replicas = {
        name: _in_force(settings, timeline, _forecast_peak(settings, timeline, forecast), settings.headroom)
        for name, forecast in forecasts.items()
    }
    replicas[REACTIVE] = _reactive(settings, timeline)
    counted = _counted(timeline, *replicas.values())
    replicas[PERFECT] = _in_force(settings, timeline, _actual_peak(settings, timeline), headroom=0.0)
    sums = pd.concat(
        {name: _sums(settings, timeline, count, counted) for name, count in replicas.items()},
        names=["policy", "series"],
    )
    return Simulation(
        outcomes=_with_shares(sums.groupby(level="policy", sort=False).sum()),
        series=_with_shares(sums).reset_index(),
        replicas=replicas,
        counted=counted,
    )


def costs_over_time(
    settings: Capacity, timeline: Timeline, simulation: Simulation, policy: str
) -> np.ndarray:
    """Cost of a policy in each bin, over all series, float64 ``[bins]``; 0 where no bin counts."""
    load = timeline.load / timeline.per_replica[:, None]
    spare = np.where(simulation.counted, simulation.replicas[policy] - load, 0.0)
    cost = np.where(spare > 0, settings.cost_over, -settings.cost_under) * spare
    summed: np.ndarray = cost.sum(axis=0) * (timeline.step / 3600)
    return summed


def headroom_curve(
    settings: Capacity,
    timeline: Timeline,
    forecast: np.ndarray,
    headrooms: Sequence[float],
    counted: np.ndarray | None = None,
) -> np.ndarray:
    """Cost of one forecast over all series at each headroom; the headroom in the settings is ignored.

    Parameters
    ----------
    forecast:
        As in :func:`simulate`.
    counted:
        Bins to judge on, bool ``[series, bins]``, as in a simulation with other forecasts; None for the bins
        of a simulation with this forecast alone.

    Returns
    -------
    float64 ``[headrooms]``.
    """
    peak = _forecast_peak(settings, timeline, forecast)
    # The bins with an order do not depend on the headroom.
    some = _in_force(settings, timeline, peak, headroom=0.0)
    own = _counted(timeline, some, _reactive(settings, timeline))
    counted = own if counted is None else own & counted
    costs = []
    for headroom in headrooms:
        replicas = _in_force(settings, timeline, peak, headroom)
        costs.append(_sums(settings, timeline, replicas, counted)["cost"].sum())
    return np.array(costs, dtype=np.float64)


def timing(settings: Capacity, step: int, stride: int) -> tuple[int, int]:
    """Bins from an order until it is in force, and bins between decisions (whole strides)."""
    lead = -(-settings.lead_time // step)
    return lead, stride * -(-(settings.interval or step) // (stride * step))


def _deciding(settings: Capacity, timeline: Timeline) -> slice:
    """The bins with a decision whose order takes effect within the span."""
    lead, interval = timing(settings, timeline.step, timeline.stride)
    return slice(0, max(0, timeline.load.shape[1] - lead), interval)


def _forecast_peak(settings: Capacity, timeline: Timeline, forecast: np.ndarray) -> np.ndarray:
    """The largest load forecast for the bins of each order, float64 ``[series, decisions]``."""
    if forecast.ndim != 3 or forecast.shape[:2] != timeline.load.shape or forecast.shape[2] == 0:
        raise ValueError(
            f"a forecast {forecast.shape} is not [series, bins, horizon] of {timeline.load.shape}"
        )
    lead, interval = timing(settings, timeline.step, timeline.stride)
    first = min(lead, forecast.shape[2] - 1)
    made = forecast[:, _deciding(settings, timeline), first : lead + interval]
    peak: np.ndarray = made.max(axis=2).astype(np.float64)
    return peak


def _actual_peak(settings: Capacity, timeline: Timeline) -> np.ndarray:
    """The largest load observed in the bins of each order, float64 ``[series, decisions]``."""
    lead, interval = timing(settings, timeline.step, timeline.stride)
    known = timeline.load[:, lead:]
    whole = np.pad(known, ((0, 0), (0, -known.shape[1] % interval)), constant_values=np.nan)
    peak: np.ndarray = np.fmax.reduce(whole.reshape(len(whole), whole.shape[1] // interval, interval), axis=2)
    # Before the first observed bin the order is sized for no load, so that there is always an order.
    peak[:, :1] = np.nan_to_num(peak[:, :1])
    return peak


def _reactive(settings: Capacity, timeline: Timeline) -> np.ndarray:
    """Replicas of the rule that orders for the newest observed value, int64 ``[series, bins]``."""
    return _in_force(settings, timeline, timeline.last[:, _deciding(settings, timeline)], settings.headroom)


def _in_force(settings: Capacity, timeline: Timeline, peak: np.ndarray, headroom: float) -> np.ndarray:
    """Replicas in force with orders sized for ``peak`` ``[series, decisions]``, int64 ``[series, bins]``."""
    lead, interval = timing(settings, timeline.step, timeline.stride)
    needed = np.ceil(peak * (1 + headroom) / timeline.per_replica[:, None] - _TOLERANCE)
    order = np.clip(needed, settings.min_replicas, settings.max_replicas)
    decided = np.where(np.isnan(peak), -1, np.arange(peak.shape[1]))
    newest = np.maximum.accumulate(decided, axis=1)
    # No forecasts are made near the end of a span, and orders must not become stale there.
    ended = np.arange(peak.shape[1]) > decided.max(axis=1, initial=-1, keepdims=True)
    known = (newest >= 0) & ~ended
    held = np.where(known, np.take_along_axis(order, np.maximum(newest, 0), axis=1), -1)
    replicas = np.full(timeline.load.shape, -1, dtype=np.int64)
    served = replicas[:, lead:]
    served[:] = np.repeat(held, interval, axis=1)[:, : served.shape[1]]
    return replicas


def _counted(timeline: Timeline, *replicas: np.ndarray) -> np.ndarray:
    """Observed bins in which all of these policies have an order in force, bool ``[series, bins]``."""
    counted: np.ndarray = ~np.isnan(timeline.load)
    for count in replicas:
        counted &= count >= 0
    return counted


def _sums(settings: Capacity, timeline: Timeline, replicas: np.ndarray, counted: np.ndarray) -> pd.DataFrame:
    """The sums of a policy, one row per series; ``load`` is in replica-hours too."""
    series = np.nonzero(counted)[0]
    load = (timeline.load / timeline.per_replica[:, None])[counted]
    count = replicas[counted]
    hours = timeline.step / 3600

    def total(values: np.ndarray) -> np.ndarray:
        summed: np.ndarray = np.bincount(series, values, len(counted))
        return summed

    # The tolerance does not vanish at zero replicas: rounding errors of the load must not count.
    above = load - count > _TOLERANCE * np.maximum(count, 1)
    unserved = total(np.maximum(load - count, 0)) * hours
    idle = total(np.maximum(count - load, 0)) * hours
    # Changes between counted bins of the same series.
    changed = (np.diff(count) != 0) & (np.diff(series) == 0)
    return pd.DataFrame(
        {
            "under_minutes": total(above) * timeline.step / 60,
            "unserved": unserved,
            "load": total(load) * hours,
            "replica_hours": total(count) * hours,
            "idle": idle,
            "scalings": np.bincount(series[1:][changed], minlength=len(counted)),
            "cost": settings.cost_under * unserved + settings.cost_over * idle,
        }
    )


def _with_shares(sums: pd.DataFrame) -> pd.DataFrame:
    """The columns of the results, with shares; a share of nothing is NaN."""
    shares = sums.assign(
        unserved_share=sums["unserved"] / sums["load"].where(sums["load"] > 0),
        over_share=sums["idle"] / sums["replica_hours"].where(sums["replica_hours"] > 0),
    )
    return shares[_COLUMNS]
