"""Grids of bins: in UTC, or in the local time of a zone."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import overload

import numpy as np

from kforecast.data.calendar import Calendar
from kforecast.errors import few
from kforecast.localtime import utc_offsets

log = logging.getLogger(__name__)

_DAY = 86_400
_UTC = "UTC"
# Moments at which a zone's offsets are looked up: from 1970 to 2040.
_YEARS = np.arange(0, 70 * 365 * _DAY, 12 * 3600)
# Bins of two zones are compared up to this much before and after a history.
_BEYOND = 400 * _DAY
# So many bins of a zone are listed from the first to the last, whatever the number of moments.
_TABLE = 1_000_000
_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Grid:
    """Bins of ``step`` seconds of a zone's clocks, numbered from 1970-01-01 by their local time.

    Where all offsets of the zone are the same modulo the step, bins are equally long, and begin at whole
    steps of local time: hours of UTC+5:30 begin at half past in UTC. Elsewhere a bin is longer or shorter
    where clocks change: a day has 23 or 25 hours. A bin whose whole local time is skipped has no moment.

    Attributes
    ----------
    step:
        Seconds; it divides a day.
    zone:
        IANA name.
    """

    step: int
    zone: str = _UTC

    @property
    def is_uniform(self) -> bool:
        """Whether all bins are equally long."""
        return _phase(self.zone, self.step) is not None

    @property
    def is_utc(self) -> bool:
        """Whether its bins are those in UTC."""
        return _phase(self.zone, self.step) == 0

    def bins(self, seconds: np.ndarray) -> np.ndarray:
        """The numbers of the bins that hold moments (integer unix seconds of any shape), int64."""
        phase = _phase(self.zone, self.step)
        if phase is not None:
            since = seconds.astype(np.int64) - phase if phase else seconds
            number: np.ndarray = (since // self.step).astype(np.int64)
            return number
        if not seconds.size:
            return np.zeros(seconds.shape, np.int64)
        ends = np.array([seconds.min(), seconds.max()], np.int64)
        # Clocks that were set back show a time again: the bin is one later than its local time says.
        low, high = (ends + utc_offsets(self.zone, ends)) // self.step + [-1, 2 + _DAY // self.step]
        if high - low < _TABLE + seconds.size:
            number = np.arange(low, high)
        else:  # a wrong moment is thousands of years away
            second = np.unique(seconds).astype(np.int64)
            guess = (second + utc_offsets(self.zone, second)) // self.step
            number = np.unique(guess[:, None] + np.arange(-1, 3))
        found: np.ndarray = number[np.searchsorted(self.seconds(number), seconds, side="right") - 1]
        return found

    def bin_at(self, second: int) -> int:
        """The number of the bin that holds a moment (unix seconds)."""
        return int(self.bins(np.array([second]))[0])

    @overload
    def seconds(self, bins: int) -> int: ...
    @overload
    def seconds(self, bins: np.ndarray) -> np.ndarray: ...
    def seconds(self, bins: int | np.ndarray) -> int | np.ndarray:
        """Unix seconds at which bins begin, int64: when clocks show that time or a later one first."""
        phase = _phase(self.zone, self.step)
        if phase is not None:
            return bins * self.step + phase
        begin = _first_moments(self.zone, np.asarray(bins, np.int64) * self.step)
        return begin if isinstance(bins, np.ndarray) else int(begin)


def _first_moments(zone: str, local: np.ndarray) -> np.ndarray:
    """The first moments at which clocks show a local time or a later one; both seconds, int64."""
    moment = np.full(local.shape, _NEVER)
    for offset in _offsets(zone):
        shown = utc_offsets(zone, (local - offset).reshape(-1)).reshape(local.shape) == offset
        moment = np.where(shown, np.minimum(moment, local - offset), moment)
    skipped = moment == _NEVER
    if skipped.any():
        # The clocks are set forward over that time: find the moment of it by bisection.
        wanted = local[skipped]
        early, late = wanted - _offsets(zone)[-1], wanted - _offsets(zone)[0]
        while (late - early).max() > 1:
            middle = (early + late) // 2
            after = middle + utc_offsets(zone, middle) >= wanted
            early, late = np.where(after, early, middle), np.where(after, middle, late)
        moment[skipped] = late
    return moment


@lru_cache(maxsize=256)
def _offsets(zone: str) -> np.ndarray:
    """The different offsets of a zone, seconds."""
    return np.unique(utc_offsets(zone, _YEARS))


@lru_cache(maxsize=1024)
def _phase(zone: str, step: int) -> int | None:
    """Seconds from whole steps in UTC to the begin of the next bin; None if it varies."""
    phases = np.unique(-_offsets(zone) % step)
    return int(phases[0]) if len(phases) == 1 else None


def common_grid(
    calendar: Calendar, series: Sequence[tuple[str, str]], step: int, span: tuple[int, int]
) -> Grid:
    """The grid of the local time of all series; that of UTC, with a warning, if their zones have several.

    Parameters
    ----------
    series:
        ``(workload, metric)``.
    span:
        Unix seconds of the first and the last row.
    """
    zones = sorted({calendar.zones[number] for number in calendar.zone_numbers(series).tolist()})
    grids = [grid for zone in zones if not (grid := Grid(step, zone)).is_utc]
    if not grids:
        return Grid(step)
    if len(grids) == len(zones) and all(_are_same(grids[0], other, span) for other in grids[1:]):
        return grids[0]
    log.warning(
        "Bins are those of UTC: bins of the local time of %s differ; for local bins train workloads of "
        "different time zones apart",
        few(zones),
    )
    return Grid(step)


def _are_same(one: Grid, other: Grid, span: tuple[int, int]) -> bool:
    """Whether two grids have the same bins in a span of unix seconds and some time after it."""
    first, last = (one.bin_at(second) for second in (span[0] - _BEYOND, span[1] + _BEYOND))
    begins = one.seconds(np.arange(first, last))
    return bool((other.seconds(other.bins(begins)) == begins).all())
