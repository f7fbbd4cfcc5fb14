"""``events.csv``: events that are known by name and time, such as promotions, and incidents of the past."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
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
_REQUIRED = ("start", "end", "workload", "name")
_COLUMNS = (*_REQUIRED, "factor", "kind", "metric", "note")
_MOST_BYTES, _MOST_ROWS = 8 << 20, 100_000
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

    def touches(self, other: "KnownEvent") -> bool:
        """Whether both concern the same series at the same time, as far as the file tells."""
        return (
            self.begin < other.end
            and other.begin < self.end
            and (self.workload == other.workload or ALL in (self.workload, other.workload))
            and (self.metric == other.metric or "" in (self.metric, other.metric))
        )

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
    moments = {name: _seconds([(number, row[name]) for number, row in rows], zone) for name in _REQUIRED[:2]}
    found = []
    for at, (number, row) in enumerate(rows):
        times = [moments[name][at] for name in _REQUIRED[:2]]
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


def _seconds(cells: Sequence[tuple[int, str]], zone: str | None) -> list[float | str]:
    """Unix seconds of each cell, or why it is no moment."""
    try:
        return [*_of_column([cell for _, cell in cells], zone).tolist()]
    except NotAMoment:
        pass  # tell which cells they are
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
    for name, found in zip(_REQUIRED[:2], times, strict=True):
        if isinstance(found, str):
            problems.append(f"{name} {found}")
        elif not np.isfinite(found):
            problems.append(f"no {name}")
        elif (unit := guess_unit(np.array([found]))) is not None:
            problems.append(f"{name}: {unit.words(found)}")
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
        factor = float(cell)
    except ValueError:
        return None, f"factor is {shortened(cell)!r}, not a number; 2.5 means two and a half times the usual"
    if not LEAST_FACTOR <= factor <= MOST_FACTOR:
        return None, f"factor is {cell}; it must be between {LEAST_FACTOR:g} and {MOST_FACTOR:g}"
    return factor, ""


def _overlaps(found: Sequence[tuple[int, KnownEvent]]) -> Iterator[str]:
    """Problems where one event is given twice: its factor would count twice."""
    open_by_name: dict[str, list[tuple[int, KnownEvent]]] = {}
    for number, event in sorted(found, key=lambda row: row[1].begin):
        if event.incident:
            continue
        others = [row for row in open_by_name.get(event.name, []) if event.begin < row[1].end]
        for earlier, other in others:
            if event.touches(other):
                yield (
                    f"line {number}: {shortened(event.name)!r} overlaps line {earlier}; give the same event "
                    "of a workload once"
                )
                break
        open_by_name[event.name] = [*others, (number, event)]
