"""``events.csv``: events that are known by name and time, such as promotions, and incidents of the past."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa

from kforecast.data.panel import Panel
from kforecast.errors import ConfigError, few
from kforecast.files.untrusted import read_file, shortened
from kforecast.metrics.moments import NotAMoment, read_arrow
from kforecast.metrics.units import guess_unit
from kforecast.validation import list_problems, nearest

ALL = "*"
"""The workload of an event that concerns all of them."""
INCIDENT, EVENT = "incident", "event"
_TIMES = ("start", "end")
_REQUIRED = (*_TIMES, "workload", "name")
_COLUMNS = (*_REQUIRED, "factor", "kind", "metric", "note")
_MOST_BYTES, _MOST_ROWS = 8 << 20, 100_000
# In a longer file, the first wrong time stands for all: reading times one by one would take minutes.
_MOST_ALONE = 1000
# Unix seconds of the year 10000.
_MOST_SECONDS = 253_402_300_800
# A factor beyond these is a slip, and dividing by it would leave nothing but noise.
LEAST_FACTOR, MOST_FACTOR = 0.01, 100.0
_GIVE_OFFSETS = "give times with an offset, like 2024-11-29T18:00+01:00, or in UTC (Z)"


@dataclass(frozen=True)
class KnownEvent:
    """A row of the file.

    Attributes
    ----------
    begin, end:
        Unix seconds; the end is exclusive.
    workload:
        Its workload, or ``*`` for all.
    name:
        What recurs under the same name has the same effect.
    factor:
        How many times the usual traffic is expected; None to learn it.
    incident:
        Whether these values say nothing about ordinary traffic, and are treated as missing.
    metric:
        Its metric; empty for all metrics of the workload.
    note:
        Not used.
    """

    begin: int
    end: int
    workload: str
    name: str
    factor: float | None = None
    incident: bool = False
    metric: str = ""
    note: str = ""

    def rows(self, panel: Panel) -> np.ndarray:
        """The rows of the panel that it concerns, int64."""
        if self.workload == ALL and not self.metric:
            return np.arange(panel.num_series)
        chosen = [
            row
            for row, (workload, metric) in enumerate(panel.series)
            if self.workload in (ALL, workload) and self.metric in ("", metric)
        ]
        return np.array(chosen, np.int64)

    def bins(self, panel: Panel) -> slice:
        """The bins that it touches; they may lie outside the panel."""
        return slice(panel.bin_at(self.begin), panel.bin_at(self.end - 1) + 1)


@dataclass(frozen=True)
class KnownEvents:
    """The rows of an events file, or those found in a history.

    Attributes
    ----------
    rows:
        In the order of their begin.
    name:
        Of the file, in messages.
    """

    rows: tuple[KnownEvent, ...]
    name: str = "events"

    @classmethod
    def read(cls, path: Path | str, zone: str | None = None) -> Self:
        """Read a file with the columns ``start, end, workload, name`` and perhaps others.

        Parameters
        ----------
        zone:
            IANA name of the zone of times that have none; None refuses such times.

        Raises
        ------
        ConfigError
            All problems of the file at once.
        """
        name = f"data.events: {path}"
        try:
            text = read_file(Path(path), _MOST_BYTES).decode("utf-8-sig")
        except OSError as error:
            raise ConfigError(f"{name}: cannot be read: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{name}: not UTF-8 text") from error
        except ValueError as error:
            raise ConfigError(f"{name}: {error}") from error
        found, problems = _parsed(text, zone)
        if problems:
            raise ConfigError(list_problems(name, problems))
        return cls(tuple(sorted(found, key=lambda row: (row.begin, row.end))), str(path))

    def and_those(self, others: Iterable[KnownEvent]) -> "KnownEvents":
        """These events and others."""
        rows = sorted([*self.rows, *others], key=lambda row: (row.begin, row.end))
        return KnownEvents(tuple(rows), self.name)

    @cached_property
    def events(self) -> tuple[KnownEvent, ...]:
        """The rows that are no incidents."""
        return tuple(row for row in self.rows if not row.incident)

    @cached_property
    def incidents(self) -> tuple[KnownEvent, ...]:
        """The rows that are incidents."""
        return tuple(row for row in self.rows if row.incident)

    def strangers(self, panel: Panel) -> str | None:
        """A warning if rows name workloads that the panel does not have; None if all are there."""
        known = {workload for workload, _ in panel.series}
        strange = sorted({row.workload for row in self.rows} - known - {ALL})
        if not strange:
            return None
        return (
            f"{self.name} names workloads that the data does not have: {few(strange)}"
            f"{nearest(strange[0], known)}"
        )

    def to_csv(self) -> str:
        """The rows as a file that :meth:`read` accepts."""
        lines: list[Sequence[str]] = [_COLUMNS]
        lines += [
            (
                _iso(row.begin),
                _iso(row.end),
                row.workload,
                row.name,
                "" if row.factor is None else f"{row.factor:g}",
                INCIDENT if row.incident else EVENT,
                row.metric,
                row.note,
            )
            for row in self.rows
        ]
        made = _Lines()
        csv.writer(made, lineterminator="\n").writerows(lines)
        return "".join(made)


class _Lines(list[str]):
    """A file for the csv module to write to."""

    def write(self, text: str) -> None:
        self.append(text)


def _iso(second: int) -> str:
    return f"{np.datetime64(second, 's')}Z"


def _parsed(text: str, zone: str | None) -> tuple[list[KnownEvent], list[str]]:
    """The rows, and the problems; with problems, the rows are of no use."""
    try:
        lines = [*_cells(text)]
    except csv.Error as error:
        return [], [f"not CSV: {error}"]
    if not lines:
        return [], [f"empty; its first line names the columns: {','.join(_COLUMNS[:5])}"]
    if len(lines) > _MOST_ROWS:
        return [], [f"more than {_MOST_ROWS:,} rows"]
    header = [cell.casefold() for cell in lines[0][1]]
    problems = [f"no column {name}" for name in _REQUIRED if name not in header]
    problems += [
        f"unknown column {shortened(cell)!r}{nearest(cell, _COLUMNS)}"
        for cell in header
        if cell not in _COLUMNS
    ]
    problems += [f"two columns {name}" for name in _COLUMNS if header.count(name) > 1]
    if problems:
        return [], [f"{problem}; the columns are {','.join(_COLUMNS)}" for problem in problems]
    rows = []
    for number, cells in lines[1:]:
        if len(cells) > len(header):
            problems.append(
                f"line {number}: {len(cells)} cells, but {len(header)} columns; put a cell with a comma in "
                "double quotes"
            )
        else:
            rows.append((number, dict.fromkeys(_COLUMNS, "") | dict(zip(header, cells, strict=False))))
    try:
        moments = {
            name: _seconds(name, [(number, row[name]) for number, row in rows], zone) for name in _TIMES
        }
    except NotAMoment as error:
        return [], [error.reason]
    found = []
    for at, (number, row) in enumerate(rows):
        times = [moments[name][at] for name in _TIMES]
        event, wrong = _event(row, times)
        problems += [f"line {number}: {problem}" for problem in wrong]
        if event is not None:
            found.append((number, event))
    if not problems:
        problems = [*_overlaps(found)]
    return [event for _, event in found], problems


def _cells(text: str) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each line that is neither empty nor a comment."""
    reader = csv.reader(text.splitlines(), strict=True)
    for cells in reader:
        trimmed = [cell.strip() for cell in cells]
        if any(trimmed) and not trimmed[0].startswith("#"):
            yield reader.line_num, trimmed


def _seconds(name: str, cells: Sequence[tuple[int, str]], zone: str | None) -> list[float | str]:
    """Unix seconds of each cell of a column, or why it is no moment.

    Raises
    ------
    NotAMoment
        At the first wrong cell of a long column.
    """
    try:
        return [*_of_column([cell for _, cell in cells], zone).tolist()]
    except NotAMoment as error:
        if len(cells) > _MOST_ALONE:
            where = "" if error.row is None else f"line {cells[error.row][0]}: "
            raise NotAMoment(f"{where}{name} {error.reason}", error.row) from error
    found: list[float | str] = []
    for _, cell in cells:
        try:
            found += _of_column([cell], zone).tolist()
        except NotAMoment as error:
            found.append(error.reason)
    return found


def _of_column(cells: Sequence[str], zone: str | None) -> np.ndarray:
    moments = read_arrow(pa.array(cells, pa.large_string()))
    # Each row stands for itself: no order of rows tells the passes of an hour that clocks show twice.
    return moments.in_utc(zone, np.arange(len(cells)), _GIVE_OFFSETS)


def _event(row: dict[str, str], times: Sequence[float | str]) -> tuple[KnownEvent | None, list[str]]:
    """The event of a row, or its problems."""
    problems, seconds = [], []
    for name, found in zip(_TIMES, times, strict=True):
        if isinstance(found, str):
            problems.append(f"{name} {found}")
        elif not np.isfinite(found):
            problems.append(f"no {name}")
        elif (unit := guess_unit(np.array([found]))) is not None:
            problems.append(f"{name}: {unit.words(found)}")
        elif not 0 <= found < _MOST_SECONDS:
            problems.append(f"{name} is {shortened(row[name])}; it must be between the years 1970 and 9999")
        else:
            seconds.append(int(found))
    if len(seconds) == 2 and seconds[1] <= seconds[0]:
        problems.append(f"it ends at {row['end']}, not after its start, {row['start']}")
    problems += [f"no {name}" for name in ("workload", "name") if not row[name]]
    kind = row["kind"].casefold() or (INCIDENT if row["name"].casefold() == INCIDENT else EVENT)
    if kind not in (EVENT, INCIDENT):
        problems.append(f"kind is {shortened(row['kind'])!r}; use {EVENT} or {INCIDENT}")
    factor, wrong = _factor(row["factor"])
    if wrong:
        problems.append(wrong)
    elif factor is not None and kind == INCIDENT:
        problems.append(f"an {INCIDENT} has no factor: its values are left out; leave the cell empty")
    if problems:
        return None, problems
    begin, end = seconds
    names = row["workload"], row["name"]
    return KnownEvent(begin, end, *names, factor, kind == INCIDENT, row["metric"], row["note"]), []


def _factor(cell: str) -> tuple[float | None, str]:
    """The factor in a cell, or what is wrong with it."""
    if not cell:
        return None, ""
    try:
        factor = float("" if "_" in cell else cell)
    except ValueError:
        return None, f"factor is {shortened(cell)!r}, not a number; 2.5 means two and a half times the usual"
    if not LEAST_FACTOR <= factor <= MOST_FACTOR:
        return None, f"factor is {cell}; it must be between {LEAST_FACTOR:g} and {MOST_FACTOR:g}"
    return factor, ""


def _overlaps(found: Sequence[tuple[int, KnownEvent]]) -> Iterator[str]:
    """Problems where one event is given twice: its factor would count twice."""
    # The latest end by name, workload and metric, and the line that gives it; None stands for any of them.
    latest: dict[tuple[str, str | None, str | None], tuple[int, int]] = {}
    for number, event in sorted(found, key=lambda row: row[1].begin):
        if event.incident:
            continue
        workloads = (None,) if event.workload == ALL else (event.workload, ALL)
        metrics = (None,) if not event.metric else (event.metric, "")
        others = [latest.get((event.name, *pair), (0, 0)) for pair in product(workloads, metrics)]
        end, earlier = max(others)
        if event.begin < end:
            yield (
                f"line {number}: {shortened(event.name)!r} overlaps line {earlier}; give the same event "
                "of a workload once"
            )
        for pair in product((event.workload, None), (event.metric, None)):
            latest[event.name, *pair] = max(latest.get((event.name, *pair), (0, 0)), (event.end, number))
