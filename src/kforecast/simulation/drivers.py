"""Drivers: the numbers that an autoscaler scales on, beside or in the place of the newest load."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from kforecast.simulation.load import Load

REACTIVE, FORECAST, BOTH = "reactive", "forecast alone", "max(reactive, forecast)"
MIMIR, SCHEDULED, PERFECT = "last week and yesterday", "schedule", "perfect knowledge"

_HOUR, _DAY, _WEEK = 3600, 86_400, 7 * 86_400


@dataclass(frozen=True)
class Driver:
    """One way to scale.

    Attributes
    ----------
    name:
        In tables.
    rule:
        Where a number comes from besides the newest load: a forecast, the load a week and a day earlier
        (Grafana Mimir's rule), the mean week (cron), nowhere, or from the future.
    reactive:
        Whether the autoscaler sees the newest load, too.
    forecast:
        Number of the forecast, for the rule ``forecast``.
    target:
        Factor of the autoscaler's target.
    floor:
        Number of the lower limits of replicas.
    """

    name: str
    rule: Literal["none", "forecast", "mimir", "schedule", "perfect"] = "none"
    reactive: bool = True
    forecast: int = 0
    target: float = 1.0
    floor: int = 0


def usual_drivers(forecasts: int = 1) -> list[Driver]:
    """The drivers that a replay compares; ``forecasts`` is the number of forecasts, each of an artifact."""
    made = [Driver(REACTIVE)]
    for number in range(forecasts):
        more = f" {number + 1}" if forecasts > 1 else ""
        made.append(Driver(FORECAST + more, "forecast", reactive=False, forecast=number))
        made.append(Driver(BOTH + more, "forecast", forecast=number))
    return [
        *made,
        Driver(MIMIR, "mimir"),
        Driver(SCHEDULED, "schedule"),
        Driver(PERFECT, "perfect", reactive=False),
    ]


@dataclass(frozen=True)
class Served:
    """Numbers that ``kforecast-serve`` would answer with, at one quantile and window.

    The answer changes within a bin: when the newest forecast is ready, and when the window reaches into one
    bin more.

    Attributes
    ----------
    values:
        The largest forecast of the window, float32 ``[kinds, bins, series]``; NaN where there is no honest
        number.
    kind:
        Which of them is answered ``n`` steps after the beginning of a bin, int64 ``[steps per bin]``.
    start, width, step:
        Unix seconds of the first bin, seconds per bin and per step.
    states:
        The guard's state of each series (:data:`kforecast.guard.NAMES`) when a bin begins, int8 ``[series,
        bins]``; None without a guard. Values are NaN while a forecast is withdrawn.
    """

    values: np.ndarray
    kind: np.ndarray
    start: int
    width: int
    step: int
    states: np.ndarray | None = None

    def at(self, seconds: np.ndarray) -> np.ndarray:
        """The answers at moments (unix seconds), float32 ``[moments, series]``."""
        bins, inside = np.divmod(seconds - self.start, self.width)
        known = (bins >= 0) & (bins < self.values.shape[1])
        kind = self.kind[inside // self.step]
        found: np.ndarray = self.values[kind, np.where(known, bins, 0)]
        if not known.all():
            found[~known] = np.nan
        return found

    def of(self, chosen: np.ndarray) -> "Served":
        """The answers for some series, given by row numbers."""
        states = None if self.states is None else self.states[chosen]
        return Served(self.values[:, :, chosen], self.kind, self.start, self.width, self.step, states)


def spans(width: int, step: int, window: int, settle: int, horizon: int) -> tuple[list[slice], np.ndarray]:
    """The forecast steps that an answer covers, and which of these spans counts when within a bin.

    A span counts from the forecast made at the start of the bin under way; one that begins at -1 is of the
    forecast before, because the newest one is not ready until ``settle`` seconds have passed. As
    :meth:`kforecast.serving.snapshot.Snapshot.steps` chooses them.

    Returns
    -------
    The spans, and the number of one of them for each step of a bin, int64 ``[steps per bin]``.
    """
    found: list[slice] = []
    kind = np.empty(width // step, np.int64)
    for number in range(len(kind)):
        inside = number * step
        older = inside < settle
        # A window ends where a bin begins without reaching into it.
        last = max(-(-(inside + window) // width) - 1, 0)
        last = min(last, horizon - 1 - older)
        span = slice(-1 if older else 0, last + 1)
        if span not in found:
            found.append(span)
        kind[number] = found.index(span)
    return found, kind


def mimir(load: Load, begin: int, stop: int, window: int) -> np.ndarray:
    """The largest load of the window a week and a day earlier, float32 ``[bins, series]``; NaN if unknown."""
    bins = max(1, -(-window // load.width))
    made = np.full((stop - begin, len(load.values)), np.nan, np.float32)
    for ago in (_WEEK // load.width, _DAY // load.width):
        if ago < bins:  # some of the window has not been seen a day earlier either
            continue
        first = begin - ago
        known = max(first, 0)
        if known >= first + len(made):
            continue
        part = load.values[:, known : first + len(made) + bins - 1].T
        made[known - first :] = np.fmax(made[known - first :], sliding_max(part, bins))
    return made


def schedule(load: Load, begin: int) -> np.ndarray:
    """The mean load of every hour of the week before a bin, float64 ``[168, series]``.

    An hour that was never observed takes the mean of its hour of the day, else the overall mean.
    """
    observed, values = load.observed[:, :begin], load.values[:, :begin].astype(np.float64)
    hour = (load.start + np.arange(begin) * load.width) % _WEEK // _HOUR
    # The week of unix time begins on a Thursday, for all tables alike.
    sums, counts = np.zeros((168, len(values))), np.zeros((168, len(values)))
    np.add.at(sums, hour, np.where(observed, values, 0.0).T)
    np.add.at(counts, hour, observed.T.astype(np.float64))
    with np.errstate(invalid="ignore"):
        week = sums / counts
        day = sums.reshape(7, 24, -1).sum(axis=0) / counts.reshape(7, 24, -1).sum(axis=0)
        overall = sums.sum(axis=0) / counts.sum(axis=0)
    table = np.where(np.isnan(week), np.tile(day, (7, 1)), week)
    return np.nan_to_num(np.where(np.isnan(table), overall, table))


def scheduled(table: np.ndarray, seconds: np.ndarray, ahead: int) -> np.ndarray:
    """The larger load of a schedule now and when a pod ordered now serves, ``[moments, series]``."""
    now, then = seconds % _WEEK // _HOUR, (seconds + ahead) % _WEEK // _HOUR
    found: np.ndarray = np.maximum(table[now], table[then])
    return found


def sliding_max(values: np.ndarray, length: int) -> np.ndarray:
    """The largest of ``length`` values from each one on, along the first axis, which gets shorter."""
    size = 1
    while 2 * size <= length:
        values = np.fmax(values[:-size], values[size:])
        size *= 2
    return values if size == length else np.fmax(values[: size - length], values[length - size :])
