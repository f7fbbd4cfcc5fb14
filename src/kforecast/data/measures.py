"""Measures of every series' rows, by arrays over blocks of series: what the findings of a history rest on."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

# One record a series. Moments are unix seconds, durations seconds; zero where there is nothing to measure.
MEASURES = np.dtype(
    [
        ("points", np.int64),  # moments with a number
        ("nan", np.int64),  # rows without a number
        ("first", np.int64),  # oldest and newest moment
        ("last", np.int64),
        ("step", np.int64),  # the most frequent distance of neighbours
        ("coarse", np.int64),  # the usual distance, if nearly all rows lie further apart than a bin
        ("longest_gap", np.int64),  # the longest distance of neighbours, and where it begins
        ("gap_begin", np.int64),
        ("phase", np.int64),  # the most frequent remainder of moment and step; -1 when there is no usual one
        ("repeated", np.int64),  # rows at a moment that has another row already
        ("repeated_moments", np.int64),  # moments with several rows
        ("differing_moments", np.int64),  # those whose values differ
        ("repeated_at", np.int64),  # the first moment with several rows, and their number
        ("repeated_rows", np.int64),
        ("negative", np.int64),  # moments below zero, and the least value
        ("least", np.float64),
        ("still_points", np.int64),  # the longest run of one value: length, begin, duration, value
        ("still_begin", np.int64),
        ("still_seconds", np.int64),
        ("still_value", np.float64),
        ("counter", np.bool_),  # whether it looks like a counter
    ]
)
# Temporary arrays of this length stay in the processor's caches.
_ROWS_AT_ONCE = 1 << 16
# A counter: at least so many rows, and rises; falls are rare, and nearly all of them resets.
_FEWEST_ROWS, _FEWEST_RISES = 20, 10
_RARE, _RARE_FULL = 0.1, 0.2
_RESET_RISES = 3.0
# See _are_noisy: 1.5 for a trend with noise, 1 for independent requests, less for traffic with cycles.
# The fewer rows, the nearer to 1 a ratio has to be that is not due to chance.
_NOISE_EXCESS, _NOISE_ROWS = 0.25, 300
_FEWEST_STEPS = 6
_JITTER = 0.05


class Repeats(NamedTuple):
    """Moments with several rows of one series, each column ``[moments]``."""

    series: np.ndarray
    second: np.ndarray
    rows: np.ndarray
    """Number of rows."""
    differ: np.ndarray
    """Whether their values differ."""


class _Groups(NamedTuple):
    """Groups of consecutive elements: where each begins, and its length (at least 1)."""

    begin: np.ndarray
    length: np.ndarray

    def spread(self, per_group: np.ndarray) -> np.ndarray:
        """A value of each group for all its elements."""
        return np.repeat(per_group, self.length)

    def total(self, elements: np.ndarray) -> np.ndarray:
        """Sums by group; counts for bool."""
        kind = np.int64 if elements.dtype == bool else elements.dtype
        found: np.ndarray = np.add.reduceat(elements, self.begin, dtype=kind)
        return found

    def most(self, elements: np.ndarray) -> np.ndarray:
        """Maxima by group."""
        found: np.ndarray = np.maximum.reduceat(elements, self.begin)
        return found

    def first_where(self, hit: np.ndarray) -> np.ndarray:
        """Index of the first hit of each group; every group must have one."""
        hits = np.flatnonzero(hit)
        found: np.ndarray = hits[np.searchsorted(hits, self.begin)]
        return found

    def only(self, chosen: np.ndarray) -> tuple["_Groups", np.ndarray]:
        """Some groups, and which elements belong to them; both bool arrays."""
        length = self.length[chosen]
        return _of_lengths(length), self.spread(chosen)


def _of_lengths(length: np.ndarray) -> _Groups:
    return _Groups(np.cumsum(length) - length, length)


def measure(
    series: np.ndarray, second: np.ndarray, value: np.ndarray, repeats: Repeats | None, bin_width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Measure rows that are sorted by series and moment, with one row a moment.

    Parameters
    ----------
    series, second, value:
        Number of the series, unix seconds, value: ``[rows]``.
    repeats:
        The moments that had several rows; None when there are none.
    bin_width:
        Seconds.

    Returns
    -------
    The numbers of the series that have rows, ascending, and their :data:`MEASURES`; ``nan`` is 0.
    """
    begin = np.flatnonzero(np.r_[True, series[1:] != series[:-1]]) if len(series) else np.zeros(0, np.int64)
    groups = _Groups(begin, np.diff(np.r_[begin, len(series)]))
    numbers, found = series[begin].astype(np.int64), np.zeros(len(begin), MEASURES)
    if not len(series):
        return numbers, found
    found["points"] = groups.length
    found["first"], found["last"] = second[begin], second[begin + groups.length - 1]
    part = begin // _ROWS_AT_ONCE
    parts = np.flatnonzero(np.r_[True, part[1:] != part[:-1]])
    for low, high in pairwise([*parts.tolist(), len(begin)]):
        some = _of_lengths(groups.length[low:high])
        rows = slice(int(begin[low]), int(begin[high - 1] + groups.length[high - 1]))
        seconds = second[rows].astype(np.int64)
        _measure_steps(found[low:high], seconds, some, bin_width)
        _measure_values(found[low:high], seconds, value[rows], some)
    if repeats is not None:
        _measure_repeats(found, np.searchsorted(numbers, repeats.series), repeats)
    return numbers, found


def _measure_steps(found: np.ndarray, second: np.ndarray, groups: _Groups, bin_width: int) -> None:
    found["phase"] = -1
    several = groups.length > 1
    if not several.any():
        return
    whole, inside = groups.only(several)
    second = second[inside]
    distance = np.delete(np.diff(second), whole.begin[1:] - 1)
    steps = _of_lengths(whole.length - 1)
    mode, count, median = _modes(distance, steps)
    longest = steps.most(distance)
    at = np.zeros_like(longest)
    gaps = longest > 1.5 * mode
    if gaps.any():
        some, chosen = steps.only(gaps)
        first = some.first_where(distance[chosen] == some.spread(longest[gaps]))
        at[gaps] = np.delete(second, whole.begin + whole.length - 1)[chosen][first]
    phase, usual = second[whole.begin] % mode, whole.length.copy()
    irregular = count < steps.length
    if irregular.any():
        some, chosen = whole.only(irregular)
        phase[irregular], usual[irregular], _ = _modes(second[chosen] % some.spread(mode[irregular]), some)
    found["step"][several], found["longest_gap"][several], found["gap_begin"][several] = mode, longest, at
    found["phase"][several] = np.where(2 * usual >= whole.length, phase, -1)
    found["coarse"][several] = _coarse(distance, steps, mode, 2 * count > steps.length, median, bin_width)


def _coarse(
    distance: np.ndarray,
    steps: _Groups,
    mode: np.ndarray,
    usual_mode: np.ndarray,
    median: np.ndarray,
    bin_width: int,
) -> np.ndarray:
    """The usual step of series whose rows lie regularly further apart than a bin; 0 for all others."""
    found = np.zeros_like(mode)
    limit = np.where(usual_mode, bin_width, bin_width * (1 + _JITTER))
    maybe = (median > limit) & (steps.length >= _FEWEST_STEPS)
    if not maybe.any():
        return found
    some, chosen = steps.only(maybe)
    distance, mode, median = distance[chosen], mode[maybe], median[maybe]
    apart = some.total(distance > bin_width) >= 0.9 * some.length
    # Events have no usual distance. Regular rows have one in spite of jitter, or multiples of it with gaps.
    usual = some.spread(median)
    near = 3 * some.total(np.abs(distance - usual) <= 0.1 * usual) >= some.length
    multiple = some.total(distance % some.spread(mode) == 0) >= 0.9 * some.length
    multiple &= mode > bin_width
    # In spite of jitter the step is a number of minutes.
    rounded = np.where(median >= 600, np.rint(median / 60).astype(np.int64) * 60, median)
    found[maybe] = np.where(apart & multiple, mode, np.where(apart & near, rounded, 0))
    return found


def _measure_values(found: np.ndarray, second: np.ndarray, value: np.ndarray, groups: _Groups) -> None:
    found["least"] = np.minimum.reduceat(value, groups.begin)
    if (found["least"] < 0).any():
        found["negative"] = groups.total(value < 0)
    found["still_points"], found["still_begin"] = 1, second[groups.begin]
    found["still_value"] = value[groups.begin]
    again = np.r_[False, value[1:] == value[:-1]]
    again[groups.begin] = False
    repeats = np.flatnonzero(again)
    if len(repeats):
        new = np.flatnonzero(np.r_[True, np.diff(repeats) > 1])
        begin, length = repeats[new] - 1, np.diff(np.r_[new, len(repeats)]) + 1
        series = np.searchsorted(groups.begin, begin, side="right") - 1
        first = np.flatnonzero(np.r_[True, series[1:] != series[:-1]])
        runs = _Groups(first, np.diff(np.r_[first, len(series)]))
        longest = runs.first_where(length == runs.spread(runs.most(length)))
        still, at = series[longest], begin[longest]
        found["still_points"][still] = length[longest]
        found["still_begin"][still] = second[at]
        found["still_seconds"][still] = second[at + length[longest] - 1] - second[at]
        found["still_value"][still] = value[at]
    found["counter"] = _counters(second, value, found["least"], groups)


def _counters(second: np.ndarray, value: np.ndarray, least: np.ndarray, groups: _Groups) -> np.ndarray:
    """Which series only grow, but for resets; bool ``[series]``.

    Resets are rare and large: all of a counter, or the share of a pod in a sum. Falls of a gauge that grows
    are as small as its noise.
    """
    change = np.r_[0.0, np.diff(value)]
    change[groups.begin] = 0.0
    rises, falls = groups.total(change > 0), groups.total(change < 0)
    counter: np.ndarray = (
        (groups.length >= _FEWEST_ROWS)
        & (least >= 0)
        & (rises >= _FEWEST_RISES)
        & (falls <= _RARE_FULL * (rises + falls))
    )
    if not counter.any():
        return counter
    some, chosen = groups.only(counter)
    change, before = change[chosen], value[chosen] - change[chosen]
    duration = np.r_[1, np.diff(second[chosen])]
    rises, falls = rises[counter], falls[counter]
    mean_rise = some.total(np.maximum(change, 0.0)) / rises
    resets = some.total(-change >= some.spread(_RESET_RISES * mean_rise))
    full = some.total((change < 0) & (-change >= 0.5 * before))
    rare = (falls <= _RARE * (rises + falls)) | (full >= 0.9 * falls)
    counter[counter] = rare & (resets >= 2 / 3 * falls) & ~_are_noisy(change, duration, some)
    return counter


def _are_noisy(change: np.ndarray, duration: np.ndarray, groups: _Groups) -> np.ndarray:
    """Whether growth alternates, as noise on top of a trend makes it; bool ``[series]``.

    The growth rates of a gauge ``trend + noise`` differ by 6 variances of the noise from the one before, but
    only by 4 from the second one before. Those of a counter are traffic, which differs less from the nearer.
    """
    valid = change >= 0
    valid[groups.begin] = False  # no step leads to the first row
    rate = np.divide(change, duration, out=np.zeros_like(change), where=valid)
    squares = []
    for lag in (1, 2):
        both = np.r_[np.zeros(lag, bool), valid[lag:] & valid[:-lag]]
        if lag == 2:  # not across a reset, or the first row of a series
            both[lag:] &= valid[1:-1]
        difference = np.where(both, rate - np.r_[np.zeros(lag), rate[:-lag]], 0.0)
        squares.append(groups.total(difference**2) / np.maximum(groups.total(both), 1))
    level = groups.total(rate) / groups.length
    limit = 1 + _NOISE_EXCESS * np.sqrt(np.minimum(1, groups.length / _NOISE_ROWS))
    # Constant growth differs by rounding only.
    noisy: np.ndarray = (squares[0] > limit * squares[1]) & (squares[0] > (1e-6 * level) ** 2)
    return noisy


def _measure_repeats(found: np.ndarray, place: np.ndarray, repeats: Repeats) -> None:
    """Add the repeated moments; ``place`` is the record of each of them."""
    size = len(found)
    found["repeated"] = np.bincount(place, weights=repeats.rows - 1, minlength=size)
    found["repeated_moments"] = np.bincount(place, minlength=size)
    found["differing_moments"] = np.bincount(place[repeats.differ], minlength=size)
    which, first = np.unique(place, return_index=True)
    found["repeated_at"][which] = repeats.second[first]
    found["repeated_rows"][which] = repeats.rows[first]


def _modes(elements: np.ndarray, groups: _Groups) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The most frequent element of each group (the smallest one of several), its count, and the median."""
    mode = elements[groups.begin + groups.length // 2]
    count = groups.total(elements == groups.spread(mode))
    median = mode.copy()
    unclear = 2 * count <= groups.length
    if unclear.any():  # only these are sorted
        some, chosen = groups.only(unclear)
        number = some.spread(np.arange(len(some.length)))
        order = np.lexsort((elements[chosen], number))
        ordered = elements[chosen][order]
        new = np.r_[True, (ordered[1:] != ordered[:-1]) | (number[1:] != number[:-1])]
        begin = np.flatnonzero(new)
        length = np.diff(np.r_[begin, len(ordered)])
        runs_begin = np.searchsorted(begin, some.begin)
        runs = _Groups(runs_begin, np.diff(np.r_[runs_begin, len(begin)]))
        longest = runs.first_where(length == runs.spread(runs.most(length)))
        mode[unclear], count[unclear] = ordered[begin[longest]], length[longest]
        median[unclear] = ordered[some.begin + (some.length - 1) // 2]
    return mode, count, median
