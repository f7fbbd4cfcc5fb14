"""How many replicas a traffic needs.

Each of the three ways ends in one :class:`Rule`: the share of a replica that one unit of each traffic takes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kforecast.errors import DataError

log = logging.getLogger(__name__)

# Fewer common moments than this teach or judge nothing.
_FEWEST = 30
# Groups of moments with similar traffic per replica whose medians make the curve, and moments of a group.
_GROUPS = 32
_GROUP = 10
# Seconds whose median is one moment: noise between scrapes would flatten the relation.
_MOMENT = 300
# Shares of the target at which a replica counts as loaded up to its target.
_AT_TARGET = (0.8, 1.1)
# The target must be reached at this part of the lowest traffic per replica seen, at least.
_FAR_BELOW = 0.1
_ELSEWISE = "use scale.replicas=per_replica with scale.per_replica=NUMBER, or scale.replicas=ratio"
# A forecast like 3.0000001 replicas needs 3.
_ROUNDING = 1e-6
_LARGEST = 2**31 - 1


@dataclass(frozen=True)
class Rule:
    """The replicas that a traffic needs.

    Attributes
    ----------
    shares:
        The share of a replica that one unit of each traffic takes, ``[traffics]``.
    added:
        Whether the shares of several traffics are added; otherwise the largest need wins.
    """

    shares: np.ndarray
    added: bool = False

    def replicas(self, traffic: np.ndarray) -> np.ndarray:
        """The replicas for a traffic ``[steps, traffics]``, at least one: int64 ``[steps]``.

        Raises
        ------
        DataError
            When a number is not finite or no replica count of 32 bits.
        """
        needs = np.maximum(traffic, 0) * self.shares
        need = needs.sum(axis=1) if self.added else needs.max(axis=1)
        if not (need <= _LARGEST).all():
            raise DataError(f"the forecast needs {need.max():g} replicas, which is no number of replicas")
        count: np.ndarray = np.maximum(np.ceil(need * (1 - _ROUNDING)), 1).astype(np.int64)
        return count


@dataclass(frozen=True)
class Observed:
    """What was observed at common moments, medians of five minutes with at least one replica, ascending.

    Attributes
    ----------
    moments:
        The newest unix second of each, ``[moments]``.
    traffic:
        Traffic per replica, ``[moments, traffics]``.
    resource:
        Resource per replica, ``[moments]``; None if not asked for.
    names:
        The names of the traffics.
    """

    moments: np.ndarray
    traffic: np.ndarray
    resource: np.ndarray | None
    names: list[str]

    @classmethod
    def of(cls, history: pd.DataFrame, traffics: list[str], replicas: str, resource: str | None) -> Observed:
        """The moments at which all metrics of one workload have values, at the same times.

        Parameters
        ----------
        history:
            Long frame of contract 3.
        """
        wanted = [*traffics, replicas, *([] if resource is None else [resource])]
        wide = history.pivot_table("value", "timestamp", "metric", aggfunc="mean", observed=True)
        wide = wide.reindex(columns=wanted).dropna()
        wide = wide[wide[replicas] > 0]
        each = wide.div(wide[replicas], axis=0).groupby(wide.index // _MOMENT)
        middle = each.median()
        return cls(
            each[replicas].apply(lambda values: values.index.max()).to_numpy(),
            middle[traffics].to_numpy(),
            None if resource is None else middle[resource].to_numpy(),
            traffics,
        )

    def rows(self, chosen: np.ndarray) -> Observed:
        """Some of the moments, bool ``[moments]``."""
        resource = None if self.resource is None else self.resource[chosen]
        return Observed(self.moments[chosen], self.traffic[chosen], resource, self.names)


def ratio(observed: Observed, seconds: int) -> Rule:
    """Keep the traffic per replica of the newest seconds: newest replicas x forecast / observed traffic.

    Raises
    ------
    DataError
        When nothing is known, or a traffic was zero.
    """
    if not len(observed.moments):
        raise DataError("ratio: no moment has both traffic and at least one replica; are both metrics right?")
    newest = observed.moments > observed.moments[-1] - seconds
    return Rule(1 / _positive(observed.traffic[newest].mean(axis=0), observed.names, "in the newest moments"))


def at_target(observed: Observed, target: float) -> Rule:
    """The median traffic per replica at moments whose resource per replica was about the target.

    With several traffics the largest need wins: each number was learned beside the others' load.

    Raises
    ------
    DataError
        When too few moments were near the target, or a traffic was zero there.
    """
    assert observed.resource is not None
    share = observed.resource / target
    near = (share >= _AT_TARGET[0]) & (share <= _AT_TARGET[1])
    if np.count_nonzero(near) < _FEWEST:
        middle = f" (its median is {np.median(share):.0%} of it)" if len(share) else ""
        raise DataError(
            f"per_replica: the resource per replica was near its target, {target:g}, at only "
            f"{np.count_nonzero(near)} of {len(share):,} common moments{middle}, so that the traffic per "
            "replica at the target is unknown; give scale.per_replica=NUMBER, change the target, or use "
            "scale.replicas=ratio"
        )
    # To the target itself, in proportion.
    traffic = np.median(observed.traffic[near] / share[near, None], axis=0)
    return Rule(1 / _positive(traffic, observed.names, "at the target"))


def _positive(traffic: np.ndarray, names: list[str], where: str) -> np.ndarray:
    for name, number in zip(names, traffic, strict=True):
        if not number > 0:
            raise DataError(f"{name} is {number:g} per replica {where}, from which no replicas follow")
    log.info(
        "Per replica: %s", ", ".join(f"{number:g} {n}" for n, number in zip(names, traffic, strict=True))
    )
    return traffic


@dataclass(frozen=True)
class Limits:
    """When a learned relation may be used.

    Attributes
    ----------
    seconds:
        Length of the newest part, which judges.
    correlation:
        The lowest correlation of predicted and observed resource per replica there.
    error:
        The greatest mean squared error there, on a scale from 0 (first percentile of the observed resource
        per replica) to 100 (99th).
    """

    seconds: int
    correlation: float
    error: float


def learned(observed: Observed, target: float, limits: Limits) -> Rule:
    """Learn the resource per replica from the traffic per replica, and keep it at most at the target.

    The relation is a monotone curve over a sum of the traffics. It is judged on the newest part, and learned
    again from everything. Replicas are never fewer than the highest traffic per replica seen allows.

    Raises
    ------
    DataError
        When the relation cannot be learned or trusted, or the target cannot be reached.
    """
    assert observed.resource is not None
    _judge(observed, limits)
    curve = _curve(observed)
    return Rule(curve.weights / curve.index_at(target), added=True)


def _failed(observed: Observed) -> str:
    count, days = len(observed.moments), np.ptp(observed.moments) / 86_400 if len(observed.moments) else 0
    return f"replicas estimation failed on {count:,} common moments (of 5 minutes) in {days:.1f} days"


def _curve(observed: Observed) -> Curve:
    assert observed.resource is not None
    found = Curve.of(observed.traffic, observed.resource)
    if found is None:
        raise DataError(
            f"{_failed(observed)}: the resource per replica does not rise with traffic; {_ELSEWISE}"
        )
    return found


def _judge(observed: Observed, limits: Limits) -> None:
    """Learn from the older part and judge on the newest."""
    count = len(observed.moments)
    judging = observed.moments > (observed.moments[-1] if count else 0) - limits.seconds
    old, new = observed.rows(~judging), observed.rows(judging)
    if len(old.moments) < _FEWEST or len(new.moments) < _FEWEST:
        raise DataError(
            f"{_failed(observed)}: {len(old.moments):,} to learn from and {len(new.moments):,} in the newest "
            f"{limits.seconds:,} s to judge on, at least {_FEWEST} each are needed; check that resource, "
            f"replicas and traffic have values at the same moments, give a longer --re-history-len or a "
            f"shorter --re-test-dataset-size-in-seconds, or {_ELSEWISE}"
        )
    assert observed.resource is not None
    both = pd.DataFrame({"seen": new.resource, "said": _curve(old)(new.traffic)})
    low, high = np.quantile(observed.resource, (0.01, 0.99))
    both = ((both - low) / max(high - low, 1e-300)).clip(0, 1)
    error = float(((100 * (both["said"] - both["seen"])) ** 2).mean())
    varies = both.nunique().min() > 1
    correlation = float(both["said"].corr(both["seen"])) if varies else 0.0
    words = (
        f"on the newest {limits.seconds:,} s the correlation of predicted and observed resource per replica "
        f"is {correlation:.2f} (at least {limits.correlation:g}) and the mean squared error {error:.1f} (at "
        f"most {limits.error:g})"
    )
    if correlation < limits.correlation or error > limits.error:
        raise DataError(
            f"{_failed(observed)}: {words}. Where an autoscaler holds the resource near its target, there is "
            f"little to learn from: {_ELSEWISE}, or relax the limits"
        )
    log.info("Learned from %s common moments: %s", f"{len(observed.moments):,}", words)


@dataclass(frozen=True)
class Curve:
    """The resource per replica as a monotone function of the traffic per replica.

    Attributes
    ----------
    weights:
        The traffic per replica as one number is ``traffic @ weights``, called the index, in units of the
        resource.
    index, level:
        Knots of the curve, both ascending; those seen, after one at the index 0.
    """

    weights: np.ndarray
    index: np.ndarray
    level: np.ndarray

    @classmethod
    def of(cls, traffic: np.ndarray, resource: np.ndarray) -> Curve | None:
        """The curve through the medians of moments with similar traffic; None without a relation.

        Parameters
        ----------
        traffic, resource:
            Per replica, ``[moments, traffics]`` and ``[moments]``.
        """
        base, weights = _robust_line(traffic, resource)
        index, groups = traffic @ weights, max(1, min(_GROUPS, len(traffic) // _GROUP))
        edges = np.unique(np.quantile(index, np.linspace(0, 1, groups + 1)))
        if len(edges) < 2:
            return None
        group = np.minimum(np.searchsorted(edges, index, side="right") - 1, len(edges) - 2)
        kept = np.unique(group)
        middles = np.array([[np.median(x[group == one]) for one in kept] for x in (index, resource)])
        level = _ascending(middles[1], np.bincount(group)[kept])
        below = [min(base, level[0])] if middles[0][0] > 0 else []
        return cls(weights, np.append([0.0] * len(below), middles[0]), np.append(below, level))

    def __call__(self, traffic: np.ndarray) -> np.ndarray:
        """The resource per replica, ``[moments]``; beyond the curve along the straight line through it."""
        index = traffic @ self.weights
        beyond: np.ndarray = np.interp(index, self.index, self.level) + np.maximum(index - self.index[-1], 0)
        return beyond

    def index_at(self, target: float) -> float:
        """The highest index that keeps the resource at the target, at most the highest that was seen.

        Raises
        ------
        DataError
            When no traffic is low enough for the target.
        """
        at = int(np.searchsorted(self.level, target, side="right"))
        if at == len(self.level):
            if target > self.level[-1]:
                log.warning(
                    "the target, %g per replica, is above all that was seen (up to %g): replicas are those "
                    "that keep the highest traffic per replica seen",
                    target,
                    self.level[-1],
                )
            return float(self.index[-1])
        found = 0.0
        if at > 0:
            rise = (target - self.level[at - 1]) / (self.level[at] - self.level[at - 1])
            found = float(self.index[at - 1] + rise * (self.index[at] - self.index[at - 1]))
        seen = self.index[self.index > 0][0]
        if found < _FAR_BELOW * seen:
            raise DataError(
                f"the target, {target:g} per replica, cannot be reached by any number of replicas: without "
                f"traffic a replica takes {self.level[0]:g}, and at the lowest traffic seen "
                f"{np.interp(seen, self.index, self.level):g}; raise the target"
            )
        if found < seen:
            log.warning(
                "the target, %g per replica, is below all that was seen (down to %g): replicas follow a "
                "straight line from there to %g without traffic",
                target,
                np.interp(seen, self.index, self.level),
                self.level[0],
            )
        return found


def _robust_line(traffic: np.ndarray, resource: np.ndarray) -> tuple[float, np.ndarray]:
    """Base and weights, none negative, of a line whose outliers count little (Huber's weights)."""
    scale = np.maximum(traffic.mean(axis=0), 1e-300)
    design = np.column_stack([np.ones(len(traffic)), traffic / scale])
    trust, found = np.ones(len(traffic)), np.zeros(design.shape[1])
    for _ in range(20):
        weighted = design * trust[:, None]
        found = _nonnegative(weighted.T @ design, weighted.T @ resource, found)
        far = np.abs(resource - design @ found)
        usual = 1.4826 * 1.345 * np.median(far)
        trust = np.minimum(1, usual / np.maximum(far, 1e-300)) if usual > 0 else np.ones_like(far)
    return float(found[0]), found[1:] / scale


def _nonnegative(gram: np.ndarray, moment: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Least squares without negative coefficients, by coordinate descent from ``start``."""
    found = start.copy()
    for _ in range(500):
        before = found.copy()
        for k in range(len(found)):
            if gram[k, k] > 0:
                found[k] = max(0.0, found[k] + (moment[k] - gram[k] @ found) / gram[k, k])
        if np.allclose(found, before, rtol=1e-9, atol=0):
            break
    return found


def _ascending(level: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The nearest values that never fall: pool adjacent violators."""
    pools: list[list[float]] = []  # mean, weight, length
    for value, size in zip(level.tolist(), weight.tolist(), strict=True):
        pools.append([value, size, 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            mean, size, length = pools.pop()
            last = pools[-1]
            last[0] = (last[0] * last[1] + mean * size) / (last[1] + size)
            last[1] += size
            last[2] += length
    return np.concatenate([np.full(int(length), mean) for mean, _, length in pools])
