"""Outcomes of a replay: what every driver left unserved, how many replicas it kept, and what that cost."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from kforecast.guard import DryRun
from kforecast.simulation.drivers import Driver
from kforecast.simulation.service import BUSY, COUNTS, LATE, PODS, SCALINGS, SERVED, SHORT, UNSERVED

_DAY, _MINUTE, _HOUR = 86_400, 60, 3600
COLUMNS = (
    *("unserved", "unserved_share", "short_minutes", "busy_minutes"),
    *("replica_hours", "idle", "idle_share", "scalings", "cost"),
)


@dataclass(frozen=True)
class Prices:
    """Costs of a replica-hour: of load that was not served in time, and of an idle replica."""

    under: float = 10.0
    over: float = 1.0

    def cost(self, counts: np.ndarray, step: int) -> np.ndarray:
        """The cost of counts ``[counts, ...]``, which are in pod-steps."""
        short = counts[UNSERVED] + counts[LATE]
        found: np.ndarray = (self.under * short + self.over * (counts[PODS] - counts[SERVED])) * (
            step / _HOUR
        )
        return found


@dataclass(frozen=True)
class Trace:
    """One day of one service under one driver, by minutes.

    Attributes
    ----------
    cost:
        The cost of the day.
    day:
        Days since 1970.
    series:
        Number of the service.
    load, capacity:
        Demand, and what the pods could serve, in pods, float32 ``[minutes]``; NaN outside the replay.
    """

    cost: float
    day: int
    series: int
    load: np.ndarray
    capacity: np.ndarray


@dataclass
class Outcomes:
    """Counts of every driver, service and day.

    Attributes
    ----------
    drivers:
        In the order of the second axis of the counts.
    first_day:
        Days from 1970 to the first day.
    step:
        Seconds per step.
    counts:
        :data:`~kforecast.simulation.service.COUNTS` in pod-steps and steps, over the observed bins, float64
        ``[days, counts, drivers, series]``.
    load:
        Demand in pod-steps, float64 ``[days, series]``.
    seconds:
        Observed seconds, int64 ``[days, series]``.
    queued:
        Load that waits at the end, in pod-steps, float64 ``[drivers, series]``.
    worst:
        The most expensive day of each driver, by its number; empty without traces.
    withdrawn:
        What the guard did with each forecast, by its number; empty without traces or without a guard.
    """

    drivers: Sequence[Driver]
    first_day: int
    step: int
    counts: np.ndarray
    load: np.ndarray
    seconds: np.ndarray
    queued: np.ndarray
    worst: dict[int, Trace] = field(default_factory=dict)
    withdrawn: dict[int, DryRun] = field(default_factory=dict)

    @classmethod
    def empty(
        cls, drivers: Sequence[Driver], series: int, first_day: int, days: int, step: int
    ) -> "Outcomes":
        """Nothing counted yet."""
        return cls(
            list(drivers),
            first_day,
            step,
            np.zeros((days, len(COUNTS), len(drivers), series)),
            np.zeros((days, series)),
            np.zeros((days, series), np.int64),
            np.zeros((len(drivers), series)),
        )

    @classmethod
    def joined(cls, parts: Sequence["Outcomes"]) -> "Outcomes":
        """The outcomes of several groups of services, in their order."""
        worst: dict[int, Trace] = {}
        before = 0
        for part in parts:
            for number, trace in part.worst.items():
                if number not in worst or trace.cost > worst[number].cost:
                    worst[number] = replace(trace, series=trace.series + before)
            before += part.load.shape[1]
        first = parts[0]
        return cls(
            first.drivers,
            first.first_day,
            first.step,
            np.concatenate([part.counts for part in parts], axis=3),
            np.concatenate([part.load for part in parts], axis=1),
            np.concatenate([part.seconds for part in parts], axis=1),
            np.concatenate([part.queued for part in parts], axis=1),
            worst,
        )

    def by_day(self, prices: Prices) -> np.ndarray:
        """Cost, float64 ``[days, drivers, series]``."""
        return prices.cost(np.moveaxis(self.counts, 1, 0), self.step)

    def of_series(self, prices: Prices) -> pd.DataFrame:
        """:data:`COLUMNS` by ``driver`` and ``series`` (number), over all days."""
        counts, load = self.counts.sum(axis=0), self.load.sum(axis=0)
        drivers, series = counts.shape[1:]
        frame = _columns(counts.reshape(len(COUNTS), -1), np.tile(load, drivers), self.step, prices)
        frame.insert(0, "driver", np.repeat([driver.name for driver in self.drivers], series))
        frame.insert(1, "series", np.tile(np.arange(series), drivers))
        return frame

    def of_drivers(self, prices: Prices) -> pd.DataFrame:
        """:data:`COLUMNS` and ``worst_day`` (days since 1970, the most expensive one), by ``driver``."""
        counts = self.counts.sum(axis=(0, 3))
        frame = _columns(counts, np.full(counts.shape[1], self.load.sum()), self.step, prices)
        frame.insert(0, "driver", [driver.name for driver in self.drivers])
        frame["worst_day"] = self.first_day + self.by_day(prices).sum(axis=2).argmax(axis=0)
        return frame


def _columns(counts: np.ndarray, load: np.ndarray, step: int, prices: Prices) -> pd.DataFrame:
    """Columns of results from counts ``[counts, rows]`` and load ``[rows]``; a share of nothing is NaN."""
    hours, minutes = step / _HOUR, step / _MINUTE
    idle = counts[PODS] - counts[SERVED]
    with np.errstate(invalid="ignore", divide="ignore"):
        unserved_share = np.where(load > 0, (counts[UNSERVED] + counts[LATE]) / load, np.nan)
        idle_share = np.where(counts[PODS] > 0, idle / counts[PODS], np.nan)
    return pd.DataFrame(
        {
            "unserved": (counts[UNSERVED] + counts[LATE]) * hours,
            "unserved_share": unserved_share,
            "short_minutes": counts[SHORT] * minutes,
            "busy_minutes": counts[BUSY] * minutes,
            "replica_hours": counts[PODS] * hours,
            "idle": idle * hours,
            "idle_share": idle_share,
            "scalings": np.round(counts[SCALINGS]).astype(np.int64),
            "cost": prices.cost(counts, step),
        }
    )


class Day:
    """The day under way of every lane, of which the most expensive ones are kept.

    Parameters
    ----------
    shape:
        Numbers of drivers and of services.
    step:
        Seconds per step.
    """

    def __init__(self, prices: Prices, shape: tuple[int, int], step: int) -> None:
        self._prices, self._every = prices, max(1, _MINUTE // step)
        self._capacity = np.full((_DAY // _MINUTE, *shape), np.nan, np.float32)
        self._load = np.full((_DAY // _MINUTE, shape[1]), np.nan, np.float32)

    def add(self, up: np.ndarray, demand: np.ndarray, second: int) -> None:
        """What the pods can serve in the step at a moment, ``[drivers, series]``, and the demand."""
        if second % _MINUTE == 0:
            minute = second % _DAY // _MINUTE
            self._capacity[minute], self._load[minute] = up, demand

    def end(self, found: Outcomes, number: int) -> None:
        """End a day of the outcomes; it is kept for the drivers that it is the most expensive of."""
        cost = self._prices.cost(found.counts[number], found.step)
        for driver, series in enumerate(cost.argmax(axis=1)):
            kept = found.worst.get(driver)
            if kept is None or cost[driver, series] > kept.cost:
                found.worst[driver] = Trace(
                    float(cost[driver, series]),
                    found.first_day + number,
                    int(series),
                    self._load[:, series].copy(),
                    self._capacity[:, driver, series].copy(),
                )
        self._capacity[:], self._load[:] = np.nan, np.nan


class Bins:
    """Counts of every bin, and the pods of one service that serve in it.

    Parameters
    ----------
    shape:
        Numbers of bins and of drivers.
    series:
        Number of the service whose pods are kept.
    steps:
        Steps per bin.

    Attributes
    ----------
    counts:
        :data:`~kforecast.simulation.service.COUNTS` of all services in pod-steps and steps, float64
        ``[counts, bins, drivers]``; 0 in a bin that no service observed.
    serving:
        Mean number of pods of that service that serve, float64 ``[bins, drivers]``.
    """

    def __init__(self, shape: tuple[int, int], series: int, steps: int) -> None:
        self.counts, self.serving = np.zeros((len(COUNTS), *shape)), np.zeros(shape)
        self._series, self._steps, self._at = series, steps, 0

    def add(self, up: np.ndarray) -> None:
        """The pods that serve in a step, ``[drivers, series]``."""
        self.serving[self._at] += up[:, self._series]

    def end(self, counts: np.ndarray) -> None:
        """End a bin with its counts, ``[counts, drivers, series]``."""
        self.counts[:, self._at] = counts.sum(axis=2)
        self.serving[self._at] /= self._steps
        self._at += 1
