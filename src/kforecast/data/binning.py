"""Averages rows into bins, by blocks of series: exact, with little memory besides the rows."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd

from kforecast.data.calendar import Calendar
from kforecast.data.grid import Grid, common_grid
from kforecast.data.measures import MEASURES, Repeats, measure
from kforecast.data.off_grid import OffGrid
from kforecast.data.rows import Rows, medians_of, usual_steps
from kforecast.errors import DataError
from kforecast.metrics.source import Names, RowBatch
from kforecast.window import Frequency

# A grid emptier than this results from a wrong timestamp (one row in 1970), not from traffic.
_MOST_CELLS_PER_ROW = 100
_SMALL = 1_000_000
# Cells averaged at once, and rows per block in memory: float64 temporaries stay within tens of MB.
_CELLS = 1_000_000
BLOCK_ROWS = 1_000_000
# A row may come up to half a step late.
_JITTER = 1.5
# Up to this many combinations of workload and metric, a lookup table replaces hashing.
_FEW_PAIRS = 1 << 16


class BinRange(NamedTuple):
    """The bins ``first_bin`` to ``first_bin + num_bins - 1`` of a grid."""

    grid: Grid
    first_bin: int
    num_bins: int


class Bins(NamedTuple):
    """Bins of the series ``begin`` to ``stop - 1``: float32 and bool ``[series, time]``."""

    begin: int
    stop: int
    values: np.ndarray
    observed: np.ndarray

    @property
    def last(self) -> int:
        """The newest bin observed in any of the series; 0 when there is none."""
        seen = np.flatnonzero(self.observed.any(axis=0))
        return int(seen[-1]) if len(seen) else 0


class RowStore(Protocol):
    """Holds rows until their grid is known."""

    def block(self, begin: int, stop: int) -> Rows:
        """The rows of the series ``begin`` to ``stop - 1``; the rows of a series keep their order."""
        ...


@dataclass
class Tally:
    """Counts of what was cleaned during binning, and how."""

    combine: str | None = None
    """What several rows of a series at one moment come to: ``sum``, or their mean."""
    measures: np.ndarray | None = None
    """Receives the measures of every series: :data:`~kforecast.data.measures.MEASURES` by number."""
    duplicates: int = 0
    out_of_order: int = 0
    unfinished_bins: int = 0
    off_grid: OffGrid = field(default_factory=OffGrid)


class SeriesNumbers:
    """Numbers series in order of appearance, so that rows sorted by series have ascending numbers."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, str], int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """``(workload, metric)`` by number."""
        return list(self._numbers)

    def of(self, workload: Names, metric: Names) -> np.ndarray:
        """The number of each row's series, ``[rows]``, in the smallest sufficient unsigned type."""
        width = len(metric.names)
        code = workload.codes.astype(np.int64) * width + metric.codes
        if width * len(workload.names) <= _FEW_PAIRS and code.min(initial=0) >= 0:
            present = np.flatnonzero(np.bincount(code))
            row_place = code
        else:
            row_place, present = pd.factorize(code)
        found = [
            self._numbers.setdefault(
                (str(workload.names[pair // width]), str(metric.names[pair % width])), len(self._numbers)
            )
            for pair in present.tolist()
        ]
        table = np.array(found, dtype=np.min_scalar_type(max(len(self._numbers) - 1, 0)))
        if row_place is code:
            by_code = np.zeros(width * len(workload.names), table.dtype)
            by_code[present] = table
            table = by_code
        numbers: np.ndarray = table[row_place]
        return numbers


class Intake:
    """Turns batches into compact rows, and counts what the grid and the report need."""

    def __init__(self) -> None:
        self.numbers = SeriesNumbers()
        self.rows = 0
        self.missing_values = 0
        self._counts = self._missing = np.zeros(0, dtype=np.int64)
        self._span: tuple[int, int] | None = None

    @property
    def counts(self) -> np.ndarray:
        """Number of rows with a value, by series number."""
        return np.pad(self._counts, (0, len(self.numbers) - len(self._counts)))

    def measures(self) -> np.ndarray:
        """A record of each series for its measures, with the number of rows without a value."""
        found = np.zeros(len(self.numbers), MEASURES)
        found["nan"][: len(self._missing)] = self._missing
        return found

    def compact(self, batch: RowBatch) -> Rows:
        """The rows of a batch with a value, in compact types."""
        rows = Rows(self.numbers.of(batch.workload, batch.metric), batch.timestamp, batch.value)
        self.rows += len(rows.value)
        missing = np.isnan(rows.value)
        if missing.any():
            self._missing = _added(self._missing, rows.series[missing])
            rows = rows.at(~missing)
            self.missing_values += len(missing) - len(rows.value)
        if not len(rows.value):
            return rows._replace(second=rows.second.astype(np.uint32))
        low, high = float(rows.second.min()), float(rows.second.max())
        if low >= 0 and high < 2**32:
            second = rows.second.astype(np.uint32)
        else:
            second = np.floor(rows.second).astype(np.int64)
        first, last = self._span or (int(second[0]), int(second[0]))
        self._span = min(first, int(second.min())), max(last, int(second.max()))
        self._counts = _added(self._counts, rows.series)
        return rows._replace(second=second)

    def bin_range(
        self,
        frequency: Frequency,
        calendar: Calendar | None,
        store: RowStore,
        blocks: Sequence[tuple[int, int]],
    ) -> BinRange:
        """The bins from the first row to the last one.

        Parameters
        ----------
        calendar:
            Local time of the series, which the bins follow; None for UTC.

        Raises
        ------
        DataError
            When no row has a value, or the time range is implausible.
        """
        if self._span is None:
            raise DataError("no row has a value")
        grid = common_grid(calendar or Calendar(), self.numbers.pairs, frequency.step, self._span)
        first_bin, last_bin = (grid.bin_at(second) for second in self._span)
        bins = BinRange(grid, first_bin, last_bin - first_bin + 1)
        if self._too_empty(bins, 0):
            tally = Tally()
            for begin, stop in blocks:
                merged(store.block(begin, stop), tally)
            self.check_range(bins, frequency, tally)
        return bins

    def check_range(self, bins: BinRange, frequency: Frequency, tally: Tally) -> None:
        """Refuse a range that is nearly empty.

        Raises
        ------
        DataError
            When the range is implausible for so few rows; the message names it.
        """
        if not self._too_empty(bins, tally.duplicates):
            return
        start, end = (
            np.datetime64(int(bins.grid.seconds(number)), "s").astype("datetime64[D]")
            for number in (bins.first_bin, bins.first_bin + bins.num_bins - 1)
        )
        raise DataError(
            f"the rows span {start} to {end}: {bins.num_bins:,} bins of {frequency.name} "
            f"for {len(self.numbers):,} series are too many for "
            f"{int(self._counts.sum()) - tally.duplicates:,} rows; is a timestamp wrong?"
        )

    def _too_empty(self, bins: BinRange, duplicates: int) -> bool:
        moments = int(self._counts.sum()) - duplicates
        return bins.num_bins * len(self.numbers) > max(_SMALL, _MOST_CELLS_PER_ROW * moments)


class RowsInMemory:
    """The rows of batches, held in memory in their order."""

    def __init__(self, batches: Iterable[Rows]) -> None:
        # Each batch is sorted by series, so that the rows of a block are found by binary search.
        self._chunks = [_grouped(rows) for rows in batches if len(rows.value)]

    def block(self, begin: int, stop: int) -> Rows:
        """The rows of the series ``begin`` to ``stop - 1``; the rows of a series keep their order."""
        parts = [part for chunk in self._chunks if len((part := _between(chunk, begin, stop)).value)]
        if not parts:
            return Rows(np.empty(0, np.uint32), np.empty(0, np.uint32), np.empty(0))
        return Rows(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def blocks_of(counts: np.ndarray, most_rows: int) -> list[tuple[int, int]]:
    """Ranges of series numbers with at most ``most_rows`` rows in total, or with a single series."""
    blocks, begin, held = [], 0, 0
    for number, count in enumerate(counts.tolist()):
        if held + count > most_rows and number > begin:
            blocks.append((begin, number))
            begin, held = number, 0
        held += count
    return [*blocks, (begin, len(counts))] if len(counts) else blocks


def bin_rows(
    store: RowStore,
    blocks: Iterable[tuple[int, int]],
    bins: BinRange,
    tally: Tally,
    keep_unfinished: bool = False,
) -> Iterator[Bins]:
    """Average rows into bins, block by block; add what is cleaned to ``tally``.

    Rows of a series at the same second count once, with their mean or sum. The newest bin of a series is
    dropped when it is unfinished, because no row reaches its last step; ``keep_unfinished`` keeps it.
    """
    width = max(1, _CELLS // bins.num_bins)
    for begin, stop in blocks:
        rows, repeats = merged(store.block(begin, stop), tally)
        if tally.measures is not None:
            chosen = tally.combine in ("sum", "mean")  # then repeats are as the user wants them
            numbers, measured = measure(
                rows.series, rows.second, rows.value, None if chosen else repeats, bins.grid.step
            )
            measured["nan"] = tally.measures["nan"][numbers]
            tally.measures[numbers] = measured
        for low in range(begin, stop, width):
            high = min(low + width, stop)
            some = _between(rows, low, high)
            number = bins.grid.bins(some.second)
            values, observed = _averaged(some, number, low, high - low, bins)
            steps = usual_steps(some, low, high - low)
            tally.off_grid.look_at(some, number, low, steps, bins.grid)
            if not keep_unfinished:
                series, newest = _unfinished(some, number, low, steps, bins.grid)
                cells = (series, newest - bins.first_bin)
                values[cells], observed[cells] = 0.0, False
                tally.unfinished_bins += len(series)
            yield Bins(low, high, values, observed)


def _added(counts: np.ndarray, series: np.ndarray) -> np.ndarray:
    """Counts by series number, with one more for each of these rows."""
    found = np.bincount(series, minlength=len(counts))
    found[: len(counts)] += counts
    return found


def _grouped(rows: Rows) -> Rows:
    """Sort rows by series; the rows of a series keep their order."""
    if not (rows.series[1:] < rows.series[:-1]).any():
        return rows
    local = rows.series - rows.series.min()
    # numpy uses radix sort for 16-bit integers, which is several times faster.
    narrow = local.astype(np.uint16) if local.max() < 2**16 else local
    return rows.at(np.argsort(narrow, kind="stable"))


def _between(rows: Rows, begin: int, stop: int) -> Rows:
    """The rows of the series ``begin`` to ``stop - 1``; the rows must be sorted by series."""
    if not len(rows.series):
        return rows
    first, last = int(rows.series[0]), int(rows.series[-1])
    if stop <= first or last < begin:
        return rows.at(slice(0, 0))
    # In the type of the rows, because numpy would convert all rows otherwise.
    low, high = np.array([max(begin, first), min(stop - 1, last)], rows.series.dtype)
    inside = slice(np.searchsorted(rows.series, low), np.searchsorted(rows.series, high, side="right"))
    return rows.at(inside)


def merged(rows: Rows, tally: Tally) -> tuple[Rows, Repeats | None]:
    """Sort rows by series and time, merge rows at the same second; the seconds that had several, if any."""
    rows = _grouped(rows)
    same = rows.series[1:] == rows.series[:-1]
    # Rows that are earlier than the row before them in the same series.
    back = int(np.count_nonzero((rows.second[1:] < rows.second[:-1]) & same))
    if back:
        tally.out_of_order += back
        rows = rows.at(np.lexsort((rows.second, rows.series)))
    again = (rows.second[1:] == rows.second[:-1]) & same
    repeated = int(np.count_nonzero(again))
    if not repeated:
        return rows, None
    tally.duplicates += repeated
    begin = np.flatnonzero(np.r_[True, ~again])
    length = np.diff(np.r_[begin, len(rows.value)])
    total = np.add.reduceat(rows.value, begin)
    value = total if tally.combine == "sum" else total / length
    several = np.flatnonzero(length > 1)
    differ = np.maximum.reduceat(rows.value, begin) != np.minimum.reduceat(rows.value, begin)
    found = Rows(rows.series[begin], rows.second[begin], value)
    return found, Repeats(found.series[several], found.second[several], length[several], differ[several])


def _unfinished(
    rows: Rows, number: np.ndarray, begin: int, step: np.ndarray, grid: Grid
) -> tuple[np.ndarray, np.ndarray]:
    """The series with an unfinished newest bin, counted from ``begin``, and the numbers of these bins.

    ``number`` has the bin of each row, ``step`` the usual step of each series.

    A bin is finished if a row reaches its last step, or comes as late in it as is usual for the series, or
    if the series has about one row a bin. The only bin of a series is kept.
    """
    # The newest row of each bin, and the seconds from it to the end of the bin.
    other = rows.series[1:] != rows.series[:-1]
    last = np.flatnonzero(np.r_[other | (number[1:] != number[:-1]), np.ones(len(number[:1]), bool)])
    series, number = rows.series[last], number[last]
    left = grid.seconds(number + 1) - rows.second[last]
    newest = np.r_[series[1:] != series[:-1], np.ones(len(series[:1]), bool)]
    usually_left = medians_of(series[~newest], left[~newest], begin, len(step), fewest=1)
    most = np.maximum(_JITTER * step, usually_left + (_JITTER - 1) * step)
    most[np.isnan(most) | (step >= grid.step)] = np.inf
    series, number, left = series[newest].astype(np.int64) - begin, number[newest], left[newest]
    unfinished = left > most[series]
    return series[unfinished], number[unfinished]


def _averaged(
    rows: Rows, number: np.ndarray, begin: int, num_series: int, bins: BinRange
) -> tuple[np.ndarray, np.ndarray]:
    """Mean of each bin (float32) and whether it is observed (bool), both ``[series, time]``."""
    shape = (num_series, bins.num_bins)
    cell = rows.series.astype(np.int64)
    cell -= begin
    cell *= bins.num_bins
    cell += number
    cell -= bins.first_bin
    count = np.bincount(cell, minlength=num_series * bins.num_bins).reshape(shape)
    total = np.bincount(cell, weights=rows.value, minlength=num_series * bins.num_bins).reshape(shape)
    observed = count > 0
    mean = np.divide(total, count, out=np.zeros(shape), where=observed)
    return mean.astype(np.float32), observed
