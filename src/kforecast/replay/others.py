"""The policy's other metrics: which of them a history knows, beside the one that drivers order by."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kforecast.autoscaling.hpa import Metric
from kforecast.autoscaling.policy import Policy
from kforecast.data.panel import Panel
from kforecast.errors import ConfigError, few
from kforecast.replay.load import Load, held
from kforecast.replay.seen import Other


def metrics_of(policy: Policy) -> list[Metric]:
    """The metrics of a policy; none if it has none of its own."""
    return list(getattr(policy, "metrics", getattr(policy, "triggers", [])))


def first_metric(policy: Policy, traffic: Collection[str]) -> Metric | None:
    """The metric that drivers order by; None if the policy has none.

    It is the one with the name of the traffic, a total before a mean over pods, else the first that is no
    value as it is.

    Parameters
    ----------
    traffic:
        Names of the metrics of the series.

    Raises
    ------
    ConfigError
        When the relation of every metric to the replicas is unknown.
    """
    metrics = metrics_of(policy)
    usable = [metric for metric in metrics if metric.kind != "value"]
    if metrics and not usable:
        raise ConfigError(
            f"policy: {metrics[0].name} is compared with a value as it is, and nothing in a history of "
            "traffic says how it would follow the replicas; replay a metric with averageValue or "
            "averageUtilization"
        )
    of_traffic = [metric for metric in usable if metric.name in traffic]
    of_traffic.sort(key=lambda metric: metric.kind != "value_per_pod_total")
    return next(iter(of_traffic or usable), None)


@dataclass(frozen=True)
class Recorded:
    """What is known about the metrics of pods.

    Attributes
    ----------
    fine:
        The whole history in the bins of the load.
    requests:
        What a pod requests of each resource, in the units of the history.
    load:
        The load; its movements inside bins are those of the other metrics, too.
    """

    fine: Panel
    requests: Mapping[str, float]
    load: Load


def others_of(
    policy: Policy, first: Metric | None, series: Sequence[tuple[str, str]], recorded: Recorded
) -> tuple[list[Other], list[str]]:
    """The other metrics that the history knows, and a note on them.

    Parameters
    ----------
    first:
        The metric that drivers order by.
    series:
        The services, as workload and metric of their traffic.
    """
    found, left, partly = list[Other](), list[str](), list[str]()
    for metric in metrics_of(policy):
        if metric is first:
            continue
        reason = _unknown(metric, series, recorded)
        if reason:
            left.append(f"{metric.name} ({reason})")
            continue
        other = _other(metric, series, recorded)
        found.append(other)
        if not other.known.all():
            without = np.count_nonzero(~other.known)
            partly.append(f"{metric.name} is in the history of all but {without:,} services.")
    if first is None or not (found or left):
        return found, []
    said = f"The policy has {len(metrics_of(policy))} metrics. Drivers order by {first.name}"
    if found:
        said += f"; {few([other.name for other in found])} is read from the history"
    if left:
        said += f"; the others are not replayed: {few(left)}"
    return found, [f"{said}.", *partly]


def _unknown(metric: Metric, series: Sequence[tuple[str, str]], recorded: Recorded) -> str | None:
    """Why a metric's relation to the replicas is unknown; None if it is known."""
    if metric.kind == "value":
        return "compared with a value as it is"
    if not {(workload, metric.name) for workload, _ in series} & {*recorded.fine.series}:
        return "not in the history"
    if metric.kind == "utilization" and metric.name not in recorded.requests:
        return f"give what a pod requests, replay.requests={{{metric.name}:NUMBER}}"
    return None


def _other(metric: Metric, series: Sequence[tuple[str, str]], recorded: Recorded) -> Other:
    fine = recorded.fine
    number = {pair: row for row, pair in enumerate(fine.series)}
    rows = np.array([number.get((workload, metric.name), -1) for workload, _ in series])
    values, observed = fine.values[rows], fine.observed[rows]
    known = rows >= 0
    values = np.where(known[:, None], np.maximum(held(values, observed), 0), 0)
    if metric.kind == "utilization":
        values = values * np.float32(100 / recorded.requests[metric.name])
    total = replace(recorded.load, values=values, observed=observed)
    return Other(metric.name, metric.kind, metric.target, total, known)
