"""The policy's other metrics: which of them a history knows, beside the one that drivers order by."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kforecast.autoscaling.formula import Formula
from kforecast.autoscaling.hpa import Metric
from kforecast.autoscaling.keda import KedaPolicy, Trigger
from kforecast.autoscaling.policy import Policy
from kforecast.data.panel import Panel
from kforecast.errors import ConfigError, few
from kforecast.simulation.load import Load, held
from kforecast.simulation.seen import MEANS, Other

# Newest loads and forecasts that a formula is tried with.
_NOW, _AHEAD = np.array([100.0, 100.0, 130.0, 100.0]), np.array([100.0, 130.0, 100.0, 50.0])


@dataclass(frozen=True)
class Roles:
    """The triggers of a formula that drivers speak for.

    Attributes
    ----------
    traffic, forecast:
        Names of the triggers with the newest load and with the forecast.
    formula:
        All names in the formula.
    """

    traffic: str
    forecast: str
    formula: frozenset[str]


def roles_of(policy: Policy, traffic: str | None, forecast: str | None) -> Roles | None:
    """Which triggers of a formula are the traffic and the forecast; None for a policy without a formula.

    Parameters
    ----------
    traffic, forecast:
        Names that the user gave; None to find them: the forecast names kforecast, and the traffic is the
        other one of two.

    Raises
    ------
    ConfigError
        When they cannot be told, or the formula never gives a number.
    """
    modifiers = policy.modifiers if isinstance(policy, KedaPolicy) else None
    if modifiers is None:
        given = {"traffic": traffic, "forecast": forecast}
        for key, name in given.items():
            if name is not None:
                raise ConfigError(
                    f"replay.triggers.{key}: {name} is a trigger of a formula, and the policy has no "
                    "scalingModifiers; leave it out"
                )
        return None
    if modifiers.kind == "value":
        raise ConfigError(
            "policy.modifiers: metricType Value compares the formula with its target as it is, and nothing "
            "in a history of traffic says how it would follow the replicas; replay AverageValue"
        )
    formula = Formula(modifiers.formula)
    names = formula.names
    for key, name in (("traffic", traffic), ("forecast", forecast)):
        if name is not None and name not in names:
            raise ConfigError(
                f"replay.triggers.{key}: {name} is not in the formula; its names: {', '.join(sorted(names))}"
            )
    if forecast is None:
        found = [metric.name for metric in metrics_of(policy) if is_forecast(metric) and metric.name in names]
        forecast = _only("forecast", found, names)
    if traffic is None:
        traffic = _only("traffic", sorted(names - {forecast}), names)
    if traffic == forecast:
        raise ConfigError(f"replay.triggers: {traffic} cannot be both the traffic and the forecast")
    tried = {name: np.full(len(_NOW), 75.0) for name in names} | {traffic: _NOW, forecast: _AHEAD}
    if not np.isfinite(formula(tried)).any():
        raise ConfigError(
            f"policy.modifiers: the formula {modifiers.formula!r} gives no number, whether {forecast} is "
            f"below, equal to or above {traffic}; KEDA would never scale on it"
        )
    return Roles(traffic, forecast, frozenset(names))


def _only(key: str, found: Sequence[str], names: Collection[str]) -> str:
    if len(found) != 1:
        raise ConfigError(
            f"policy.modifiers: which trigger of the formula is the {key} cannot be told; give "
            f"replay.triggers.{key}=NAME, one of {', '.join(sorted(names)) or 'none'}, or leave "
            "scalingModifiers out: drivers then take the larger of traffic and forecast"
        )
    return found[0]


def is_forecast(metric: Metric) -> bool:
    """Whether a metric is the forecast itself, for which drivers stand."""
    return "kforecast" in metric.name or (isinstance(metric, Trigger) and metric.forecast)


def metrics_of(policy: Policy) -> list[Metric]:
    """The metrics of a policy; none if it has none of its own."""
    return list(getattr(policy, "metrics", getattr(policy, "triggers", [])))


def first_metric(policy: Policy, traffic: Collection[str]) -> Metric | None:
    """The metric that drivers order by; None if the policy has none.

    It is the formula, else the one with the name of the traffic, a total before a mean over pods, else the
    first that is no value as it is.

    Parameters
    ----------
    traffic:
        Names of the metrics of the series.

    Raises
    ------
    ConfigError
        When the relation of every metric to the replicas is unknown.
    """
    modifiers = policy.modifiers if isinstance(policy, KedaPolicy) else None
    if modifiers is not None:
        return Metric(name="the formula", kind=modifiers.kind, target=modifiers.target)
    metrics = [metric for metric in metrics_of(policy) if not is_forecast(metric)]
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
class Known:
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
    policy: Policy,
    first: Metric | None,
    roles: Roles | None,
    series: Sequence[tuple[str, str]],
    known: Known,
) -> tuple[list[Other], list[str]]:
    """The other metrics that the history knows, and a note on them.

    Parameters
    ----------
    first:
        The metric that drivers order by.
    series:
        The services, as workload and metric of their traffic.

    Raises
    ------
    ConfigError
        When a formula needs a metric that the history does not know.
    """
    found, left, partly = list[Other](), list[str](), list[str]()
    for metric in metrics_of(policy):
        if metric is first or (roles is not None and metric.name in (roles.traffic, roles.forecast)):
            continue
        in_formula = roles is not None and metric.name in roles.formula
        if in_formula:  # whose target counts, not the trigger's
            metric = metric.model_copy(update={"kind": "value_per_pod_total"})
        reason = _unknown(metric, series, known)
        if roles is not None and not in_formula and metric.kind not in MEANS:
            reason = "not in the formula"
        if is_forecast(metric):
            reason = "a forecast, for which drivers stand"
        if reason and in_formula:
            raise ConfigError(f"policy.modifiers: the formula needs {metric.name}, which is {reason}")
        if reason:
            left.append(f"{metric.name} ({reason})")
            continue
        other = _other(metric, series, known)
        found.append(other)
        if not other.known.all():
            without = f"{np.count_nonzero(~other.known):,} of {len(series):,} services"
            if in_formula:
                raise ConfigError(
                    f"policy.modifiers: the formula needs {metric.name}, which {without} lack in the history"
                )
            partly.append(f"{without} have no {metric.name} in the history; there the others decide.")
    if first is None or not (found or left):
        return found, []
    said = f"The policy has {len(metrics_of(policy))} metrics. Drivers order by {first.name}"
    if found:
        said += f"; {few([other.name for other in found])} is read from the history"
    if left:
        said += f"; the others are not replayed: {few(left)}"
    return found, [f"{said}.", *partly]


def _unknown(metric: Metric, series: Sequence[tuple[str, str]], known: Known) -> str | None:
    """Why a metric's relation to the replicas is unknown; None if it is known."""
    if metric.kind == "value":
        return "compared with a value as it is"
    if not {(workload, metric.name) for workload, _ in series} & {*known.fine.series}:
        return "not in the history"
    if metric.kind == "utilization" and metric.name not in known.requests:
        return f"give what a pod requests, replay.requests={{{metric.name}:NUMBER}}"
    return None


def _other(metric: Metric, series: Sequence[tuple[str, str]], known: Known) -> Other:
    fine = known.fine
    number = {pair: row for row, pair in enumerate(fine.series)}
    rows = np.array([number.get((workload, metric.name), -1) for workload, _ in series])
    values, observed, has = fine.values[rows], fine.observed[rows], rows >= 0
    values = np.where(has[:, None], np.maximum(held(values, observed), 0), 0)
    if metric.kind == "utilization":
        values = (values * (100 / known.requests[metric.name])).astype(np.float32)
        if not np.isfinite(values).all():
            raise ConfigError(
                f"replay.requests.{metric.name}: {known.requests[metric.name]:g} makes a utilisation that is "
                "no number; give what one pod requests, in the units of the history"
            )
    total = replace(known.load, values=values, observed=observed)
    return Other(metric.name, metric.kind, metric.target, total, has)
