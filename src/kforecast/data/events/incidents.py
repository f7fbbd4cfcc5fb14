"""Incidents: past stretches whose values say nothing about ordinary traffic, each with its evidence.

The whole history is at hand, so that a stretch is compared with days before and after it. The search of a
forecast for events (:mod:`kforecast.data.events.past`) knows the past alone, and serves another purpose:
it replaces values that a network looks back at.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kforecast.data.events.known import KnownEvent
from kforecast.data.findings import span, utc
from kforecast.data.origins import blocks
from kforecast.data.panel import Panel

# Days before and after a bin whose same time of day says what is usual.
_DAYS, _WEEKS = (-14, -7, -3, -2, -1, 1, 2, 3, 7, 14), (-28, -21, -14, -7, 7, 14, 21, 28)
# Of these values so many must be known, and so many of the largest and of the smallest may be unusual too.
_FEWEST_DAYS, _FEWEST_WEEKS, _TRIMMED = 4, 2, 1
# Night values of nearly nothing are compared with this share of the series' usual level.
_LEAST_LEVEL = 0.05
# Hours over which values are averaged before they are compared: noise hides long and mild incidents.
_SCALES = (0.0, 1.0, 3.0)
# A value is unusual if it lies beyond all those of other days by this factor, and by so many times their
# usual spread.
_BEYOND, _BEYOND_WEEKS, _SPREADS = np.log(1.3), np.log(1.4), 1.0
# It must lie this many times further from their median than nine of ten values do: in bursty traffic, high
# values are usual.
_TAILS = 2.5
# Hours on both sides of a stretch that say how busy the day is.
_AROUND = 2
# Hours. A longer stretch is a new level or a holiday; two stretches with a shorter break are one.
_LONGEST, _BREAK = 36, 1
# Kinds, by the factor over the usual values.
_NOTHING, _UNITS, _BURST, _SPIKE = 0.01, 12.0, 2.6, 3.0
_DOUBLE, _PARTIAL = (1.6, 2.6), (0.15, 0.72)
# Mild incidents must begin and end at once, and have a steady factor: busy days and holidays do not.
_EDGE, _UNSTEADY = 0.6, 0.35
# Values repeat by chance: a flat line is a run that would be expected so often in the history, or less.
_BY_CHANCE, _FEWEST_STILL, _STILL_HOURS = 0.001, 4, 1.0
_MOST_CELLS = 1 << 20
_BINS_A_DAY = 24
_MOST_LINES = 30


@dataclass(frozen=True)
class Incident:
    """A stretch of a series that is no ordinary traffic.

    Attributes
    ----------
    row:
        Row of the panel.
    kind:
        ``outage, flat line, burst, spike, double counting, partial loss, wrong unit, late rows``.
    evidence:
        In words.
    known:
        As a row of an events file.
    """

    row: int
    kind: str
    evidence: str
    known: KnownEvent


def found_incidents(panel: Panel, stop: int | None = None) -> list[Incident]:
    """Find the incidents that are over before bin ``stop``, by series and time.

    A stretch of bins is an incident if it lies beyond the values at the same time of nearly all of the ten
    days around it, by more than these usually differ, and if values were usual before and after it. A level
    that stays, a habit, and the events of a day that looks like others are none. Bins wider than an hour have
    no incidents.
    """
    frequency = panel.frequency
    stop = panel.num_bins if stop is None else stop
    found: list[Incident] = []
    if frequency.day < _BINS_A_DAY or stop < 3 * frequency.day:
        return found
    for first, observed in blocks(panel.observed[:, :stop], _MOST_CELLS):
        values = panel.values[first : first + len(observed), :stop].astype(np.float64)
        search = _Search(np.where(observed, values, np.nan), frequency.day)
        for number in range(len(observed)):
            for stretch in search.stretches(number):
                found.append(_incident(panel, first + number, stretch))
    return found


def incidents_text(panel: Panel, found: Sequence[Incident]) -> str:
    """The incidents for the console, by series and time."""
    if panel.frequency.day < _BINS_A_DAY:
        return f"Incidents are found in bins of an hour or less, not in bins of {panel.frequency.name}."
    if not found:
        return "No incidents found."
    lines = [f"{len(found):,} {'incident' if len(found) == 1 else 'incidents'} found:"]
    lines += [
        f"  {' '.join(panel.series[one.row])}: {one.kind} from {utc(one.known.begin)} UTC: {one.evidence}"
        for one in found[:_MOST_LINES]
    ]
    if len(found) > _MOST_LINES:
        lines.append(f"  ... and {len(found) - _MOST_LINES:,} more")
    return "\n".join(lines)


@dataclass(frozen=True)
class _Stretch:
    """A kind, a half-open range of bins, and the evidence."""

    kind: str
    begin: int
    end: int
    evidence: str


def _incident(panel: Panel, row: int, stretch: _Stretch) -> Incident:
    begin, end = panel.seconds(stretch.begin), panel.seconds(stretch.end)
    workload, metric = panel.series[row]
    known = KnownEvent(
        begin, end, workload, stretch.kind, incident=True, metric=metric, note=stretch.evidence
    )
    return Incident(row, stretch.kind, stretch.evidence, known)


class _Search:
    """The search in some series: values float64 ``[series, time]``, NaN where unobserved."""

    def __init__(self, values: np.ndarray, day: int) -> None:
        self.values, self.day = values, day
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a series without values
            self.level = np.nan_to_num(np.nanmedian(np.abs(values), axis=1))

    def stretches(self, row: int) -> list[_Stretch]:
        """The incidents of a series, by time."""
        value, level = self.values[row], self.level[row]
        found = [*self._flat_lines(value)]
        if level <= 0 or np.nanmin(value) < 0:  # factors say nothing
            return found
        usual = _median(self._others(value, _WEEKS), _FEWEST_WEEKS)
        usual = np.where(np.isnan(usual), _median(self._others(value, _DAYS), _FEWEST_DAYS), usual)
        ratio = _log(value, usual, level)
        for sign, unusual in zip((1, -1), self._unusual(value, level), strict=True):
            for begin, end in self._joined(unusual):
                stretch = self._judged(value, usual, sign * ratio, begin, end)
                if stretch and not any(one.begin < stretch.end and stretch.begin < one.end for one in found):
                    found.append(stretch)
        return sorted(found, key=lambda stretch: stretch.begin)

    def _others(self, value: np.ndarray, days: tuple[int, ...]) -> np.ndarray:
        """The values at the same time of other days, sorted, ``[days, time]``; NaN last."""
        made = np.full((len(days), len(value)), np.nan)
        for number, ago in enumerate(days):
            bins = abs(ago) * self.day
            if bins >= len(value):
                continue
            if ago < 0:
                made[number, bins:] = value[:-bins]
            else:
                made[number, :-bins] = value[bins:]
        return np.sort(made, axis=0)

    def _unusual(self, value: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
        """Which bins lie above, and which below the values of other days, alone or averaged."""
        found = np.zeros((2, len(value)), bool)
        for hours in _SCALES:
            width = round(hours * self.day / 24)
            smooth = value if width < 2 else _averaged(value, width)
            for days, least in ((_DAYS, _BEYOND), (_WEEKS, _BEYOND_WEEKS)):
                above, below = self._beyond(smooth, self._others(smooth, days), level, least)
                found |= [above, below]
        return found[0], found[1]

    def _beyond(
        self, value: np.ndarray, others: np.ndarray, level: float, least: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which bins lie above, and which below nearly all others by more than they usually differ."""
        count = (~np.isnan(others)).sum(axis=0)
        known = count >= _FEWEST_DAYS
        if not known.any():
            return known, known
        low = others[_TRIMMED]
        high = others[np.maximum(count - 1 - _TRIMMED, 0), np.arange(len(value))]
        spread = float(np.median(_log(high, low, level)[known])) / 2
        least = max(least, _SPREADS * spread)
        apart = _log(value, _median(others, _FEWEST_DAYS), level)
        usual = np.isfinite(apart)
        if not usual.any():
            return usual, usual
        far = np.abs(apart) > _TAILS * np.quantile(np.abs(apart[usual]), 0.9)
        return far & known & (_log(value, high, level) > least), far & known & (
            _log(low, value, level) > least
        )

    def _joined(self, unusual: np.ndarray) -> Iterator[tuple[int, int]]:
        """The stretches, with those that are only briefly interrupted as one."""
        at = np.flatnonzero(unusual)
        if not len(at):
            return
        most = max(1, round(_BREAK * self.day / 24))
        starts = np.flatnonzero(np.diff(at, prepend=-most - 2) > most)
        for begin, last in zip(at[starts], at[np.append(starts[1:], len(at)) - 1], strict=True):
            yield int(begin), int(last) + 1

    def _judged(
        self, value: np.ndarray, usual: np.ndarray, ratio: np.ndarray, begin: int, end: int
    ) -> _Stretch | None:
        """The stretch as an incident; None if it is not over, too long, or of no kind.

        ``ratio`` is the logarithm over the usual values, above 0 in the direction of the stretch.
        """
        around = max(2, round(_AROUND * self.day / 24))
        # Averages reach beyond an incident, and miss its ends.
        first, last = max(begin - around, 0), min(end + around, len(value))
        beside = np.concatenate([ratio[max(first - around, 0) : first], ratio[last : last + around]])
        beside = beside[np.isfinite(beside)]
        if first == 0 or last == len(value) or not len(beside):
            return None
        above = ratio[first:last] - np.median(beside)  # a busy or a quiet day as a whole is none
        strong = float(np.nanquantile(above[begin - first : end - first], 0.6))
        core = np.flatnonzero(np.nan_to_num(above) >= max(strong / 2, _BEYOND))
        if not len(core):
            return None
        core = _connected(core, max(begin - first, 0), max(1, round(_BREAK * self.day / 24)))
        begin, end = int(first + core[0]), int(first + core[-1]) + 1
        inside = above[core]
        log = float(np.median(inside))
        if end - begin > round(_LONGEST * self.day / 24) or end >= len(value):
            return None
        steady = float(np.median(np.abs(inside - log))) < _UNSTEADY * log
        at_once = self._at_once(above, begin - first, end - first, log)
        typical, seen = float(np.nanmedian(usual[begin:end])), float(np.nanmedian(value[begin:end]))
        factor = seen / typical if typical > 0 else np.inf
        lasted = span((end - begin) * 86_400 / self.day)
        said = f"{factor:.3g} times the usual for {lasted} (median {seen:.4g}, usually {typical:.4g})"
        kind = self._kind(factor, end - begin, steady, at_once)
        if seen <= _NOTHING * typical:
            kind, said = "outage", f"nothing for {lasted}, usually {typical:.4g}"
        gap = begin - _last_known(value, begin) - 1
        if kind in ("spike", "burst", "wrong unit") and end - begin <= 2 and gap >= 2:
            kind, said = "late rows", f"{said}, after {span(gap * 86_400 / self.day)} without values"
        return None if kind is None else _Stretch(kind, begin, end, said)

    def _kind(self, factor: float, length: int, steady: bool, at_once: bool) -> str | None:
        """The kind of a stretch, by its factor over the usual values."""
        if length <= 2:
            return "spike" if factor >= _SPIKE else None
        if (factor >= _UNITS or factor <= 1 / _UNITS) and steady and at_once:
            return "wrong unit"
        if _DOUBLE[0] <= factor <= _DOUBLE[1] and steady and at_once:
            return "double counting"
        if _PARTIAL[0] <= factor <= _PARTIAL[1] and steady and at_once:
            return "partial loss"
        return "burst" if factor >= _BURST else None

    def _at_once(self, above: np.ndarray, begin: int, end: int, log: float) -> bool:
        """Whether the factor is reached, and left, within two bins."""
        few = max(2, round(self.day / 48))
        sides = [
            (
                above[max(begin - 1 - few, 0) : max(begin - 1, 1)],
                above[begin + 1 : min(begin + 1 + few, end)],
            ),
            (above[end + 1 : end + 1 + few], above[max(end - 1 - few, begin) : end - 1]),
        ]
        jumps = [
            (np.nanmedian(inside) - np.nanmedian(outside)) / log
            for outside, inside in sides
            if np.isfinite(outside).any() and np.isfinite(inside).any()
        ]
        return len(jumps) == 2 and min(jumps) > _EDGE

    def _flat_lines(self, value: np.ndarray) -> Iterator[_Stretch]:
        """Runs of one value that chance does not explain."""
        same = value[1:] == value[:-1]
        known = np.isfinite(value[1:]) & np.isfinite(value[:-1])
        edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(int)))
        begin, stop = edges[::2], edges[1::2] + 1  # of the values
        length = stop - begin
        least = max(_FEWEST_STILL, round(_STILL_HOURS * self.day / 24))
        for first, end in zip(begin[length >= least].tolist(), stop[length >= least].tolist(), strict=True):
            others = np.ones(len(same), bool)
            others[first : end - 1] = False
            share = max((same & others).sum() + 1, 1) / max((known & others).sum(), 1)
            expected = known.sum() * share ** (end - first - 1)
            around = value[max(first - self.day, 0) : end + self.day]
            varies = np.nanstd(around[around != value[first]]) if (around != value[first]).any() else 0.0
            if expected > _BY_CHANCE or end - first > round(_LONGEST * self.day / 24) or not varies > 0:
                continue
            if value[first] == 0 and end >= len(value):
                continue
            kind = "outage" if value[first] == 0 else "flat line"
            lasted = span((end - first) * 86_400 / self.day)
            yield _Stretch(kind, first, end, f"exactly {value[first]:.6g} for {lasted}")


def _log(above: np.ndarray, below: np.ndarray, level: float) -> np.ndarray:
    """Logarithm of a ratio of values, with the same small amount added to both."""
    least = _LEAST_LEVEL * level
    found: np.ndarray = np.log((above + least) / (below + least))
    return found


def _median(ascending: np.ndarray, fewest: int) -> np.ndarray:
    """Median over sorted values with NaN last, ``[time]``; NaN where fewer than needed are known."""
    count = (~np.isnan(ascending)).sum(axis=0)
    column = np.arange(ascending.shape[1])
    low = ascending[np.maximum((count - 1) // 2, 0), column]
    high = ascending[np.minimum(count // 2, len(ascending) - 1), column]
    return np.where(count >= fewest, (low + high) / 2, np.nan)


def _connected(places: np.ndarray, inside: int, most: int) -> np.ndarray:
    """The places without longer breaks than ``most``, around the one nearest to ``inside``; all ascending."""
    group = np.cumsum(np.diff(places, prepend=places[0]) > most)
    chosen: np.ndarray = places[group == group[np.argmin(np.abs(places - inside))]]
    return chosen


def _averaged(value: np.ndarray, width: int) -> np.ndarray:
    """Centred averages of the known values; NaN where less than half are known."""
    known = np.isfinite(value)
    kernel = np.ones(width)
    total = np.convolve(np.where(known, value, 0), kernel, "same")
    count = np.convolve(known, kernel, "same")
    return np.where(2 * count >= width, total / np.maximum(count, 1), np.nan)


def _last_known(value: np.ndarray, before: int) -> int:
    """The newest known bin before one; -1 without."""
    known = np.flatnonzero(np.isfinite(value[max(before - 1000, 0) : before]))
    return int(known[-1]) + max(before - 1000, 0) if len(known) else -1
