"""Events: past bins unlike the same time of other days, such as outages, and their usual values.

A forecast that looks back at such bins would repeat them. They are replaced by usual values in everything
that a network with a lookback sees, but only after they are over: a backtest knows an event from the origin
on at which a forecast of that time would have known it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from kforecast.data.origins import blocks
from kforecast.data.panel import Panel
from kforecast.window import Frequency

# A bin is compared with the same time on the days before it.
_DAYS = 14
# Two values are unlike if their difference exceeds this share of their sum, as 4 and 5.1 do; the sum includes
# a tenth of the series' level, so that small numbers at night make no difference.
_UNLIKE, _OF_LEVEL = 0.12, 0.1
# A stretch of unlike bins is an event if the mean share for the nearest day exceeds 0.2, as for 2 and 3, and
# half the mean share for all days: in bursty traffic, some days are near and some are far.
_EVENT, _APART = 0.2, 0.5
# Bins like those of yesterday or of a week ago are habits, whatever the other days.
_HABITS = (1, 7)
# Fewer days say nothing about what is usual.
_FEWEST_DAYS = 3
# Hours. A longer stretch is a new level. An event is over after this long with usual values, and it recurs if
# it is seen again this long.
_LONGEST, _CONFIRMED = 18, 1
_LEAST_CONFIRMED = 2
# The usual value is the median of the same time this many days ago.
_USUAL = (1, 2, 7, 14)
# Cells of a panel that are searched at once.
_MOST_CELLS = 1 << 21


@dataclass(frozen=True, eq=False)
class Events:
    """Stretches of bins that a forecast sees with other values than those observed.

    The events of a series do not overlap, and all are ordered by series and time. Every array but ``usual``
    is int64 ``[events]``.

    Attributes
    ----------
    series:
        Row of the panel.
    first, stop:
        First bin, and the bin after the last one.
    begin, end:
        The first origin that sees the usual values, and the first after it that sees the observed ones again,
        because the event has recurred by then.
    usual:
        float32: the values to see, one event after the other.
    """

    series: np.ndarray
    first: np.ndarray
    stop: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    usual: np.ndarray

    @classmethod
    def none(cls) -> "Events":
        """No events."""
        empty = np.empty(0, np.int64)
        return cls(empty, empty, empty, empty, empty, np.empty(0, np.float32))

    def __len__(self) -> int:
        return len(self.series)

    @property
    def offset(self) -> np.ndarray:
        """Index in ``usual`` of the first bin of each event, int64 ``[events]``."""
        length = self.stop - self.first
        before: np.ndarray = np.cumsum(length) - length
        return before

    def moved(self, bins: int) -> "Events":
        """The events of a panel that begins ``bins`` earlier."""
        moved = {name: getattr(self, name) + bins for name in ("first", "stop", "begin", "end")}
        return replace(self, **moved)

    def bins(self) -> tuple[np.ndarray, np.ndarray]:
        """Event and bin of each value in ``usual``, int64 ``[values]``."""
        event = np.repeat(np.arange(len(self)), self.stop - self.first)
        return event, np.arange(len(self.usual)) - self.offset[event] + self.first[event]

    def repaired(self, panel: Panel, *, age: int = 0, origin: int | None = None) -> Panel:
        """The panel with usual values in place of the events that are known in time.

        Parameters
        ----------
        age:
            Forecasts read each bin from this many bins after it on.
        origin:
            Forecasts read all bins from this origin on, whatever their age. An event that recurs stays one.
        """
        event, at = self.bins()
        known = self.begin[event] <= (at + age if origin is None else origin)
        values = panel.values.copy()
        values[self.series[event[known]], at[known]] = self.usual[known]
        return replace(panel, values=values)


def span(frequency: Frequency) -> int:
    """Bins before a bin that decide whether it belongs to an event, and its usual value."""
    return (_DAYS + 1) * frequency.day if _applies(frequency) else 0


def detected(panel: Panel, begin: int = 0, stop: int | None = None) -> Events:
    """Find the events among the bins ``[begin, stop)``.

    An event is a stretch of bins that are unlike the same time on the day before, a week before, and all but
    one of the 14 days before. Where the values of these days differ much, few bins are unlike them all, so
    that the dispersion of a series sets the measure. An event is known once it is over, which takes an hour
    of usual values. A stretch of more than 18 hours is a new level and no event. An event that recurs a day
    or a week later is a habit: from then on, the observed values are seen again.

    Bins wider than an hour have no events.

    Parameters
    ----------
    begin, stop:
        Only bins among these are read.
    """
    window = slice(begin, stop)
    values, frequency = panel.values[:, window], panel.frequency
    found = [Events.none()]
    if _applies(frequency) and values.shape[1] > frequency.day:
        for first, observed in blocks(panel.observed[:, window], _MOST_CELLS):
            block = values[first : first + len(observed)]
            with np.errstate(over="ignore", invalid="ignore"):  # values near the largest float have no events
                events = _Search(block, observed, frequency.day).events()
            found.append(replace(events, series=events.series + first))
    arrays = {name: np.concatenate([getattr(each, name) for each in found]) for name in vars(found[0])}
    return Events(**arrays).moved(begin)


def _applies(frequency: Frequency) -> bool:
    return frequency.day >= 24


class _Search:
    """The search for events in some series: values float32 and observed bool ``[series, time]``."""

    def __init__(self, values: np.ndarray, observed: np.ndarray, day: int) -> None:
        self.values, self.observed, self.day = values, observed, day
        self.confirmed = max(_LEAST_CONFIRMED, round(_CONFIRMED * day / 24))
        self.longest = round(_LONGEST * day / 24)

    def events(self) -> Events:
        """All events of the series."""
        novelty, mean, again = self._unlike()
        series, first, stop = self._stretches(novelty, mean)
        begin, over = self._over(novelty, series, stop)
        series, first, stop, begin = series[over], first[over], stop[over], begin[over]
        end = self._recurred(again, series, first, stop)
        found = Events(series, first, stop, begin, end, np.empty(int((stop - first).sum()), np.float32))
        event, at = found.bins()
        return replace(found, usual=self._usual(series[event], at))

    def _unlike(self) -> tuple[np.ndarray, np.ndarray, dict[int, np.ndarray]]:
        """How unlike the days before each bin is, and where it repeats an unlike bin of a day before.

        Returns
        -------
        The distance to the nearest day that counts, float32 ``[series, time]``, 0 where too few days are
        known; the mean distance to all days; and for each day of :data:`_HABITS`, bool: where a bin is like
        it and at most one other day.
        """
        values, observed = self.values, self.observed
        size = np.abs(values)
        level = self._level(size)
        nearest = np.full(values.shape, np.inf, np.float32)
        second, days = nearest.copy(), np.zeros(values.shape, np.int8)
        total = np.zeros(values.shape, np.float32)
        habits: dict[int, np.ndarray] = {}
        for ago, now, then in self._days():
            both = size[:, now] + size[:, then] + _OF_LEVEL * level[:, now]
            apart = np.abs(values[:, now] - values[:, then]) / np.maximum(both, np.finfo(np.float32).tiny)
            total[:, now] += np.where(observed[:, then], apart, 0)
            apart[~observed[:, then]] = np.inf
            days[:, now] += observed[:, then]
            np.minimum(second[:, now], np.maximum(nearest[:, now], apart), out=second[:, now])
            np.minimum(nearest[:, now], apart, out=nearest[:, now])
            if ago in _HABITS:
                habits[ago] = np.full(values.shape, np.inf, np.float32)
                habits[ago][:, now] = apart
        valid = observed & (days >= _FEWEST_DAYS) & (level > 0)
        second[~valid] = 0
        again = {ago: (second > _UNLIKE) & (apart <= _UNLIKE) for ago, apart in habits.items()}
        for apart in habits.values():
            np.minimum(second, apart, out=second)
        return second, total / np.maximum(days, 1), again

    def _days(self) -> Iterator[tuple[int, slice, slice]]:
        """For each number of days: the bins that have that day before them, and the same bins that day."""
        length = self.values.shape[1]
        for ago in range(1, _DAYS + 1):
            if (bins := ago * self.day) < length:
                yield ago, slice(bins, length), slice(0, length - bins)

    def _level(self, size: np.ndarray) -> np.ndarray:
        """Mean absolute value from 14 days before each bin to a day before it; 0 without one."""
        length = size.shape[1]
        total = np.pad(np.where(self.observed, size, 0).cumsum(axis=1, dtype=np.float64), ((0, 0), (1, 0)))
        count = np.pad(self.observed.cumsum(axis=1), ((0, 0), (1, 0)))
        stop = np.maximum(np.arange(length) - self.day + 1, 0)
        begin = np.maximum(np.arange(length) - _DAYS * self.day, 0)
        mean = (total[:, stop] - total[:, begin]) / np.maximum(count[:, stop] - count[:, begin], 1)
        level: np.ndarray = mean.astype(np.float32)
        return level

    def _stretches(self, novelty: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Series, first bin and stop of the stretches that are events once they are over, int64."""
        series, at = np.nonzero(novelty > _UNLIKE)
        if not len(series):
            return series, at, at
        starts = (np.diff(series, prepend=-1) != 0) | (np.diff(at, prepend=0) > self.confirmed)
        first = np.flatnonzero(starts)
        last = np.append(first[1:], len(at)) - 1
        nearest, typical = (np.add.reduceat(part[series, at], first) for part in (novelty, mean))
        count = np.diff(first, append=len(at))
        series, first, stop = series[first], at[first], at[last] + 1
        chosen = (stop - first <= self.longest) & (nearest > _EVENT * count) & (nearest > _APART * typical)
        return series[chosen], first[chosen], stop[chosen]

    def _over(
        self, novelty: np.ndarray, series: np.ndarray, stop: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The first origin that knows each event to be over, int64; and whether there is one, bool."""
        length = novelty.shape[1]
        usual = np.flatnonzero(self.observed & (novelty <= _UNLIKE))
        number = np.searchsorted(usual, series * length + stop) + self.confirmed - 1
        cell = np.append(usual, -1)[np.minimum(number, len(usual))]
        return cell % length + 1, cell // length == series

    def _recurred(
        self, again: dict[int, np.ndarray], series: np.ndarray, first: np.ndarray, stop: np.ndarray
    ) -> np.ndarray:
        """The first origin that has seen each event recur, or one later than all; int64 ``[events]``."""
        length = self.values.shape[1]
        end = np.full(len(series), np.iinfo(np.int32).max, np.int64)
        if not len(series):
            return end
        cells = [np.flatnonzero(found) for found in again.values()]
        seen = np.concatenate(cells)
        earlier = seen - np.repeat([ago * self.day for ago in again], [len(each) for each in cells])
        event = np.searchsorted(series * length + first, earlier, side="right") - 1
        within = (event >= 0) & (earlier < (series * length + stop)[event])
        event, seen = event[within], seen[within]
        order = np.lexsort((seen, event))
        event, seen = event[order], seen[order] % length
        count = np.bincount(event, minlength=len(series))
        needed = np.minimum(self.confirmed, stop - first)
        decisive = np.cumsum(count) - count + needed - 1
        recurred = count >= needed
        end[recurred] = seen[decisive[recurred]] + 1
        return end

    def _usual(self, series: np.ndarray, at: np.ndarray) -> np.ndarray:
        """The usual value of each bin; the observed one if none of the days before was observed."""
        then = at[:, None] - self.day * np.array(_USUAL)
        place = (series[:, None], np.maximum(then, 0))
        known = (then >= 0) & self.observed[place]
        count, row = known.sum(axis=1), np.arange(len(at))
        ascending = np.sort(np.where(known, self.values[place], np.inf), axis=1)
        median = (ascending[row, np.maximum(count - 1, 0) // 2] + ascending[row, count // 2]) / 2
        found: np.ndarray = np.where(count > 0, median, self.values[series, at])
        return found
