"""How an autoscaler sees metrics: late, smoothed, with gaps, and as means over the pods that serve."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kforecast.autoscaling.policy import Kind, Reading
from kforecast.simulation.load import Load

# Kinds of metrics that are means over pods.
MEANS = ("utilization", "value_per_pod")


@dataclass(frozen=True)
class View:
    """How late and how smooth, in steps.

    Attributes
    ----------
    delay, window:
        Steps until a value can be read, and that it is the mean of.
    per_bin:
        Steps of a bin of the load.
    """

    delay: int
    window: int
    per_bin: int

    @property
    def reach(self) -> int:
        """Steps before now that a value depends on."""
        return self.delay + self.window

    def smoothed(self, seen: np.ndarray, count: int) -> np.ndarray:
        """What is read at each of the last ``count`` steps, float64 ``[steps, series]``.

        Parameters
        ----------
        seen:
            The metric from ``reach`` steps before the first of them, float64 ``[reach + steps, series]``.
        """
        total = np.concatenate([np.zeros_like(seen[:1]), np.cumsum(seen, axis=0)])
        found: np.ndarray = (total[self.window : self.window + count] - total[:count]) / self.window
        return found

    def missing(self, load: Load, begin: int, count: int) -> np.ndarray:
        """Where a metric has a gap because the history has one, bool ``[steps, series]``."""
        told = np.maximum(begin * self.per_bin + np.arange(count) - self.delay - 1, 0) // self.per_bin
        found: np.ndarray = ~load.observed[:, told].T
        return found

    def before(self, load: Load, begin: int) -> np.ndarray:
        """The load of the ``reach`` steps before a bin, float64 ``[reach, series]``."""
        bins = min(begin, -(-self.reach // self.per_bin))
        known = load.demand((begin - bins) * self.per_bin, begin * self.per_bin)
        first = known[:1] if bins else load.demand(begin * self.per_bin, (begin + 1) * self.per_bin)[:1]
        more = max(self.reach - len(known), 0)
        return np.concatenate([np.repeat(first, more, axis=0), known])[-self.reach :]


class Rings:
    """Sums over the newest steps, for means over the pods that serve.

    Parameters
    ----------
    before:
        What happened in each step before the first one, float64 ``[amounts, drivers, series]``; the first
        amount is the number of pods that serve.
    """

    def __init__(self, view: View, before: np.ndarray) -> None:
        size = view.reach + 1
        self._ring = before[:, None] * np.arange(size, dtype=np.float64)[:, None, None]
        self._sums, self._at, self._delay = self._ring[:, -1].copy(), size - 1, view.delay
        self._each = list(self._sums)

    def add(self, amounts: Sequence[np.ndarray]) -> None:
        """Add what happened in a step, in the order of ``before``."""
        for total, amount in zip(self._each, amounts, strict=True):
            total += amount
        self._at = (self._at + 1) % self._ring.shape[1]
        self._ring[:, self._at] = self._sums

    def per_pod(self, number: int) -> np.ndarray:
        """The mean of an amount over pods and steps, as it is read now, float64 ``[drivers, series]``."""
        size = self._ring.shape[1]
        newest, oldest = (self._at - self._delay) % size, (self._at - size + 1) % size
        pods, done = (self._ring[one, newest] - self._ring[one, oldest] for one in (0, number))
        found: np.ndarray = np.divide(done, pods, out=np.zeros_like(done), where=pods > 0)
        return found


@dataclass(frozen=True)
class Other:
    """A metric that the policy reads beside the one that drivers order by.

    Attributes
    ----------
    name, kind, target:
        See :class:`~kforecast.autoscaling.policy.Reading`.
    total:
        The metric of all pods together, as it was recorded. A mean over pods is this total, as far as the
        load that caused it is served, divided by the pods that serve.
    known:
        Whether a service has it, bool ``[series]``; where it has none, the others decide.
    """

    name: str
    kind: Kind
    target: float
    total: Load
    known: np.ndarray

    @property
    def by_mean(self) -> bool:
        """Whether it is a mean over pods."""
        return self.kind in MEANS

    def of(self, chosen: np.ndarray) -> "Other":
        """The metric of some services, given by row numbers."""
        return replace(self, total=self.total.of(chosen), known=self.known[chosen])


class Watched:
    """Another metric during a replay.

    Parameters
    ----------
    shown:
        Whether a driver's autoscaler reads it, bool ``[drivers]``.
    hidden:
        Its value for the other drivers: 0 asks for no replicas, NaN is no value.
    load:
        All load of the history that the metric has, in pods, float64 ``[series]``.
    amount:
        Its number in the rings; None if it is no mean over pods.
    """

    def __init__(
        self, other: Other, view: View, shown: np.ndarray, hidden: float, load: np.ndarray, amount: int | None
    ) -> None:
        self._other, self._view, self._shown, self._hidden = other, view, shown[:, None], hidden
        self._amount = amount
        total = other.total.values.sum(axis=1, dtype=np.float64)
        # A queue that is worked off costs as much as load does on average.
        self._usual = np.divide(total, load, out=np.zeros_like(total), where=load > 0)
        self._steps = self._newest = np.zeros((0, len(total)))
        self._missing = np.zeros((0, len(total)), bool)

    def before(self, begin: int) -> np.ndarray:
        """Its mean before a bin, float64 ``[series]``."""
        found: np.ndarray = self._view.before(self._other.total, begin)[-self._view.window :].mean(axis=0)
        return found

    def needed(self, begin: int) -> np.ndarray:
        """Replicas that it asked for before a bin, float64 ``[drivers, series]``."""
        wanted = np.ceil(self.before(begin) / self._other.target - 1e-9)
        return np.where(self._shown & self._other.known, wanted, 0.0)

    def look(self, begin: int, stop: int) -> None:
        """Read the history of the bins ``[begin, stop)``."""
        other, view = self._other, self._view
        first, last = begin * view.per_bin, stop * view.per_bin
        self._steps = other.total.demand(first, last)
        if self._amount is None:
            seen = np.concatenate([view.before(other.total, begin), self._steps])
            self._newest = view.smoothed(seen, last - first)
        self._missing = view.missing(other.total, begin, last - first) & other.known

    def used(self, at: int, demand: np.ndarray, served: np.ndarray) -> np.ndarray:
        """What the pods used in a step, float64 ``[drivers, series]``."""
        return self.used_of(self._steps[at], demand, served)

    def used_of(self, total: np.ndarray, demand: np.ndarray, served: np.ndarray) -> np.ndarray:
        """What the pods use of a total that belongs to a demand, when they serve some of it."""
        share = np.divide(served, demand, out=np.ones_like(served), where=demand > 0)
        found: np.ndarray = total * np.minimum(share, 1.0)
        found += self._usual * np.maximum(served - demand, 0.0)
        return found

    def reading(self, at: int, rings: Rings) -> Reading:
        """What the autoscaler reads at a step."""
        other = self._other
        value = self._newest[at] if self._amount is None else rings.per_pod(self._amount)
        value = np.where(other.known, value, 0.0)
        value = np.where(self._shown, np.where(self._missing[at], np.nan, value), self._hidden)
        return Reading(value.reshape(-1), other.kind, other.target, name=other.name)
