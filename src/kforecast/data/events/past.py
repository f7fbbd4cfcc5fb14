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
# Cells of a panel that are searched at once: their arrays stay in a processor's cache.
_MOST_CELLS = 1 << 18
# Stands for an unobserved bin in a checksum: the bits of no number.
_UNOBSERVED = np.uint32(0x7FC00001)


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
    found = []
    if _applies(frequency) and values.shape[1] > frequency.day:
        for first, observed in blocks(panel.observed[:, window], _MOST_CELLS):
            search = _Search(values[first : first + len(observed)], observed, frequency.day)
            found.append(search.events(search.compared(), first))
    return _joined(found).moved(begin)


class EventSearch:
    """The events of a panel that grows: only bins that are new, or other than last time, are searched.

    The events are those of :func:`detected`. In the first :func:`span` bins, which forecasts do not read,
    they may be those of a longer history.

    Parameters
    ----------
    grows:
        False keeps the events found last and nothing else, for a panel that is searched once.
    """

    def __init__(self, grows: bool = True) -> None:
        self.grows = grows
        self._asked: tuple[Panel, int, int] | None = None
        self._events = Events.none()
        # First bin, and checksums of each block's columns: the bins themselves would keep a panel in memory.
        self._known: tuple[tuple[tuple[str, str], ...], int, list[np.ndarray]] | None = None
        self._compared: list[_Compared] = []
        self._rows = 1

    def events(self, panel: Panel, begin: int, stop: int) -> Events:
        """As :func:`detected`. A panel of other series than the first one is searched as a whole."""
        asked = self._asked
        if asked is None or asked[0] is not panel or asked[1:] != (begin, stop):
            day, known = panel.frequency.day, self._known
            if not _applies(panel.frequency) or stop - begin <= day:
                self._events = Events.none()
            elif not self.grows or (known is not None and known[0] != panel.series):
                self._events = detected(panel, begin, stop)
            else:
                self._events = self._next(panel, begin, stop)
            self._asked = (panel, begin, stop)
        return self._events

    def _next(self, panel: Panel, begin: int, stop: int) -> Events:
        before, self._known = self._known, None  # nothing half-made is followed
        day, window = panel.frequency.day, slice(begin, stop)
        if before is None:
            self._rows, self._compared = max(1, _MOST_CELLS // (stop - begin)), []
        found, columns = [], []
        for number, first in enumerate(range(0, panel.num_series, self._rows)):
            rows = slice(first, first + self._rows)
            values, observed = panel.values[rows, window], panel.observed[rows, window]
            search = _Search(values, observed, day)
            columns.append(_checksums(values, observed))
            if before is None:
                self._compared.append(search.compared())
            else:
                moved = panel.first_bin + begin - before[1]
                same = _same(before[2][number], columns[number], moved)
                self._compared[number] = search.following(self._compared[number], moved, same)
            found.append(search.events(self._compared[number], first))
        self._known = (panel.series, panel.first_bin + begin, columns)
        return _joined(found).moved(begin)


def _same(before: np.ndarray, now: np.ndarray, moved: int) -> int:
    """How many columns at the beginning of ``now`` are those of ``before`` from column ``moved`` on.

    Both are checksums.
    """
    count = min(len(before) - moved, len(now))
    if moved < 0 or count <= 0:
        return 0
    differs = (before[moved : moved + count] != now[:count]).any(axis=1)
    return int(differs.argmax()) if differs.any() else count


def _checksums(values: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Two numbers for each column: another column has the same once in 2 to the 64; uint32 ``[time, 2]``."""
    # Sums of products with odd factors wrap around; one other bin always makes another sum.
    factors = np.random.default_rng(0).integers(1 << 31, size=(2, len(values), 1), dtype=np.uint32) * 2 + 1
    bits = np.where(observed, values.view(np.uint32), _UNOBSERVED)
    return np.stack([np.add.reduce(bits * factor, axis=0, dtype=np.uint32) for factor in factors], axis=1)


def _joined(parts: list[Events]) -> Events:
    """The events of blocks of series."""
    parts = [Events.none(), *parts]
    return Events(*(np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])))


def _applies(frequency: Frequency) -> bool:
    return frequency.day >= 24


@dataclass(frozen=True, eq=False)
class _Compared:
    """How some series' bins compare with the days before them.

    Attributes
    ----------
    usual:
        Observed bins that are like a day before, bool ``[series, time]``.
    unlike:
        Series and time of the bins unlike all days, int64, ordered by both; the distance to the nearest day
        and the mean distance to all days, float32.
    again:
        For each day of :data:`_HABITS`, series and time of the bins that are like it and at most one other
        day.
    """

    usual: np.ndarray
    unlike: tuple[np.ndarray, ...]
    again: dict[int, tuple[np.ndarray, ...]]

    def then(self, later: "_Compared", moved: int, same: int) -> "_Compared":
        """The ``same`` bins from ``moved`` on, and after them later ones."""

        def joined(before: tuple[np.ndarray, ...], after: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
            kept = (before[1] >= moved) & (before[1] < moved + same)
            series, at, *rest = (part[kept] for part in before)
            old = (series, at - moved, *rest)
            new = (after[0], after[1] + same, *after[2:])
            length = same + later.usual.shape[1]
            place = np.searchsorted(old[0] * length + old[1], new[0] * length + new[1])
            return tuple(np.insert(one, place, other) for one, other in zip(old, new, strict=True))

        return _Compared(
            np.concatenate([self.usual[:, moved : moved + same], later.usual], axis=1),
            joined(self.unlike, later.unlike),
            {ago: joined(self.again[ago], later.again[ago]) for ago in self.again},
        )


class _Search:
    """The search for events in some series: values float32 and observed bool ``[series, time]``."""

    def __init__(self, values: np.ndarray, observed: np.ndarray, day: int) -> None:
        self.values, self.observed, self.day = values, observed, day
        self.confirmed = max(_LEAST_CONFIRMED, round(_CONFIRMED * day / 24))
        self.longest = round(_LONGEST * day / 24)

    def compared(self, begin: int = 0) -> _Compared:
        """Compare the bins from ``begin`` on with the days before them."""
        with np.errstate(over="ignore", invalid="ignore"):  # values near the largest float have no events
            return self._compared(begin)

    def following(self, before: _Compared, moved: int, same: int) -> _Compared:
        """As :meth:`compared`, where the first ``same`` bins are those of ``before`` from ``moved`` on."""
        if not same:
            return self.compared()
        lead = max(0, same - _DAYS * self.day)
        newest = _Search(self.values[:, lead:], self.observed[:, lead:], self.day)
        return before.then(newest.compared(same - lead), moved, same)

    def events(self, compared: _Compared, row: int = 0) -> Events:
        """All events of the series, the first of which is ``row`` of a panel."""
        series, first, stop = self._stretches(*compared.unlike)
        if not len(series):
            return Events.none()
        begin, over = self._over(compared.usual, series, stop)
        series, first, stop, begin = series[over], first[over], stop[over], begin[over]
        end = self._recurred(compared.again, series, first, stop)
        found = Events(series, first, stop, begin, end, np.empty(int((stop - first).sum()), np.float32))
        event, at = found.bins()
        return replace(found, series=series + row, usual=self._usual(series[event], at))

    def _compared(self, begin: int) -> _Compared:
        observed = self.observed[:, begin:]
        size = np.abs(self.values)
        level = self._level(size, begin)
        nearest = np.full(observed.shape, np.inf, np.float32)
        second, days = nearest.copy(), np.zeros(observed.shape, np.int8)
        total = np.zeros(observed.shape, np.float32)
        habits: dict[int, np.ndarray] = {}
        for ago, now, then in self._days(begin):
            here = slice(now.start - begin, None)
            both = size[:, now] + size[:, then] + _OF_LEVEL * level[:, here]
            apart = np.abs(self.values[:, now] - self.values[:, then])
            apart /= np.maximum(both, np.finfo(np.float32).tiny)
            known = self.observed[:, then]
            total[:, here] += np.where(known, apart, 0)
            apart[~known] = np.inf
            days[:, here] += known
            np.minimum(second[:, here], np.maximum(nearest[:, here], apart), out=second[:, here])
            np.minimum(nearest[:, here], apart, out=nearest[:, here])
            if ago in _HABITS:
                habits[ago] = np.full(observed.shape, np.inf, np.float32)
                habits[ago][:, here] = apart
        # The distance to the nearest day but one; 0 where too few days are known.
        second[~(observed & (days >= _FEWEST_DAYS) & (level > 0))] = 0
        again: dict[int, tuple[np.ndarray, ...]] = dict.fromkeys(_HABITS, (np.empty(0, np.int64),) * 2)
        for ago, apart in habits.items():
            again[ago] = np.nonzero((second > _UNLIKE) & (apart <= _UNLIKE))
        for apart in habits.values():
            np.minimum(second, apart, out=second)
        unlike = np.nonzero(second > _UNLIKE)
        mean = total[unlike] / np.maximum(days[unlike], 1)
        return _Compared(observed & (second <= _UNLIKE), (*unlike, second[unlike], mean), again)

    def _days(self, begin: int) -> Iterator[tuple[int, slice, slice]]:
        """For each number of days: the bins from ``begin`` on that have that day before them; that day's."""
        length = self.values.shape[1]
        for ago in range(1, _DAYS + 1):
            bins = ago * self.day
            if (first := max(bins, begin)) < length:
                yield ago, slice(first, length), slice(first - bins, length - bins)

    def _level(self, size: np.ndarray, first: int) -> np.ndarray:
        """Mean absolute value from 14 days before each bin from ``first`` on to a day before it, or 0."""
        total = np.pad(np.where(self.observed, size, 0).cumsum(axis=1, dtype=np.float64), ((0, 0), (1, 0)))
        count = np.pad(self.observed.cumsum(axis=1, dtype=np.int32), ((0, 0), (1, 0)))
        at = np.arange(first, size.shape[1])
        stop, begin = np.maximum(at - self.day + 1, 0), np.maximum(at - _DAYS * self.day, 0)
        mean = (total[:, stop] - total[:, begin]) / np.maximum(count[:, stop] - count[:, begin], 1)
        level: np.ndarray = mean.astype(np.float32)
        return level

    def _stretches(
        self, series: np.ndarray, at: np.ndarray, nearest: np.ndarray, mean: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Series, first bin and stop of the stretches that are events once they are over, int64."""
        if not len(series):
            return series, at, at
        starts = (np.diff(series, prepend=-1) != 0) | (np.diff(at, prepend=0) > self.confirmed)
        first = np.flatnonzero(starts)
        last = np.append(first[1:], len(at)) - 1
        near, typical = (np.add.reduceat(part, first) for part in (nearest, mean))
        count = np.diff(first, append=len(at))
        series, first, stop = series[first], at[first], at[last] + 1
        chosen = (stop - first <= self.longest) & (near > _EVENT * count) & (near > _APART * typical)
        return series[chosen], first[chosen], stop[chosen]

    def _over(self, usual: np.ndarray, series: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The first origin that knows each event to be over, int64; and whether there is one, bool."""
        length = usual.shape[1]
        cells = np.flatnonzero(usual)
        number = np.searchsorted(cells, series * length + stop) + self.confirmed - 1
        cell = np.append(cells, -1)[np.minimum(number, len(cells))]
        return cell % length + 1, cell // length == series

    def _recurred(
        self,
        again: dict[int, tuple[np.ndarray, ...]],
        series: np.ndarray,
        first: np.ndarray,
        stop: np.ndarray,
    ) -> np.ndarray:
        """The first origin that has seen each event recur, or one later than all; int64 ``[events]``."""
        length = self.values.shape[1]
        end = np.full(len(series), np.iinfo(np.int32).max, np.int64)
        if not len(series):
            return end
        cells, ago = [], []
        for days, (of, at) in again.items():
            inside = at >= days * self.day  # else the bin that it repeats is before the first one
            cells.append((of * length + at)[inside])
            ago.append(np.full(len(cells[-1]), days * self.day))
        seen = np.concatenate(cells)
        earlier = seen - np.concatenate(ago)
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
