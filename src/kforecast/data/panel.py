"""Panel: all series on one grid, with a mask of the observed bins."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import overload

import numpy as np
import pandas as pd

from kforecast.data.binning import BLOCK_ROWS, Intake, RowsInMemory, Tally, bin_rows, blocks_of
from kforecast.data.calendar import Calendar
from kforecast.data.grid import Grid
from kforecast.errors import DataError
from kforecast.metrics.source import Names, RowBatch
from kforecast.window import Frequency

_BATCH_ROWS = 1 << 18


@dataclass(frozen=True)
class CleaningReport:
    """What :meth:`Panel.from_frame` cleaned: counts of rows, and of bins for ``unfinished_bins``."""

    rows: int = 0
    missing_values: int = 0
    duplicates: int = 0
    out_of_order: int = 0
    unfinished_bins: int = 0
    summed: bool = False

    def __str__(self) -> str:
        said = [
            (self.missing_values, "without a value, dropped"),
            (self.duplicates, f"at a timestamp already seen, {'summed' if self.summed else 'averaged'}"),
            (self.out_of_order, "earlier than the row before, sorted"),
        ]
        parts = [f"{self.rows:,} rows"] + [f"{count:,} {what}" for count, what in said if count]
        if self.unfinished_bins:
            parts.append(
                f"{self.unfinished_bins:,} unfinished newest bins (no row in the last step), dropped"
            )
        return "; ".join(parts)


@dataclass(frozen=True)
class Panel:
    """Series on one grid; a bin is labelled by its start.

    Attributes
    ----------
    values:
        float32 ``[series, time]``; 0 where unobserved, and not to be used there.
    observed:
        bool ``[series, time]``: whether the bin has a value.
    start:
        Unix seconds of the first bin.
    frequency:
        Bin width and calendar.
    series:
        ``(workload, metric)`` of each row, sorted by :func:`item_key`.
    report:
        What was cleaned while the panel was made.
    zone:
        IANA name of the time zone whose local time the bins follow (:class:`kforecast.data.grid.Grid`).
    measures:
        :data:`~kforecast.data.measures.MEASURES` of each series' rows; None where the rows are unknown.
    """

    values: np.ndarray
    observed: np.ndarray
    start: int
    frequency: Frequency
    series: tuple[tuple[str, str], ...]
    report: CleaningReport = field(default_factory=CleaningReport)
    zone: str = "UTC"
    measures: np.ndarray | None = field(default=None, repr=False, compare=False)
    # Set where it is known without reading the data; replace() does not copy it.
    _fingerprint: str | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def num_series(self) -> int:
        """Number of series."""
        return len(self.series)

    @property
    def num_bins(self) -> int:
        """Number of bins."""
        return int(self.values.shape[1])

    @property
    def timestamps(self) -> np.ndarray:
        """Unix seconds of every bin, int64 ``[time]``."""
        return self.seconds(np.arange(self.num_bins, dtype=np.int64))

    @overload
    def seconds(self, bins: int) -> int: ...
    @overload
    def seconds(self, bins: np.ndarray) -> np.ndarray: ...
    def seconds(self, bins: int | np.ndarray) -> int | np.ndarray:
        """Unix seconds at which bins begin, given their indices, which may lie outside the panel."""
        if self.grid.is_uniform:
            return self.start + bins * self.frequency.step
        return self.grid.seconds(self.first_bin + bins)

    def bin_at(self, second: int) -> int:
        """The index of the bin that holds a moment (unix seconds); it may lie outside the panel."""
        if self.grid.is_uniform:
            return (second - self.start) // self.frequency.step
        return self.grid.bin_at(second) - self.first_bin

    @cached_property
    def grid(self) -> Grid:
        """The grid of the bins."""
        return Grid(self.frequency.step, self.zone)

    @cached_property
    def first_bin(self) -> int:
        """The number of the first bin on the grid."""
        return self.grid.bin_at(self.start)

    @property
    def item_ids(self) -> dict[str, int]:
        """The id of each item key, as in the artifact's ``item2id.json`` (contract 5)."""
        return {item_key(*pair): number for number, pair in enumerate(self.series)}

    @property
    def counters(self) -> list[str]:
        """The series that look like counters, as text; none where the rows are unknown."""
        found = () if self.measures is None else np.flatnonzero(self.measures["counter"])
        return [" ".join(self.series[row]) for row in found]

    def padded(self, before: int, after: int) -> "Panel":
        """The panel with additional unobserved bins at its ends."""
        width = ((0, 0), (before, after))
        return replace(
            self,
            values=np.pad(self.values, width),
            observed=np.pad(self.observed, width),
            start=self.seconds(-before),
        )

    def rows(self, chosen: Sequence[int]) -> "Panel":
        """The panel of some series, given by ascending row numbers."""
        picked = list(chosen)
        series = tuple(self.series[row] for row in picked)
        measures = None if self.measures is None else self.measures[picked]
        return replace(
            self,
            values=self.values[picked],
            observed=self.observed[picked],
            series=series,
            measures=measures,
        )

    def fingerprint(self) -> str:
        """SHA-256 over grid, names, mask and values: equal for equal data from any source."""
        if self._fingerprint is not None:
            return self._fingerprint
        digest = hashlib.sha256(fingerprint_head(self.frequency, self.start, self.series, self.zone))
        digest.update(np.packbits(self.observed).data)
        digest.update(np.ascontiguousarray(self.values).reshape(-1).data)
        return digest.hexdigest()

    def known_as(self, fingerprint: str) -> "Panel":
        """The panel with a known fingerprint, so that it need not be computed from the data."""
        panel = replace(self)
        object.__setattr__(panel, "_fingerprint", fingerprint)
        return panel

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        frequency: Frequency,
        calendar: Calendar | None = None,
        *,
        keep_unfinished: bool = False,
    ) -> "Panel":
        """Average the rows of a long frame (contract 3) into bins.

        Rows of a series at the same timestamp count once, with their mean. The newest bin of a series is
        dropped when it is unfinished, because no row reaches its last step.

        Parameters
        ----------
        calendar:
            Local time of the series, which the bins follow (:func:`kforecast.data.grid.common_grid`); None
            for UTC.
        keep_unfinished:
            Keep unfinished bins, as Kapacity's job does: they hold the mean of the rows so far.

        Raises
        ------
        DataError
            When nothing is observed, two series have the same item key, the time range is implausible, or the
            rows are days or hours of another time zone.
        """
        return cls.from_batches(_batches_of(frame), frequency, calendar, keep_unfinished=keep_unfinished)

    @classmethod
    def from_batches(
        cls,
        batches: Iterable[RowBatch],
        frequency: Frequency,
        calendar: Calendar | None = None,
        *,
        keep_unfinished: bool = False,
        on_multiple: str | None = None,
    ) -> "Panel":
        """As :meth:`from_frame`, from rows in batches; raises the same errors.

        Parameters
        ----------
        on_multiple:
            ``sum`` adds the rows of a series at the same timestamp up; otherwise they are averaged.
        """
        intake = Intake()
        store = RowsInMemory(intake.compact(batch) for batch in batches)
        series, row = in_key_order(intake.numbers.pairs)
        blocks = blocks_of(intake.counts, BLOCK_ROWS)
        span = intake.bin_range(frequency, calendar, store, blocks)
        grid, shape = span.grid, (len(series), span.num_bins)
        values, observed = np.empty(shape, np.float32), np.empty(shape, bool)
        tally = Tally(on_multiple, intake.measures())
        last = 0
        for bins in bin_rows(store, blocks, span, tally, keep_unfinished):
            chosen = row[bins.begin : bins.stop]
            values[chosen], observed[chosen] = bins.values, bins.observed
            last = max(last, bins.last)
        intake.check_range(span, frequency, tally)
        tally.off_grid.report(intake.numbers.pairs, frequency, grid)
        # The grid ends with the newest observed bin.
        values, observed = _narrowed(values, last + 1), _narrowed(observed, last + 1)
        start, report = grid.seconds(span.first_bin), report_of(intake, tally)
        measures = in_rows(tally.measures, row)
        return cls(values, observed, start, frequency, series, report, grid.zone, measures)


def fingerprint_head(
    frequency: Frequency, start: int, series: tuple[tuple[str, str], ...], zone: str
) -> bytes:
    """What a fingerprint covers before the mask and the values."""
    grid = frequency.name if zone == "UTC" else f"{frequency.name} {zone}"
    return f"{grid} {start} {series!r}".encode()


def report_of(intake: Intake, tally: Tally) -> CleaningReport:
    """What was cleaned while rows were read and binned."""
    return CleaningReport(
        intake.rows,
        intake.missing_values,
        tally.duplicates,
        tally.out_of_order,
        tally.unfinished_bins,
        summed=tally.combine == "sum",
    )


def in_rows(measures: np.ndarray | None, row: np.ndarray) -> np.ndarray:
    """Measures by series number, ordered by the rows of the panel; ``row`` is int64 ``[series]``."""
    assert measures is not None
    found = np.empty_like(measures)
    found[row] = measures
    return found


def _batches_of(frame: pd.DataFrame) -> Iterator[RowBatch]:
    """The rows of a frame in batches, so that temporary arrays stay small."""
    workload, metric = (frame[name].astype("category").cat for name in ("workload", "metric"))
    names = [(column.codes.to_numpy(), column.categories.to_numpy(object)) for column in (workload, metric)]
    timestamp, value = frame["timestamp"], frame["value"]
    for begin in range(0, len(frame), _BATCH_ROWS):
        piece = slice(begin, begin + _BATCH_ROWS)
        yield RowBatch(
            timestamp.iloc[piece].to_numpy(dtype=np.float64),
            value.iloc[piece].to_numpy(dtype=np.float64),
            *(Names(codes[piece], categories) for codes, categories in names),
        )


def _narrowed(grid: np.ndarray, num_bins: int) -> np.ndarray:
    """Keep the first ``num_bins`` bins of each series, without a copy of the array; ``[series, time]``."""
    if num_bins == grid.shape[1]:
        return grid
    flat = grid.reshape(-1)
    for number, row in enumerate(grid):
        flat[number * num_bins :][:num_bins] = row[:num_bins]
    return flat[: len(grid) * num_bins].reshape(len(grid), num_bins)


def item_key(workload: str, metric: str) -> str:
    """The key of a series in ``item2id.json``: both names, joined without a separator (contract 5)."""
    return workload + metric


def check_no_collision(series: Sequence[tuple[str, str]]) -> None:
    """Refuse different series with the same item key.

    Raises
    ------
    DataError
        When two keys are equal; the message names both series.
    """
    seen: dict[str, tuple[str, str]] = {}
    for pair in series:
        other = seen.setdefault(item_key(*pair), pair)
        if other != pair:
            raise DataError(
                f"the series {other[0]!r} {other[1]!r} and {pair[0]!r} {pair[1]!r} have the same item key "
                f"{item_key(*pair)!r}; rename a metric"
            )


def in_key_order(pairs: Sequence[tuple[str, str]]) -> tuple[tuple[tuple[str, str], ...], np.ndarray]:
    """Sort series by item key; return them, and for each given one its row (int64 ``[series]``).

    Raises
    ------
    DataError
        When two series have the same item key.
    """
    check_no_collision(pairs)
    order = sorted(range(len(pairs)), key=lambda number: item_key(*pairs[number]))
    row = np.empty(len(pairs), dtype=np.int64)
    row[order] = np.arange(len(pairs))
    return tuple(pairs[number] for number in order), row
