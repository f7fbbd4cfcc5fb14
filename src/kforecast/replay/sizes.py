"""Sizes: what a pod of each service serves, at most and at the autoscaler's target."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from kforecast.autoscaling.hpa import Metric
from kforecast.autoscaling.policy import Kind
from kforecast.errors import ConfigError
from kforecast.replay.capacity import Teaching, learned
from kforecast.simulation.capacity import Capacity, per_replica
from kforecast.simulation.load import Load

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

# What an unknown metric shows for a fully used pod: its values are cut to thousandths.
_UNIT = 1000.0
# Metrics of pods that are no traffic.
_RESOURCES = ("cpu", "memory")


@dataclass(frozen=True)
class Sizing:
    """What is given about the size of pods.

    Attributes
    ----------
    capacity:
        Its ``per_replica`` or ``mean_replicas``.
    metric:
        The autoscaler's metric where the policy names none: the total load, or the utilisation of pods.
    target_share:
        Utilisation of a pod at the autoscaler's target, where the target is no utilisation.
    teaching:
        What the load per replica is learned from; None to learn nothing.
    requests:
        What a pod requests of each resource, in the units of the history.
    """

    capacity: Capacity
    metric: Literal["traffic", "utilization"] = "traffic"
    target_share: float = 0.7
    teaching: Teaching | None = None
    requests: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Sizes:
    """The capacity of a pod and the autoscaler's target.

    Attributes
    ----------
    capacity, share, units:
        See :class:`~kforecast.simulation.simulation.Services`.
    kind, metric:
        See :class:`~kforecast.simulation.simulation.Setting`.
    targets:
        The autoscaler's own targets in the units of its metric, float64 ``[series]``.
    """

    capacity: np.ndarray
    share: np.ndarray
    kind: Kind
    metric: str
    units: np.ndarray
    targets: np.ndarray


def sizes(
    sizing: Sizing, metric: Metric | None, at_target: np.ndarray | None, mean: np.ndarray, notes: list[str]
) -> Sizes:
    """The sizes of each service.

    Parameters
    ----------
    metric:
        The metric that the replay stands for; None if the policy has none.
    at_target:
        Load per replica at the target, if it was learned, float64 ``[series]``.
    mean:
        Mean load of each service, float64 ``[series]``.

    Raises
    ------
    ConfigError
        When a pod at its target would be full.
    """
    given, count = sizing.capacity.per_replica, len(mean)
    kind: Kind = "value_per_pod_total" if sizing.metric == "traffic" else "utilization"
    share, target, name = sizing.target_share, None, "load"
    if metric is not None:
        kind, name = metric.kind, metric.name
        if gives_load(metric):
            target = metric.target
        elif kind == "utilization":
            share = metric.target / 100
    if target is not None:
        capacity = target / share if given is None else given
        if target >= capacity:
            raise ConfigError(
                f"policy: the target, {target:g} of {name}, is not below what one "
                f"pod serves at most, capacity.per_replica={capacity:g}; the autoscaler would "
                "always be too late"
            )
        if given is None:
            notes.append(
                f"A pod is taken to serve at most {capacity:g}, so that it is used to {share:.0%} at the "
                f"target, {target:g}; set capacity.per_replica or replay.target_share."
            )
        each = np.full(count, capacity)
        return Sizes(each, np.full(count, target / capacity), kind, name, each, np.full(count, target))
    if at_target is not None:
        each = at_target / share
    elif given is not None:
        each = np.full(count, given)
    else:
        each = per_replica(sizing.capacity, mean)
        notes.append(
            f"The capacity of a pod is not known: {sizing.capacity.mean_replicas:g} fully used pods are "
            "taken to serve each service's mean load; set capacity.per_replica, replay.learn.replicas or "
            "policy.manifest."
        )
    own = np.full(count, 100 * share) if kind == "utilization" else each * share
    return Sizes(each, np.full(count, share), kind, name, np.full(count, _UNIT), own)


def gives_load(metric: Metric | None) -> bool:
    """Whether the target of a metric is a load per pod."""
    return metric is not None and metric.kind != "utilization" and metric.name not in _RESOURCES


def mean_before(load: Load, begin: int) -> np.ndarray:
    """Mean load before a moment, else after it where it was 0, float64 ``[series]``."""
    stop = max(1, (begin - load.start) // load.width)

    def mean(part: slice) -> np.ndarray:
        known = load.observed[:, part]
        total = np.where(known, load.values[:, part], 0).sum(axis=1, dtype=np.float64)
        found: np.ndarray = total / np.maximum(known.sum(axis=1), 1)
        return found

    before = mean(slice(stop))
    return np.where(before > 0, before, mean(slice(stop, None)))


def learned_at_target(
    frame: pd.DataFrame, series: Sequence[tuple[str, str]], teaching: Teaching, seed: int
) -> np.ndarray:
    """Load per replica at the target, learned for each service, float64 ``[series]``.

    Raises
    ------
    DataError
        When it cannot be known, with the reason and the remedy.
    """
    groups = dict(iter(frame.groupby("workload", observed=True)))
    found = []
    for workload, metric in series:
        one = learned(groups[workload], metric, teaching, f"{workload} {metric}", seed)
        log.info(
            "%s %s: %.4g per replica at the target (95 %% interval %.4g to %.4g, %s moments)",
            workload, metric, one.value, one.low, one.high, f"{one.moments:,}",
        )  # fmt: skip
        found.append(one.value)
    return np.array(found)
