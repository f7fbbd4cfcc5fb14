"""Panel: every series on one UTC grid, with a mask that says what was really observed."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from kforecast.errors import DataError
from kforecast.window import Frequency

# A grid this empty comes from a wrong timestamp (one row in 1970), not from traffic.
_MOST_CELLS_PER_ROW = 100
_SMALL = 1_000_000


@dataclass(frozen=True)
class CleaningReport:
    """What :meth:`Panel.from_frame` met and mended, each a count of rows or of bins."""

    rows: int = 0
    missing_values: int = 0
    duplicates: int = 0
    out_of_order: int = 0
    incomplete_bins: int = 0

    def __str__(self) -> str:
        said = [
            (self.missing_values, "without a value, dropped"),
            (self.duplicates, "at a timestamp already seen, averaged"),
            (self.out_of_order, "earlier than the row before, sorted"),
        ]
        parts = [f"{self.rows:,} rows"] + [f"{count:,} {what}" for count, what in said if count]
        if self.incomplete_bins:
            parts.append(f"{self.incomplete_bins:,} incomplete newest bins (fewer rows than usual), dropped")
        return "; ".join(parts)


@dataclass(frozen=True)
class Panel:
    """Series on one grid of bins labelled by their start, in UTC.

    Attributes
    ----------
    values:
        float32 ``[series, time]``; 0 where nothing was observed, never to be read there.
    observed:
        bool ``[series, time]``.
    start:
        Unix seconds of the first bin.
    frequency:
        Bin width and calendar.
    series:
        ``(workload, metric)`` of each row, in sorted order of :func:`item_key`.
    report:
        What was mended on the way.
    """

    values: np.ndarray
    observed: np.ndarray
    start: int
    frequency: Frequency
    series: tuple[tuple[str, str], ...]
    report: CleaningReport = field(default_factory=CleaningReport)

    @property
    def num_series(self) -> int:
        """Rows of the panel."""
        return len(self.series)

    @property
    def num_bins(self) -> int:
        """Columns of the panel."""
        return int(self.values.shape[1])

    @property
    def timestamps(self) -> np.ndarray:
        """Unix seconds of every bin, int64 ``[time]``."""
        return self.start + np.arange(self.num_bins, dtype=np.int64) * self.frequency.step

    @property
    def item_ids(self) -> dict[str, int]:
        """``item2id.json`` of the artifact: the id of each item key (contract 5)."""
        return {item_key(*pair): number for number, pair in enumerate(self.series)}

    def padded(self, before: int, after: int) -> "Panel":
        """The panel with that many unobserved bins at its ends."""
        width = ((0, 0), (before, after))
        start = self.start - before * self.frequency.step
        return replace(
            self, values=np.pad(self.values, width), observed=np.pad(self.observed, width), start=start
        )

    def rows(self, chosen: Sequence[int]) -> "Panel":
        """The panel of some series, by row number in ascending order."""
        picked = list(chosen)
        series = tuple(self.series[row] for row in picked)
        return replace(self, values=self.values[picked], observed=self.observed[picked], series=series)

    def fingerprint(self) -> str:
        """A sha256 over grid, names, mask and values: equal for equal data, whatever file it came from."""
        digest = hashlib.sha256(f"{self.frequency.name} {self.start} {self.series!r}".encode())
        digest.update(np.packbits(self.observed).tobytes())
        digest.update(np.ascontiguousarray(self.values).tobytes())
        return digest.hexdigest()

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, frequency: Frequency) -> "Panel":
        """Average the rows of a long frame (contract 3) into bins.

        Rows at the same timestamp of a series count once, with their mean. The newest bin of a series
        is dropped when it has fewer rows than is usual (the median) for that series: it has only begun.

        Raises
        ------
        DataError
            When nothing is observed, two series share an item key, or the time range is absurd.
        """
        series, row_series = _series_of_rows(frame)
        value = frame["value"].to_numpy(dtype=np.float64)
        second = np.floor(frame["timestamp"].to_numpy(dtype=np.float64)).astype(np.int64)
        known = ~np.isnan(value)
        missing_values = int((~known).sum())
        if missing_values:
            value, second, row_series = value[known], second[known], row_series[known]
        if not len(value):
            raise DataError("no row has a value")

        value, second, row_series, out_of_order = _in_order(value, second, row_series)
        value, second, row_series, duplicates = _average_duplicates(value, second, row_series)

        step = frequency.step
        first_bin, last_bin = int(second.min()) // step, int(second.max()) // step
        num_bins = last_bin - first_bin + 1
        if num_bins * len(series) > max(_SMALL, _MOST_CELLS_PER_ROW * len(value)):
            raise DataError(
                f"the rows span {pd.Timestamp(first_bin * step, unit='s'):%Y-%m-%d} to "
                f"{pd.Timestamp(last_bin * step, unit='s'):%Y-%m-%d}: {num_bins:,} bins of {frequency.name} "
                f"for {len(series):,} series are too many for {len(value):,} rows; is a timestamp wrong?"
            )
        cell = row_series * num_bins + (second // step - first_bin)
        count = np.bincount(cell, minlength=len(series) * num_bins)
        total = np.bincount(cell, weights=value, minlength=len(series) * num_bins)
        count = count.reshape(len(series), num_bins)
        incomplete = _drop_incomplete_newest(count)
        # The grid ends with the newest bin that is left.
        num_bins = int(np.flatnonzero(count.any(axis=0))[-1]) + 1
        count, total = count[:, :num_bins], total.reshape(count.shape)[:, :num_bins]
        observed = count > 0
        mean = np.divide(total, count, out=np.zeros(count.shape), where=observed)
        report = CleaningReport(len(frame), missing_values, duplicates, out_of_order, incomplete)
        return cls(mean.astype(np.float32), observed, first_bin * step, frequency, series, report)


def item_key(workload: str, metric: str) -> str:
    """The key of a series in ``item2id.json``: both names joined with nothing between (contract 5)."""
    return workload + metric


def check_no_collision(series: Sequence[tuple[str, str]]) -> None:
    """Refuse series that the artifact could not tell apart.

    Raises
    ------
    DataError
        Naming both series.
    """
    seen: dict[str, tuple[str, str]] = {}
    for pair in series:
        other = seen.setdefault(item_key(*pair), pair)
        if other != pair:
            raise DataError(
                f"the series {other[0]!r} {other[1]!r} and {pair[0]!r} {pair[1]!r} have the same item key "
                f"{item_key(*pair)!r}; rename a metric"
            )


def _series_of_rows(frame: pd.DataFrame) -> tuple[tuple[tuple[str, str], ...], np.ndarray]:
    """The series in key order and, for each row, the number of its series (int64 ``[rows]``)."""
    workload = frame["workload"].astype("category").cat
    metric = frame["metric"].astype("category").cat
    code = workload.codes.to_numpy().astype(np.int64) * len(metric.categories) + metric.codes.to_numpy()
    present, row_present = np.unique(code, return_inverse=True)
    pairs = [
        (
            str(workload.categories[c // len(metric.categories)]),
            str(metric.categories[c % len(metric.categories)]),
        )
        for c in present
    ]
    check_no_collision(pairs)
    order = sorted(range(len(pairs)), key=lambda number: item_key(*pairs[number]))
    rank = np.empty(len(pairs), dtype=np.int64)
    rank[order] = np.arange(len(pairs))
    return tuple(pairs[number] for number in order), rank[row_present.reshape(-1)]


def _in_order(
    value: np.ndarray, second: np.ndarray, row_series: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Sort by series and time; also count the rows that are earlier than their series' row before."""
    by_series = np.argsort(row_series, kind="stable")
    value, second, row_series = value[by_series], second[by_series], row_series[by_series]
    back = (np.diff(second) < 0) & (np.diff(row_series) == 0)
    out_of_order = int(back.sum())
    if out_of_order:
        order = np.lexsort((second, row_series))
        value, second, row_series = value[order], second[order], row_series[order]
    return value, second, row_series, out_of_order


def _average_duplicates(
    value: np.ndarray, second: np.ndarray, row_series: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Merge rows of the same series and second into one; rows must be in order."""
    new = np.r_[True, (np.diff(second) != 0) | (np.diff(row_series) != 0)]
    duplicates = int((~new).sum())
    if not duplicates:
        return value, second, row_series, 0
    begin = np.flatnonzero(new)
    length = np.diff(np.r_[begin, len(value)])
    return np.add.reduceat(value, begin) / length, second[begin], row_series[begin], duplicates


def _drop_incomplete_newest(count: np.ndarray) -> int:
    """Empty the newest bin of every series that has too few rows in it; return how many were emptied.

    ``count`` is the rows per bin, ``[series, time]``, and is changed in place.
    """
    dropped = 0
    for rows in count:  # one pass per series, over whole arrays
        filled = np.flatnonzero(rows)
        if len(filled) > 1 and rows[filled[-1]] < np.median(rows[filled[:-1]]):
            rows[filled[-1]] = 0
            dropped += 1
    return dropped
