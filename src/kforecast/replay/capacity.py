"""The load that one replica serves: given, read from the autoscaler's target, or learned from history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kforecast.errors import DataError
from kforecast.scaling.replicas import Observed

if TYPE_CHECKING:
    import pandas as pd

_DAY = 86_400
# Fewer moments, or days, tell nothing.
_FEWEST, _FEWEST_DAYS = 30, 3
# Shares of the target between which a replica counts as loaded up to its target.
_AT_TARGET = (0.8, 1.1)
# The busier half of the moments tells what a replica is given when it matters.
_BUSY = 0.5
# Below this correlation the replicas do not follow the traffic.
_FOLLOWS = 0.5
_RESAMPLES, _TAIL = 1000, 0.025


@dataclass(frozen=True)
class Learned:
    """The load per replica at the autoscaler's target, of one service.

    Attributes
    ----------
    value:
        The load, in the traffic's units.
    low, high:
        Bounds of its 95 % interval, by a bootstrap over days.
    moments:
        Number of moments (of five minutes) that it rests on.
    """

    value: float
    low: float
    high: float
    moments: int


@dataclass(frozen=True)
class Teaching:
    """What capacity is learned from.

    Attributes
    ----------
    replicas:
        Name of the metric with the number of replicas, of the same workload as the traffic.
    resource:
        Name of the metric with the resource that all replicas use; None if there is none.
    target:
        Resource per replica at the autoscaler's target; None without a resource.
    """

    replicas: str
    resource: str | None = None
    target: float | None = None


def learned(history: pd.DataFrame, traffic: str, teaching: Teaching, name: str, seed: int = 0) -> Learned:
    """Learn the load per replica at the target from the history of one workload.

    With a resource: the traffic per replica when the resource per replica was near its target. Without: the
    traffic per replica in the busier half of the time, provided that the replicas follow the traffic.

    Parameters
    ----------
    history:
        Long frame of one workload (contract 3).
    traffic:
        Name of its traffic's metric.
    name:
        Name of the service in messages.

    Raises
    ------
    DataError
        When it cannot be known, with the reason and the remedy.
    """
    observed = Observed.of(history, [traffic], teaching.replicas, teaching.resource)
    per_replica = observed.traffic[:, 0] if len(observed.moments) else np.zeros(0)
    days = observed.moments // _DAY
    if len(per_replica) < _FEWEST or len(np.unique(days)) < _FEWEST_DAYS:
        wanted = [traffic, teaching.replicas, *([teaching.resource] if teaching.resource else [])]
        raise _unknown(
            name,
            f"{' and '.join(wanted)} have only {len(per_replica):,} common moments (of 5 minutes, with at "
            f"least one replica) on {len(np.unique(days))} days; {_FEWEST} on {_FEWEST_DAYS} days are needed",
        )
    if observed.resource is None or teaching.target is None:
        chosen = _busy(observed, history, traffic, teaching.replicas, name)
    else:
        share = observed.resource / teaching.target
        chosen = (share >= _AT_TARGET[0]) & (share <= _AT_TARGET[1]) & (per_replica > 0)
        if np.count_nonzero(chosen) < _FEWEST or len(np.unique(days[chosen])) < _FEWEST_DAYS:
            raise _unknown(
                name,
                f"{teaching.resource} per replica was near its target, {teaching.target:g}, at only "
                f"{np.count_nonzero(chosen):,} of {len(share):,} moments (its median is "
                f"{np.median(share):.0%} of it)",
            )
        per_replica = per_replica / np.where(share > 0, share, np.inf)
    return _with_interval(per_replica[chosen], days[chosen], seed)


def _busy(observed: Observed, history: pd.DataFrame, traffic: str, replicas: str, name: str) -> np.ndarray:
    """The moments with the larger half of the traffic, bool ``[moments]``."""
    of_replicas = history[history["metric"] == replicas]
    count = of_replicas.groupby(of_replicas["timestamp"] // 300)["value"].median()
    at = np.asarray(count.reindex(observed.moments // 300).to_numpy(), np.float64)
    total = observed.traffic[:, 0] * at
    if np.ptp(at) == 0:
        raise _unknown(
            name,
            f"{replicas} is {at[0]:g} all the time, so nothing shows how much more one replica could serve",
        )
    follows = float(np.corrcoef(total, at)[0, 1]) if np.ptp(total) > 0 else 0.0
    if not follows >= _FOLLOWS:
        raise _unknown(
            name,
            f"{replicas} does not follow {traffic} (correlation {follows:.2f}, at least {_FOLLOWS} is "
            "needed), so the traffic per replica is no target",
        )
    chosen: np.ndarray = total >= np.quantile(total, _BUSY)
    return chosen & (total > 0)


def _unknown(name: str, reason: str) -> DataError:
    return DataError(
        f"capacity of {name} cannot be learned: {reason}; give capacity.per_replica=NUMBER, a longer "
        "history, or learn from another metric"
    )


def _with_interval(values: np.ndarray, days: np.ndarray, seed: int) -> Learned:
    """The median, with an interval over whole days: moments of one day are alike."""
    each: Sequence[np.ndarray] = [values[days == day] for day in np.unique(days)]
    # The median of day medians is as good as that of all moments, and quick to draw again.
    middle = np.array([np.median(one) for one in each])
    weight = np.array([len(one) for one in each], np.float64)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(middle), (_RESAMPLES, len(middle)))
    low, high = np.quantile(np.average(middle[drawn], axis=1, weights=weight[drawn]), [_TAIL, 1 - _TAIL])
    value = float(np.median(values))
    return Learned(value, float(min(low, value)), float(max(high, value)), len(values))
