"""Effects of known events: learned from their occurrences, taken out of history, put into forecasts.

An event multiplies ordinary traffic by a factor. History is divided by it, so that networks learn and see
ordinary traffic, and forecasts of bins within an event are multiplied by it. Incidents become missing values.
"""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from kforecast.data.events.known import ALL, LEAST_FACTOR, MOST_FACTOR, KnownEvent, KnownEvents
from kforecast.data.panel import Panel, item_key
from kforecast.errors import few
from kforecast.files.untrusted import shortened

log = logging.getLogger(__name__)

# Days before and after an occurrence whose same time of day says what is usual: first the same day of the
# week, and where fewer than two of these are known, the days around.
_WEEKS, _DAYS = (-21, -14, -7, 7, 14, 21), (-3, -2, -1, 1, 2, 3)
_FEWEST_USUAL = 2
# Hours on both sides of an occurrence that say how far the day lies above or below its usual values.
_AROUND = 3
# A profile over the duration needs this many occurrences, each with this many bins a part.
_PARTS, _FEWEST_OCCURRENCES, _FEWEST_BINS = 4, 3, 2
# An effect below this leaves too little of ordinary traffic to divide by: such bins count as missing.
_LEAST_SEEN = 0.1
_MOST_NAMES, _MOST_SERIES = 10_000, 1_000_000


@dataclass(frozen=True)
class Effect:
    """How an event of some name changes traffic.

    Attributes
    ----------
    count:
        Occurrences that it was learned from.
    log:
        Mean logarithm of the factor over all series and occurrences.
    series:
        For item keys of series, occurrences and mean logarithm of their own.
    profile:
        What is added to the logarithm in equal parts of the duration; empty for none.
    """

    count: int
    log: float
    series: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    profile: tuple[float, ...] = ()

    @property
    def factor(self) -> float:
        """The mean factor."""
        return math.exp(self.log)

    def log_of(self, key: str, given: float | None) -> float:
        """The logarithm of the factor for a series.

        A given factor counts as one more occurrence, and so does the mean of all series for each of them.
        """
        mean = self.log if given is None else _with_one_more(self.count, self.log, math.log(given))
        return _with_one_more(*self.series[key], mean) if key in self.series else mean


def _with_one_more(count: int, mean: float, one: float) -> float:
    return (count * mean + one) / (count + 1)


@dataclass(frozen=True)
class Effects:
    """The effects of events by name, as an artifact keeps them."""

    by_name: Mapping[str, Effect] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for ``metadata.json``."""
        return {
            name: {
                "count": effect.count,
                "log": round(effect.log, 6),
                "series": {key: [count, round(log, 6)] for key, (count, log) in effect.series.items()},
                "profile": [round(part, 6) for part in effect.profile],
            }
            for name, effect in self.by_name.items()
        }

    @classmethod
    def from_dict(cls, content: Any) -> "Effects":
        """Rebuild effects from :meth:`as_dict`, read from an untrusted file.

        Raises
        ------
        ValueError
            When the content has any other shape.
        """
        if not isinstance(content, dict) or len(content) > _MOST_NAMES:
            raise ValueError("effects are a mapping from the names of events")
        return cls({str(name): _effect_of(name, part) for name, part in content.items()})

    def words(self) -> list[str]:
        """Each effect for the log."""
        return [
            f"{name}: x{effect.factor:.3g}, from {effect.count} occurrence{'s' * (effect.count != 1)}"
            for name, effect in self.by_name.items()
        ]


def _effect_of(name: str, content: Any) -> Effect:
    if not isinstance(content, dict) or set(content) != {"count", "log", "series", "profile"}:
        raise ValueError(f"the effect of {shortened(name)!r} has an unexpected structure")
    series, profile = content["series"], content["profile"]
    if not isinstance(series, dict) or len(series) > _MOST_SERIES:
        raise ValueError(f"the effect of {shortened(name)!r}: series is not a mapping")
    if not isinstance(profile, list) or len(profile) not in (0, _PARTS):
        raise ValueError(f"the effect of {shortened(name)!r}: profile is not a list of {_PARTS}")
    own = {}
    for key, pair in series.items():
        if not isinstance(pair, list) or len(pair) != 2:
            raise ValueError(f"the effect of {shortened(name)!r} on {shortened(key)!r} is not a pair")
        own[key] = (_count(pair[0]), _logarithm(pair[1]))
    parts = tuple(_logarithm(part) for part in profile)
    return Effect(_count(content["count"]), _logarithm(content["log"]), own, parts)


def _count(value: Any) -> int:
    if type(value) is not int or not 1 <= value < 2**31:
        raise ValueError(f"{shortened(value)} is not a number of occurrences")
    return value


def _logarithm(value: Any) -> float:
    if type(value) not in (int, float) or not math.log(LEAST_FACTOR) <= value <= math.log(MOST_FACTOR):
        raise ValueError(f"{shortened(value)} is not the logarithm of a factor")
    return float(value)


@dataclass(frozen=True)
class Plan:
    """Known events and their effects, which change history and forecasts.

    Attributes
    ----------
    known:
        The events and incidents.
    effects:
        What was learned about them; an event that is not among them has its given factor, or no effect.
    """

    known: KnownEvents
    effects: Effects = field(default_factory=Effects)

    def warnings(self, panel: Panel) -> list[str]:
        """Workloads that the panel does not have, and events of the file without any effect."""
        strange = self.known.strangers(panel)
        idle = {row.name for row in self.known.events if row.factor is None} - {*self.effects.by_name}
        found = [] if strange is None else [strange]
        if idle:
            found.append(
                f"{self.known.name}: nothing was learned about {few(sorted(idle))}: rows without a factor "
                "have no effect; give a factor, or train on a history with an earlier occurrence"
            )
        return found

    def without_incidents(self, panel: Panel) -> Panel:
        """The panel with the bins of incidents unobserved; the same object if there are none in it."""
        found = [cells for row in self.known.incidents if (cells := _within(row, panel)) is not None]
        if not found:
            return panel
        values, observed = panel.values.copy(), panel.observed.copy()
        for rows, bins in found:
            values[rows, bins], observed[rows, bins] = 0, False
        return replace(panel, values=values, observed=observed)

    def ordinary(self, panel: Panel) -> Panel:
        """The panel as it would have been without events and incidents; the same object if it has none."""
        cleaned = self.without_incidents(panel)
        found = [row for row in self.known.events if _within(row, panel) is not None]
        if not found:
            return cleaned
        values = cleaned.values if cleaned is not panel else panel.values.copy()
        observed = cleaned.observed if cleaned is not panel else panel.observed.copy()
        for rows in _together(found, panel):
            first = max(min(row.bins(panel).start for row in rows), 0)
            stop = min(max(row.bins(panel).stop for row in rows), panel.num_bins)
            factor = self._product(rows, panel, first, stop)
            assert factor is not None, "they concern the panel"
            unseen = factor < _LEAST_SEEN
            bins = slice(first, stop)
            values[:, bins] = np.where(unseen, 0, values[:, bins] / factor)
            observed[:, bins] &= ~unseen
        return replace(cleaned, values=values, observed=observed)

    def factors(self, panel: Panel, series: np.ndarray, bins: np.ndarray) -> np.ndarray | None:
        """The factors of bins, which may lie beyond the panel, float32 as ``bins``; None if all are 1.

        Parameters
        ----------
        series, bins:
            Row of the panel and bin, int64 of shapes that broadcast.
        """
        if not bins.size:
            return None
        first, stop = int(bins.min()), int(bins.max()) + 1
        table = self._product(self.known.events, panel, first, stop)
        return None if table is None else table[series, bins - first]

    def _product(
        self, events: Iterable[KnownEvent], panel: Panel, first: int, stop: int
    ) -> np.ndarray | None:
        """The factors of the bins ``[first, stop)``, float32 ``[series, bins]``; None if all are 1.

        Where events overlap, their product has the limits of a single factor.
        """
        table: np.ndarray | None = None
        for row in events:
            span = row.bins(panel)
            begin, end = max(span.start, first), min(span.stop, stop)
            if begin >= end or not len(rows := row.rows(panel)):
                continue
            if table is None:
                table = np.ones((panel.num_series, stop - first), np.float32)
            place = (rows, slice(begin - first, end - first))
            more = table[place] * self._factors(row, panel, rows, slice(begin, end))
            table[place] = np.clip(more, LEAST_FACTOR, MOST_FACTOR)
        return table

    def _factors(self, row: KnownEvent, panel: Panel, rows: np.ndarray, bins: slice) -> np.ndarray:
        """The factors of an event in some of its bins, float32 ``[rows, bins]``."""
        effect = self.effects.by_name.get(row.name)
        keys = [item_key(*panel.series[each]) for each in rows]
        if effect is None:
            logs = np.full(len(rows), 0.0 if row.factor is None else math.log(row.factor))
        else:
            logs = np.array([effect.log_of(key, row.factor) for key in keys])
        edges = panel.seconds(np.arange(bins.start, bins.stop + 1))
        share, place = _covered(row, edges)
        along = np.zeros(len(share))
        if effect is not None and effect.profile:
            along = np.array(effect.profile)[np.minimum((place * _PARTS).astype(int), _PARTS - 1)]
        limits = math.log(LEAST_FACTOR), math.log(MOST_FACTOR)
        factor = np.exp(np.clip(logs[:, None] + along, *limits))
        found: np.ndarray = (1 + share * (factor - 1)).astype(np.float32)
        return found


def _covered(row: KnownEvent, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The share of each bin that an event covers, and the middle of that as a share of its duration."""
    begin, end = np.maximum(edges[:-1], row.begin), np.minimum(edges[1:], row.end)
    share = np.maximum(end - begin, 0) / np.maximum(np.diff(edges), 1)
    return share, np.clip(((begin + end) / 2 - row.begin) / (row.end - row.begin), 0, 1)


def _together(events: Iterable[KnownEvent], panel: Panel) -> Iterator[list[KnownEvent]]:
    """Groups of events in the order of their begin, none of which shares a bin with another group."""
    group: list[KnownEvent] = []
    end = 0
    for row in events:
        bins = row.bins(panel)
        if group and bins.start >= end:
            yield group
            group = []
        group.append(row)
        end = max(end, bins.stop) if len(group) > 1 else bins.stop
    if group:
        yield group


def _within(row: KnownEvent, panel: Panel) -> tuple[np.ndarray, slice] | None:
    """The rows and bins of a panel that an event concerns; None if there are none."""
    bins = row.bins(panel)
    first, stop = max(bins.start, 0), min(bins.stop, panel.num_bins)
    if first >= stop or not len(rows := row.rows(panel)):
        return None
    return rows, slice(first, stop)


def learned(panel: Panel, known: KnownEvents, stop: int | None = None) -> Effects:
    """Learn the effects of events from their occurrences before bin ``stop``.

    The effect of an occurrence is its traffic divided by the usual traffic of that time: the median of the
    same time of the same day of the week up to three weeks before and after, or of the days around. It is
    corrected for the hours before and after the occurrence, which show how busy that day is.
    """
    stop = panel.num_bins if stop is None else stop
    usual = _Usual(Plan(known).without_incidents(panel), known, stop)
    found: dict[str, list[_Occurrence]] = {}
    for row in known.events:
        measured = usual.measured(row)
        if measured is not None:
            found.setdefault(row.name, []).append(measured)
    return Effects({name: _effect(occurrences, panel) for name, occurrences in found.items()})


@dataclass(frozen=True)
class _Occurrence:
    """Logarithms of an occurrence's factor, ``[rows]``, and by part of the duration, ``[rows, parts]``."""

    begin: int
    rows: np.ndarray
    log: np.ndarray
    parts: np.ndarray | None


def _effect(occurrences: Sequence[_Occurrence], panel: Panel) -> Effect:
    rows = np.concatenate([one.rows for one in occurrences])
    logs = np.concatenate([one.log for one in occurrences])
    count = np.bincount(rows, minlength=panel.num_series)
    mean = np.bincount(rows, logs, panel.num_series) / np.maximum(count, 1)
    own = {item_key(*panel.series[row]): (int(count[row]), float(mean[row])) for row in np.flatnonzero(count)}
    times = len({one.begin for one in occurrences})
    return Effect(times, float(logs.mean()), own, _profile(occurrences))


def _profile(occurrences: Sequence[_Occurrence]) -> tuple[float, ...]:
    """The mean course over the duration, drawn to flat as long as the occurrences do not agree on it."""
    parts = [(one.parts, one.log) for one in occurrences if one.parts is not None]
    if len(parts) < max(_FEWEST_OCCURRENCES, len(occurrences)):
        return ()
    each = np.array([np.mean(part - log[:, None], axis=0) for part, log in parts])
    mean, error = each.mean(axis=0), each.std(axis=0, ddof=1) / math.sqrt(len(each))
    agreed = mean**2 / np.maximum(mean**2 + error**2, 1e-12)
    limit = math.log(MOST_FACTOR)
    return tuple(float(part) for part in np.clip(mean * agreed, -limit, limit))


class _Usual:
    """The usual traffic at the times of events, from bins without events and incidents."""

    def __init__(self, panel: Panel, known: KnownEvents, stop: int) -> None:
        self.panel, self.stop = panel, stop
        # Which bins are of an event, for workloads that the file names, and in row 0 for all others.
        named = sorted({row.workload for row in known.rows} - {ALL})
        place = {workload: number + 1 for number, workload in enumerate(named)}
        self.busy = np.zeros((len(named) + 1, stop), bool)
        self.row = np.array([place.get(workload, 0) for workload, _ in panel.series], np.int64)
        for event in known.rows:
            bins = event.bins(panel)
            row = slice(None) if event.workload == ALL else place[event.workload]
            self.busy[row, max(bins.start, 0) : max(bins.stop, 0)] = True

    def measured(self, event: KnownEvent) -> _Occurrence | None:
        """The effect of an occurrence; None if it is not over before the stop, or nothing is known of it."""
        rows, bins = event.rows(self.panel), event.bins(self.panel)
        first, stop = bins.start, bins.stop
        if first < 0 or stop > self.stop or not len(rows):
            return None
        around = max(1, round(_AROUND * self.panel.frequency.day / 24))
        at = np.arange(max(first - around, 0), min(stop + around, self.stop))
        share, place = _covered(event, self.panel.seconds(np.append(at, at[-1] + 1)))
        during = share >= 0.5 if (share >= 0.5).any() else share > 0
        cells = (rows[:, None], at)
        actual = np.where(self.panel.observed[cells], self.panel.values[cells], np.nan)
        usual = self._usual(rows, at)
        beside = ~self.busy[self.row[rows][:, None], at] & (share == 0)
        level = np.nan_to_num(_log_ratio(actual, usual, beside))
        log = _log_ratio(actual, usual, during) - level
        known = np.isfinite(log)
        if not known.any():
            return None
        limit = math.log(MOST_FACTOR)
        part = np.minimum((place * _PARTS).astype(int), _PARTS - 1)
        parts = None
        if np.bincount(part[during], minlength=_PARTS).min() >= _FEWEST_BINS:
            inside = [_log_ratio(actual, usual, during & (part == number)) for number in range(_PARTS)]
            parts = (np.stack(inside, axis=1) - level[:, None])[known]
            parts = parts if np.isfinite(parts).all() else None
        return _Occurrence(event.begin, rows[known], np.clip(log[known], -limit, limit), parts)

    def _usual(self, rows: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Median of the same time of other days, ``[rows, at]``; NaN where too few are known."""
        day = self.panel.frequency.day
        weekly = self._median(rows, at, np.array(_WEEKS) * day)
        return np.where(np.isnan(weekly), self._median(rows, at, np.array(_DAYS) * day), weekly)

    def _median(self, rows: np.ndarray, at: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        then = at[:, None] + offsets
        inside = (then >= 0) & (then < self.stop)
        then = np.where(inside, then, 0)
        cell = (rows[:, None, None], then)
        known = inside & self.panel.observed[cell] & ~self.busy[self.row[rows][:, None, None], then]
        count = known.sum(axis=-1)
        ascending = np.sort(np.where(known, self.panel.values[cell].astype(np.float64), np.inf), axis=-1)
        low, high = (
            np.take_along_axis(ascending, np.maximum(middle, 0)[..., None], axis=-1)[..., 0]
            for middle in ((count - 1) // 2, np.minimum(count // 2, len(offsets) - 1))
        )
        return np.where(count >= _FEWEST_USUAL, (low + high) / 2, np.nan)


def _log_ratio(actual: np.ndarray, usual: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Logarithm of actual over usual traffic in the chosen bins, ``[rows]``; NaN if half of it is unknown."""
    chosen = np.broadcast_to(chosen, actual.shape)
    known = chosen & np.isfinite(actual) & np.isfinite(usual)
    above, below = (np.where(known, part, 0).sum(axis=1) for part in (actual, usual))
    enough = (2 * known.sum(axis=1) >= chosen.sum(axis=1)) & (below > 0) & (above >= 0)
    ratio = np.where(enough, above, np.nan) / np.where(enough, below, np.nan)
    found: np.ndarray = np.log(np.maximum(ratio, LEAST_FACTOR))
    return found
