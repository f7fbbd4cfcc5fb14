"""``source=csv``: history from a file: CSV and Parquet (contract 3), and the exports of other tools."""

import logging
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from kforecast.errors import ConfigError, DataError, few
from kforecast.metrics.decompression import LONGEST_LINE, check_parquet
from kforecast.metrics.formats.forms import Form, recognise
from kforecast.metrics.formats.names import Naming, Shape, shape_of, wide_names
from kforecast.metrics.formats.numbers import MISSING
from kforecast.metrics.formats.parts import is_parquet, parts_of
from kforecast.metrics.formats.series import constant, rows_of
from kforecast.metrics.formats.tables import TextTable
from kforecast.metrics.formats.text import opened
from kforecast.metrics.source import COLUMNS, Names, RowBatch, RowCheck, check_frame

log = logging.getLogger(__name__)

_NAME = pa.dictionary(pa.int32(), pa.string())
_TYPES = {"timestamp": pa.float64(), "value": pa.float64(), "workload": _NAME, "metric": _NAME}
_SCHEMA = pa.schema([(name, _TYPES[name]) for name in COLUMNS])
# Parquet: bytes of a column read at once, and rows decoded at once.
_BUFFER = 4 << 20
_BATCH_ROWS = 1 << 19
# Twice as many rows still fit wherever training fits: 4 bytes per row, several times over.
_MOST_ROWS_IN_MEMORY = 50_000_000
# CSV: bytes parsed at once, and parsing threads; with more threads, binning is the bottleneck.
_PIECE = 2 << 20
_THREADS = min(pa.cpu_count(), 4)


class CsvSource:
    """History in a file: CSV, Parquet, a folder of Parquet files, or an export that :mod:`formats` knows.

    Parameters
    ----------
    path:
        The file, compressed or not, whatever its suffix; or the folder.
    columns:
        Names of the columns of contract 3 in the file: ``{timestamp: ts, value: rps, workload: service}``.
        Of workload and metric, a list names several columns, whose values are joined by a slash.
    workload, metric:
        The name for all series of the file, for a file without such a column.
    decimal:
        The decimal mark of a table of text, where the file leaves it open.
    memory_map:
        Whether to map the file's panel from disk instead of holding it in memory: true, false, or ``auto``,
        which maps Parquet files of more than 50 million rows.
    cache_dir:
        Folder of the mapped panels.

    Raises
    ------
    ConfigError
        When a setting is invalid, or ``memory_map`` is true for a file that is not one Parquet file of the
        four columns.
    """

    repeatable: ClassVar[bool] = True

    def __init__(
        self,
        path: str | Path,
        memory_map: bool | str = "auto",
        cache_dir: str | Path = "outputs/cache",
        *,
        columns: Mapping[str, Any] | None = None,
        workload: str | None = None,
        metric: str | None = None,
        decimal: str | None = None,
    ) -> None:
        if not isinstance(path, str | Path) or not str(path):
            raise ConfigError(f"source.path: {path!r} is not the name of a file")
        self.path = Path(path)
        self._naming = Naming.checked(columns, workload, metric, decimal)
        self._first_row = 1
        self._said: Sequence[str] = ()
        if not isinstance(memory_map, bool) and memory_map != "auto":
            raise ConfigError(f"source.memory_map: {memory_map!r} is wrong; use auto, true or false")
        if memory_map is True and (not self._is_parquet or self._naming != Naming()):
            raise ConfigError(
                f"source.memory_map: {self.path} is not a Parquet file of the columns {', '.join(COLUMNS)}, "
                "the only kind that can be mapped; convert it with "
                f"kforecast-fetch --dataset-file={self.path} output=FILE.parquet"
            )
        if not isinstance(cache_dir, str | Path) or not str(cache_dir):
            raise ConfigError(f"source.cache_dir: {cache_dir!r} is not a folder")
        self._memory_map = memory_map
        self.cache_dir = Path(cache_dir)

    def __str__(self) -> str:
        return str(self.path)

    def fetch(self) -> pd.DataFrame:
        """Read the file.

        Raises
        ------
        DataError
            When it is missing, unreadable, or violates contract 3.
        """
        frame = self.read()
        return check_frame(frame, str(self.path), first_row=self._first_row)

    def batches(self) -> Iterator[RowBatch]:
        """Read the file batch by batch, in little memory.

        The rows are valid only after the last batch: after an invalid row, no further batches follow, and the
        error is raised once the whole file has been checked.

        Raises
        ------
        DataError
            As :meth:`fetch`.
        OSError, ArrowException
            When a batch cannot be read; :meth:`fetch` raises a more precise error.
        """
        self.check()
        tables = self._tables()
        check = RowCheck(str(self.path), self._first_row)
        for table in tables:
            for piece in table.to_batches():
                batch = _rows_of(piece)
                empty = {"workload": _empty(batch.workload), "metric": _empty(batch.metric)}
                found = ((column, rows) for column, rows in empty.items() if rows is not None)
                check.add(batch.timestamp, batch.value, *found)
                if check.good:
                    yield batch
        check.finish()

    def is_mapped(self) -> bool:
        """Whether to map the file's panel from disk; false when the file cannot be read."""
        if self._memory_map != "auto":
            return bool(self._memory_map)
        try:
            mappable = self._is_parquet and self.path.is_file() and self._naming == Naming()
            return mappable and self.num_rows() > _MOST_ROWS_IN_MEMORY
        except (OSError, pa.ArrowException):
            return False

    def num_rows(self) -> int:
        """Number of rows in the footer of a Parquet file."""
        return int(pa.parquet.read_metadata(self.path).num_rows)

    def footer(self) -> bytes:
        """Read the metadata at the end of a Parquet file, as bytes.

        Raises
        ------
        ArrowException
            When the file does not end like a Parquet file.
        """
        with self.path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - 8, 0))
            end = file.read()
            length = int.from_bytes(end[:4], "little")
            if end[4:] != b"PAR1" or length > size - 8:
                raise pa.ArrowInvalid("it does not end like a Parquet file")
            file.seek(size - 8 - length)
            return file.read(length)

    def names(self) -> Iterator[tuple[Names, Names]]:
        """Read workload and metric of all rows of a Parquet file, in batches; raises as :meth:`batches`."""
        self.check()
        for table in self._parquet_batches("workload", "metric"):
            for piece in table.to_batches():
                yield _names_of(piece, "workload"), _names_of(piece, "metric")

    def read(self) -> pd.DataFrame:
        """Read the file without checking its rows, for a report on their problems.

        Raises
        ------
        DataError
            When it is missing, unreadable, or lacks a column of contract 3.
        """
        self.check()
        try:
            table = self._read_parquet() if self._is_parquet else self._read_csv()
            frame: pd.DataFrame = table.to_pandas()
        except (OSError, UnicodeError, pa.ArrowException) as error:
            raise self.unreadable(error) from error
        return frame

    @property
    def _is_parquet(self) -> bool:
        return is_parquet(self.path) or self.path.is_dir()

    def _parts(self) -> list[tuple[Path, dict[str, str]]]:
        """The Parquet files, each with the columns that its folders say."""
        return (parts_of(self.path) or []) if self.path.is_dir() else [(self.path, {})]

    def _tables(self) -> Iterator[pa.Table]:
        """The rows in pieces; sets the number of the first row."""
        self._first_row = 1
        if self._is_parquet:
            return self._parquet_batches()
        form = self._recognised()
        if form.table is not None and form.table.plain:
            return self._csv_batches(form.table)
        return iter([self._read_form(form)])

    def _recognised(self) -> Form:
        form = recognise(self.path, self._naming)
        # Row numbers as in an editor: the header of a CSV is line 1.
        self._first_row = form.table.first_row if form.table is not None else 1
        if form.table is not None and form.table.plain and (renamed := form.table.renamed):
            self._say(["a table", *renamed])
        return form

    def _read_form(self, form: Form) -> pa.Table:
        try:
            table, notes = form.read(lambda moments, row: _unix_seconds(moments, row, self.path))
        except UnicodeError as error:
            raise self.unreadable(error) from error
        self._say(notes)
        return table

    def _say(self, notes: Sequence[str]) -> None:
        """Log how the file is read, once."""
        if notes and notes != self._said:
            self._said = notes
            log.info("%s is read as %s", self.path, "; ".join(notes))

    def check(self) -> None:
        """Check the file without reading it.

        Raises
        ------
        DataError
            When it is missing, empty, or not a regular file.
        """
        try:
            if not self.path.exists():
                raise DataError(f"{self.path}: no such file")
            if self.path.is_dir():
                if parts_of(self.path) is None:
                    raise DataError(
                        f"{self.path}: is a directory, not a CSV or Parquet file, and holds no Parquet file"
                    )
                return
            if not self.path.is_file():  # a pipe cannot be read twice, and a device may never end
                raise DataError(f"{self.path}: is a pipe or a device; write the rows into a file first")
            if self.path.stat().st_size == 0:
                raise DataError(f"{self.path}: the file is empty; expected the columns {', '.join(COLUMNS)}")
        except OSError as error:
            raise self.unreadable(error) from error

    def unreadable(self, error: Exception) -> DataError:
        """The DataError for an error raised while reading the file."""
        return DataError(f"{self.path}: cannot be read: {_first_line(error)}")

    def _csv_batches(self, layout: TextTable) -> Iterator[pa.Table]:
        """Parse the file in parallel: pyarrow's own streaming reader uses only one core."""
        convert = _conversion(layout)

        def table(piece: bytes, first: bool) -> pa.Table:
            # Only the first piece contains the header.
            read = pa.csv.ReadOptions(
                use_threads=False,
                block_size=max(len(piece), 1),
                column_names=None if first else list(layout.header),
            )
            parsed = pa.csv.read_csv(pa.BufferReader(piece), read_options=read, convert_options=convert)
            return _renamed(parsed, layout.shape, layout.header)

        with ThreadPoolExecutor(_THREADS) as pool:
            waiting: deque[Future[pa.Table]] = deque()
            for number, piece in enumerate(_lines(self.path)):
                waiting.append(pool.submit(table, piece, number == 0))
                if len(waiting) > 2 * _THREADS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _read_csv(self) -> pa.Table:
        form = self._recognised()
        if form.table is not None and form.table.plain:
            try:
                with opened(self.path) as stream:
                    table = pa.csv.read_csv(stream, convert_options=_conversion(form.table))
                return _renamed(table, form.table.shape, form.table.header)
            except pa.ArrowInvalid as error:
                if "Empty CSV file" in str(error):  # a header without a line break
                    raise DataError(f"{self.path}: no rows") from error
                if "conversion error" not in str(error):
                    raise
                # A cell is no plain number: it is read as text below, or refused by what it is.
        return self._read_form(form)

    def _read_parquet(self) -> pa.Table:
        tables = [*self._parquet_batches()]
        if not tables:
            raise DataError(f"{self.path}: no rows")
        return pa.concat_tables(tables).unify_dictionaries()

    def _parquet_batches(self, *columns: str) -> Iterator[pa.Table]:
        first: set[str] = set()
        for path, said in self._parts():
            shape, header = self._check_schema(path, said)
            used = {header[at] for at in shape.used}
            first = first or used
            if used != first:
                raise DataError(
                    f"{path}: other columns than in the parts before it: {few(sorted(used ^ first))}"
                )
            yield from self._part_batches(path, said, shape, header, columns or COLUMNS)

    def _part_batches(
        self, path: Path, said: dict[str, str], shape: Shape, header: list[str], columns: tuple[str, ...]
    ) -> Iterator[pa.Table]:
        chosen = [header[at] for at in _positions(shape, columns) if at < len(header) - len(said)]
        names = [header[at] for many in shape.names.values() for at in many if header[at] not in said]
        rows_at_once = max(_BATCH_ROWS // max(len(shape.series), 1), 1)
        with pa.parquet.ParquetFile(path, read_dictionary=names, buffer_size=_BUFFER) as file:
            # A few row groups at a time: an iteration over all of them would keep the buffers of each.
            groups: list[int] = []
            rows = 0
            for group in range(file.num_row_groups):
                groups.append(group)
                rows += file.metadata.row_group(group).num_rows
                if rows < _BATCH_ROWS and group + 1 < file.num_row_groups:
                    continue
                for batch in file.iter_batches(rows_at_once, row_groups=groups, columns=chosen):
                    table = pa.Table.from_batches([batch])
                    for column, name in said.items():
                        table = table.append_column(column, constant(name, len(table)))
                    if shape.value is None:
                        yield _typed(_molten(table, shape, header, self._naming, path).select(list(columns)))
                    else:
                        yield _typed(_renamed(table, shape, header, columns))
                groups, rows = [], 0

    def _check_schema(self, path: Path, said: dict[str, str]) -> tuple[Shape, list[str]]:
        """Find the columns of a Parquet file and check their types; also returns the names of all columns."""
        schema = pa.parquet.read_schema(path)
        if both := {*schema.names} & {*said}:
            raise DataError(f"{path}: the column {min(both)} is in the file, and in the names of its folders")
        header = [*schema.names, *said]
        # An index that pandas kept is no series.
        shown = ["" if name.startswith("__index_level_") else name for name in header]
        shape = shape_of(shown, self._naming, path)
        check_parquet(path, tuple(header[at] for at in shape.used))
        values = shape.series if shape.value is None else (shape.value,)
        for column, places in (("timestamp", (shape.timestamp,)), ("value", values)):
            for at in places:
                kind = schema.field(at).type if at < len(schema) else pa.string()
                if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
                    hint = "unix seconds (UTC) as numbers" if column == "timestamp" else "numbers"
                    name = column if header[at] == column else f"{column}, the column {header[at]},"
                    raise DataError(f"{path}: {name} has the type {kind}; {hint} are expected")
        for column, places in shape.names.items():
            for at in places:
                kind = schema.field(at).type if at < len(schema) else pa.string()
                if pa.types.is_nested(kind) or pa.types.is_primitive(kind):
                    raise DataError(f"{path}: {column} has the type {kind}; text is expected")
        return shape, header


def _conversion(layout: TextTable) -> pa.csv.ConvertOptions:
    """How pyarrow converts the columns of a plain CSV."""
    places = _positions(layout.shape, COLUMNS)
    columns = _columns_of(layout.shape)
    return pa.csv.ConvertOptions(
        column_types={layout.header[at]: _TYPES[columns[at]] for at in places},
        include_columns=[layout.header[at] for at in places],
        null_values=MISSING,
        strings_can_be_null=False,
    )


def _columns_of(shape: Shape) -> dict[int, str]:
    """The columns of contract 3 by their position."""
    value = {} if shape.value is None else {shape.value: "value"}
    return {shape.timestamp: "timestamp"} | value | {at: c for c, many in shape.names.items() for at in many}


def _positions(shape: Shape, columns: tuple[str, ...]) -> list[int]:
    """The positions to read for some columns of contract 3, in their order."""
    places = {
        "timestamp": (shape.timestamp,),
        "value": shape.series if shape.value is None else (shape.value,),
        **shape.names,
    }
    return [at for column in columns for at in places.get(column, ())]


def _renamed(
    table: pa.Table, shape: Shape, header: Sequence[str], columns: tuple[str, ...] = COLUMNS
) -> pa.Table:
    """Some columns of contract 3, of a table that has those of the file."""
    found = {}
    for column in columns:
        if column in shape.constants:
            found[column] = constant(shape.constants[column], table.num_rows)
            continue
        parts = [table.column(header[at]) for at in _positions(shape, (column,))]
        if len(parts) > 1:
            parts = [pc.binary_join_element_wise(*(part.cast(pa.string()) for part in parts), "/")]
        found[column] = parts[0]
    return pa.table(found)


def _molten(table: pa.Table, shape: Shape, header: Sequence[str], naming: Naming, path: Path) -> pa.Table:
    """The rows of a wide table; a missing value is no row."""
    columns = [header[at] for at in shape.series]
    values = [table.column(name).cast(pa.float64(), safe=False).to_numpy() for name in columns]
    kept = [np.flatnonzero(~np.isnan(value)) for value in values]
    moments = table.column(header[shape.timestamp]).combine_chunks()
    return rows_of(
        wide_names(columns, naming, path),
        [len(rows) for rows in kept],
        pc.take(moments, pa.array(np.concatenate(kept))),
        np.concatenate([value[rows] for value, rows in zip(values, kept, strict=True)]),
    )


def _unix_seconds(moments: pa.Array, first_row: int, path: Path) -> pa.Array:
    """Timestamps as unix seconds (float64); text is ISO 8601 with an offset.

    Raises
    ------
    DataError
        When a timestamp is no moment.
    """
    if not pa.types.is_string(moments.type):
        return moments
    text = moments.to_pandas()
    found = pd.to_datetime(text, errors="coerce", utc=True, format="ISO8601")
    wrong = (found.isna() & text.notna()).to_numpy()
    if wrong.any():
        at = int(wrong.argmax())
        raise DataError(f"{path}: timestamp in row {first_row + at} is {text.iloc[at]!r}, not a number")
    local = (text.notna() & ~text.fillna("").str.contains(r"(?:Z|[+-]\d\d:?\d\d)$")).to_numpy()
    if local.any():
        at = int(local.argmax())
        raise DataError(
            f"{path}: timestamp in row {first_row + at} is the date {text.iloc[at]!r}; "
            "unix seconds (UTC) are expected"
        )
    return pa.array((found - pd.Timestamp(0, tz="UTC")).dt.total_seconds())


def _typed(table: pa.Table) -> pa.Table:
    """Cast the columns of a Parquet file to our types."""
    schema = pa.schema([_SCHEMA.field(name) for name in table.column_names])
    columns = [
        # Integers that lose precision, such as nanoseconds, are refused later with a better message.
        column.cast(field.type, safe=not pa.types.is_integer(column.type))
        for column, field in zip(table.columns, schema, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _lines(path: Path) -> Iterator[bytes]:
    """Read a text file, compressed or not, in pieces of whole lines."""
    rest = b""
    with opened(path) as stream:
        while block := stream.read(_PIECE):
            end = block.rfind(b"\n") + 1
            if end:
                yield rest + block[:end]
                rest = block[end:]
            else:
                rest += block
                if len(rest) > LONGEST_LINE:
                    raise DataError(f"{path}: a line of more than {LONGEST_LINE:,} bytes; is it a CSV file?")
    if rest:
        yield rest


def _rows_of(batch: pa.RecordBatch) -> RowBatch:
    def numbers(column: str) -> np.ndarray:
        values: np.ndarray = batch.column(column).to_numpy(zero_copy_only=False)
        return values

    names = _names_of(batch, "workload"), _names_of(batch, "metric")
    return RowBatch(numbers("timestamp"), numbers("value"), *names)


def _names_of(batch: pa.RecordBatch, column: str) -> Names:
    encoded = batch.column(column)
    names = encoded.dictionary.to_numpy(zero_copy_only=False)
    if not encoded.null_count:
        return Names(encoded.indices.to_numpy(), names)
    return Names(encoded.indices.fill_null(len(names)).to_numpy(), np.append(names, [None]))


def _empty(column: Names) -> np.ndarray | None:
    """Which rows have no name, bool ``[rows]``; None when all have one (the dictionary suffices to tell)."""
    nameless = np.flatnonzero([name is None or name == "" for name in column.names])
    return np.isin(column.codes, nameless) if len(nameless) else None


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
