"""Tables of text: any separator, decimal mark, units, and names of columns; long or wide."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from kforecast.errors import DataError
from kforecast.metrics.formats.names import (
    UNNAMED,
    Naming,
    Shape,
    rule_of,
    series_names,
    shape_of,
    wide_names,
)
from kforecast.metrics.formats.numbers import MISSING, NotANumberError, Numbers, numbers
from kforecast.metrics.formats.series import coded, constant, rows_of, series_of, table_of
from kforecast.metrics.formats.text import whole_text

MOST_COLUMNS = 20_000
_SEPARATORS = (",", ";", "\t", "|")
_PLAIN_NUMBER = r"^[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?$"
# Numbers above it are milliseconds where a format is known to count seconds or milliseconds.
_MILLISECONDS = 1e11


class Seconds(Protocol):
    """Converts timestamps, of which the first is in the given row, to unix seconds as float64."""

    def __call__(
        self, moments: pa.Array, first_row: int, series: Callable[[], np.ndarray] | None = None
    ) -> pa.Array:
        """``series`` gives the series of each row; None when a moment has one row."""
        ...


@dataclass(frozen=True)
class TextTable:
    """The layout of a text file, known from its first lines."""

    path: Path
    separator: str
    header: tuple[str, ...]
    """The names of the columns as they are written."""
    shape: Shape
    naming: Naming
    grafana: bool = False
    skipped: int = 0
    """Lines before the header."""

    @property
    def first_row(self) -> int:
        """The line of the first row, as in an editor."""
        return 2 + self.skipped

    @property
    def plain(self) -> bool:
        """Whether it is a comma-separated file whose rows are rows of contract 3."""
        return (
            self.separator == ","
            and not self.skipped
            and not self.grafana
            and self.shape.value is not None
            and all(len(many) == 1 for many in self.shape.names.values())
        )

    @property
    def renamed(self) -> list[str]:
        """Which columns stand for those of contract 3, if they have other names."""
        places = {"timestamp": self.shape.timestamp, "value": self.shape.value}
        named = {column: self.header[at].strip() for column, at in places.items() if at is not None}
        return [f"{c} is the column {name[:100]!r}" for c, name in named.items() if name.lower() != c]

    def read(self, seconds: Seconds) -> tuple[pa.Table, list[str]]:
        """Read the whole file.

        Returns
        -------
        The rows, and notes for the user on how they were read.

        Raises
        ------
        DataError
            When a cell is no number, or the names are not clear.
        ArrowException, OSError
            When the file cannot be read.
        """
        shape = self.shape
        cells = self._cells()
        if not cells.num_rows:
            raise DataError(f"{self.path}: no rows")

        def text(at: int) -> pa.Array:
            return cells.column(str(at)).combine_chunks()

        moments = timestamps(text(shape.timestamp), seconds_or_milliseconds=self.grafana)
        columns = shape.series if shape.value is None else (shape.value,)
        found = self._numbers([text(at) for at in columns], columns)
        units = sorted({one.unit for one in found} - {""})
        notes = ["Grafana's CSV"] if self.grafana else ["a table", *self.renamed]
        notes += [f"values in {', '.join(units)}"] if units else []
        if shape.value is None:
            return self._melted(seconds(moments, self.first_row), found, notes)
        rows = cells.num_rows
        named = {column: self._joined([text(at) for at in many]) for column, many in shape.names.items()}
        named |= {column: constant(name, rows) for column, name in shape.constants.items()}
        if shape.labels:
            workload, metric, rule = self._from_labels(text)
            notes.append(rule)
            named = {"workload": workload, "metric": metric} | named
        elif "metric" not in named or "workload" not in named:
            ((workload, metric),) = series_names([{}], self.naming, self.path)
            named = {"workload": constant(workload, rows), "metric": constant(metric, rows)} | named
        return in_seconds(
            table_of(moments, found[0].values, named["workload"], named["metric"]), seconds, self.first_row
        ), notes

    def _cells(self) -> pa.Table:
        """The used columns as text, named by their position."""
        names = [str(at) for at in range(len(self.header))]
        used = [names[at] for at in self.shape.used]
        content = whole_text(self.path)
        try:
            return pa.csv.read_csv(
                pa.BufferReader(content),
                read_options=pa.csv.ReadOptions(
                    column_names=names, skip_rows=1 + self.skipped, block_size=16 << 20
                ),
                parse_options=pa.csv.ParseOptions(delimiter=self.separator),
                convert_options=pa.csv.ConvertOptions(
                    column_types=dict.fromkeys(used, pa.string()),
                    include_columns=used,
                    strings_can_be_null=False,
                ),
            )
        except pa.ArrowInvalid as error:
            if "Empty CSV file" in str(error):
                raise DataError(f"{self.path}: no rows") from error
            if "invalid UTF8" in str(error):
                raise DataError(f"{self.path}: a cell is not UTF-8 text; save the file as UTF-8") from error
            raise

    def _numbers(self, cells: list[pa.Array], columns: Sequence[int]) -> list[Numbers]:
        try:
            return numbers(
                cells, decimal=self.naming.decimal, regional=self.separator != "," and not self.grafana
            )
        except NotANumberError as error:
            long = self.shape.value is not None
            column = "value" if long else repr(self.header[columns[error.column]].strip()[:100])
            row, cell = error.row + self.first_row, error.cell[:100]
            if cell == self.header[columns[error.column]].strip()[:100]:
                raise DataError(
                    f"{self.path}: row {row} is a header again, as of two files joined; delete that line"
                ) from error
            raise DataError(f"{self.path}: {column} in row {row} is {cell!r}, {error}") from error

    def _melted(
        self, timestamp: pa.Array, found: list[Numbers], notes: list[str]
    ) -> tuple[pa.Table, list[str]]:
        """A wide table as rows; an empty cell is no row, unless the whole column is empty."""
        columns = [self.header[at] for at in self.shape.series]
        names = wide_names(columns, self.naming, self.path)
        kept = [np.flatnonzero(~np.isnan(one.values)) for one in found]
        kept = [rows if len(rows) else np.arange(len(timestamp)) for rows in kept]
        table = rows_of(
            names,
            [len(rows) for rows in kept],
            pc.take(timestamp, pa.array(np.concatenate(kept))),
            np.concatenate([one.values[rows] for one, rows in zip(found, kept, strict=True)]),
        )
        kind = f"workloads of the metric {self.naming.metric or UNNAMED}"
        if self.naming.workload is not None:
            kind = f"metrics of the workload {self.naming.workload}"
        return table, [*notes, f"its columns are {kind}"]

    def _from_labels(self, text: Callable[[int], pa.Array]) -> tuple[pa.Array, pa.Array, str]:
        """Workload and metric of each row, and the rule that names them."""
        header = [self.header[at].strip() for at in self.shape.labels]
        frame = pd.DataFrame(
            {name: text(at).to_pandas() for name, at in zip(header, self.shape.labels, strict=True)}
        )
        codes, series = labelled(frame)
        names = series_names(series, self.naming, self.path)
        workload, metric = (coded(codes, [name[at] for name in names]) for at in (0, 1))
        return workload, metric, rule_of(series, self.naming)

    @staticmethod
    def _joined(columns: list[pa.Array]) -> pa.Array:
        text = columns[0] if len(columns) == 1 else pc.binary_join_element_wise(*columns, "/")
        return text.dictionary_encode()


def text_table(start: bytes, path: Path, naming: Naming) -> TextTable:
    """Recognise the layout of a text table by its beginning.

    Raises
    ------
    DataError
        When the columns are not clear.
    """
    lines = start.decode("utf-8", errors="replace").splitlines()
    first = lines[0] if lines else ""
    skipped, separator = 0, ""
    if first.strip().strip('"').lower().startswith("sep=") and len(first.strip().strip('"')) == 5:
        skipped, separator = 1, first.strip().strip('"')[4]
        first = lines[1] if len(lines) > 1 else ""
    if not separator:
        counts = {one: len(_split(first, one)) for one in _SEPARATORS}
        separator = max(_SEPARATORS, key=lambda one: counts[one])  # the comma where all are equal
    header = tuple(_split(first, separator))
    if len(header) > MOST_COLUMNS:
        raise DataError(f"{path}: more than {MOST_COLUMNS:,} columns; export fewer series at once")
    grafana = header[:1] == ("Time",) or bool(skipped) or header[:3] == ("Series", "Time", "Value")
    shape = shape_of(header, naming, path, grafana=grafana and len(header) > 1)
    return TextTable(path, separator, header, shape, naming, grafana and "metric" not in shape.names, skipped)


def timestamps(text: pa.Array, *, seconds_or_milliseconds: bool = False) -> pa.Array:
    """Timestamps as numbers (float64) when all are plain numbers, else as trimmed text; null if missing."""
    text = pc.utf8_trim_whitespace(text)
    text = pc.if_else(pc.is_in(text, value_set=pa.array(MISSING)), pa.scalar(None, pa.string()), text)
    if not pc.all(pc.match_substring_regex(text, _PLAIN_NUMBER), min_count=0).as_py():
        return text
    moments = pc.cast(pc.replace_substring_regex(text, r"^\+", ""), pa.float64())
    if seconds_or_milliseconds and len(moments) > moments.null_count:
        lowest = pc.min(moments).as_py()
        return pc.divide(moments, 1000.0) if lowest > _MILLISECONDS else moments
    return moments


def in_seconds(table: pa.Table, seconds: Seconds, first_row: int) -> pa.Table:
    """The four columns with timestamps in unix seconds."""
    moments = table.column("timestamp").combine_chunks()
    return table.set_column(0, "timestamp", seconds(moments, first_row, lambda: series_of(table)))


def labelled(labels: pd.DataFrame) -> tuple[np.ndarray, list[dict[str, str]]]:
    """Number the series that rows belong to: numbers ``[rows]``, and the labels of each series."""
    if not len(labels.columns):
        return np.zeros(len(labels), np.int64), [{}]
    groups = labels.fillna("").astype(str).groupby(list(labels.columns), sort=False)
    codes = groups.ngroup().to_numpy()
    _, first = np.unique(codes, return_index=True)
    found = labels.fillna("").iloc[first].to_dict("records")
    return codes, [{str(key): str(name) for key, name in one.items() if name != ""} for one in found]


def _split(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(line), delimiter=separator), [])
    except csv.Error:  # a field of more than 131,072 letters
        return line[:1000].split(separator)
