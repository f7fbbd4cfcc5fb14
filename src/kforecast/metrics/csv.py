"""``source=csv``: history from a CSV, a compressed CSV or a Parquet file (contract 3)."""

import csv
import os
import re
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from kforecast.errors import ConfigError, DataError
from kforecast.metrics.decompression import LONGEST_LINE, Decompressed, check_parquet, is_compressed
from kforecast.metrics.multiple import (
    check_on_multiple,
    check_turns,
    labels_of,
    longest_series,
    one_row_a_moment,
)
from kforecast.metrics.names import trimmed
from kforecast.metrics.source import COLUMNS, Names, RowBatch, RowCheck, as_names, check_frame

_NAME = pa.dictionary(pa.int32(), pa.string())
_TYPES = {"timestamp": pa.float64(), "value": pa.float64(), "workload": _NAME, "metric": _NAME}
# Spellings of a missing value in exported metrics; any other text that is not a number is an error.
_MISSING = ["", "NaN", "nan", "NA", "N/A", "null", "NULL", "None"]
_SCHEMA = pa.schema([(name, _TYPES[name]) for name in COLUMNS])
_CONVERT = pa.csv.ConvertOptions(
    column_types=_TYPES, include_columns=list(COLUMNS), null_values=_MISSING, strings_can_be_null=False
)
# Parquet: bytes of a column read at once, and rows decoded at once.
_BUFFER = 4 << 20
_BATCH_ROWS = 1 << 19
# Twice as many rows still fit wherever training fits: 4 bytes per row, several times over.
_MOST_ROWS_IN_MEMORY = 50_000_000
# CSV: bytes parsed at once, and parsing threads; with more threads, binning is the bottleneck.
_PIECE = 2 << 20
_THREADS = min(pa.cpu_count(), 4)


class CsvSource:
    """History in a CSV or Parquet file.

    Parameters
    ----------
    path:
        ``.csv``, ``.csv.gz`` (or any other compression that pyarrow knows by its suffix) or ``.parquet``.
    memory_map:
        Whether to map the file's panel from disk instead of holding it in memory: true, false, or ``auto``,
        which maps Parquet files of more than 50 million rows.
    cache_dir:
        Folder of the mapped panels.
    on_multiple:
        How to treat several rows of one series at one moment:
        :func:`~kforecast.metrics.multiple.one_row_a_moment`.

    Raises
    ------
    ConfigError
        When a setting is invalid, or ``memory_map`` is true for a file that is not Parquet.
    """

    repeatable: ClassVar[bool] = True

    def __init__(
        self,
        path: str | Path,
        memory_map: bool | str = "auto",
        cache_dir: str | Path = "outputs/cache",
        on_multiple: str | None = None,
    ) -> None:
        if not isinstance(path, str | Path) or not str(path):
            raise ConfigError(f"source.path: {path!r} is not the name of a file")
        self.path = Path(path)
        if not isinstance(memory_map, bool) and memory_map != "auto":
            raise ConfigError(f"source.memory_map: {memory_map!r} is wrong; use auto, true or false")
        if memory_map is True and not self._is_parquet:
            raise ConfigError(
                f"source.memory_map: {self.path} is not a Parquet file, the only kind that can be mapped; "
                f"convert it with kforecast-fetch --dataset-file={self.path} output=FILE.parquet"
            )
        if not isinstance(cache_dir, str | Path) or not str(cache_dir):
            raise ConfigError(f"source.cache_dir: {cache_dir!r} is not a folder")
        self.on_multiple = check_on_multiple(on_multiple, "source.on_multiple")
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
        return self.resolved(self.read())

    def resolved(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Check rows of :meth:`read`, and treat several at one moment as ``on_multiple`` says.

        Raises
        ------
        DataError
            As :meth:`fetch`.
        """
        frame = check_frame(rows, str(self.path), first_row=self._first_row)
        others = self.other_columns()
        if labels := labels_of(others):
            check_turns(self.rows_of(*longest_series(frame), labels), self.on_multiple, str(self.path))
        of_series = self.rows_of if others else None
        return one_row_a_moment(frame, self.on_multiple, str(self.path), of_series)

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
        check = RowCheck(str(self.path), self._first_row)
        for table in self._parquet_batches() if self._is_parquet else self._csv_batches():
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
            is_parquet = self._is_parquet and self.path.is_file()
            return is_parquet and self.num_rows() > _MOST_ROWS_IN_MEMORY
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
            for column in ("workload", "metric"):
                frame[column] = as_names(frame[column])
        except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
            raise self.unreadable(error) from error
        return frame

    def other_columns(self) -> list[str]:
        """Names of the columns that are not read."""
        names = pa.parquet.read_schema(self.path).names if self._is_parquet else self._header()
        return [name for name in names if name not in COLUMNS]

    def rows_of(self, workload: str, metric: str, others: list[str] | None = None) -> pd.DataFrame:
        """Read the rows of a series with other columns, by default all, to see which one tells rows apart.

        Raises
        ------
        DataError
            When the file is unreadable.
        """
        frames = []
        try:
            for batch in self._whole_batches(
                [*COLUMNS, *(self.other_columns() if others is None else others)]
            ):
                chosen = np.ones(batch.num_rows, bool)
                for column, name in (("workload", workload), ("metric", metric)):
                    codes, names = _names_of(batch, column)
                    chosen &= np.isin(codes, np.flatnonzero(names == name))
                chosen &= ~np.isnan(batch.column("value").to_numpy(zero_copy_only=False).astype(np.float64))
                if chosen.any():
                    frames.append(batch.filter(pa.array(chosen)).to_pandas())
        except (OSError, pa.ArrowException) as error:
            raise self.unreadable(error) from error
        rows: pd.DataFrame = pd.concat(frames, ignore_index=True)
        rows["timestamp"] = np.floor(rows["timestamp"].astype(np.float64))
        return rows

    def _whole_batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        if self._is_parquet:
            with pa.parquet.ParquetFile(self.path, read_dictionary=["workload", "metric"]) as file:
                yield from file.iter_batches(_BATCH_ROWS, columns=columns)
            return
        types = dict.fromkeys(columns, pa.string()) | _TYPES
        convert = pa.csv.ConvertOptions(
            column_types=types, include_columns=columns, null_values=_MISSING, strings_can_be_null=False
        )
        with _opened(self.path) as stream:
            yield from pa.csv.open_csv(stream, convert_options=convert)

    @property
    def _is_parquet(self) -> bool:
        return self.path.suffix == ".parquet"

    @property
    def _first_row(self) -> int:
        # Row numbers as in an editor: the header of a CSV is line 1.
        return 1 if self._is_parquet else 2

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
                raise DataError(f"{self.path}: is a directory, not a CSV or Parquet file")
            if not self.path.is_file():  # a pipe cannot be read twice, and a device may never end
                raise DataError(f"{self.path}: is a pipe or a device; write the rows into a file first")
            if self.path.stat().st_size == 0:
                raise DataError(f"{self.path}: the file is empty; expected the columns {', '.join(COLUMNS)}")
        except OSError as error:
            raise self.unreadable(error) from error

    def unreadable(self, error: Exception) -> DataError:
        """The DataError for an error raised while reading the file."""
        return DataError(f"{self.path}: cannot be read: {_first_line(error)}")

    def _csv_batches(self) -> Iterator[pa.Table]:
        """Parse the file in parallel: pyarrow's own streaming reader uses only one core."""
        header = self._header()
        self._check_columns(header)

        def table(piece: bytes, first: bool) -> pa.Table:
            # Only the first piece contains the header.
            names = None if first else header
            read = pa.csv.ReadOptions(use_threads=False, block_size=max(len(piece), 1), column_names=names)
            return pa.csv.read_csv(pa.BufferReader(piece), read_options=read, convert_options=_CONVERT)

        with ThreadPoolExecutor(_THREADS) as pool:
            waiting: deque[Future[pa.Table]] = deque()
            for number, piece in enumerate(_lines(self.path)):
                waiting.append(pool.submit(table, piece, number == 0))
                if len(waiting) > 2 * _THREADS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _header(self) -> list[str]:
        with _opened(self.path) as stream:
            head = stream.read(1 << 16).decode("utf-8-sig", errors="replace")
        return next(csv.reader(head.splitlines()[:1]), [])

    def _read_csv(self) -> pa.Table:
        self._check_columns(self._header())
        try:
            with _opened(self.path) as stream:
                return pa.csv.read_csv(stream, convert_options=_CONVERT)
        except pa.ArrowInvalid as error:
            if "Empty CSV file" in str(error):  # a header without a line break
                raise DataError(f"{self.path}: no rows") from error
            if "conversion error" not in str(error):
                raise
            if "invalid UTF8" in str(error):
                raise DataError(f"{self.path}: a name is not UTF-8 text; save the file as UTF-8") from error
            raise DataError(f"{self.path}: {self._first_text()}") from error

    def _first_text(self) -> str:
        """Describe the first cell that should be a number but is not; slow, for error messages only."""
        convert = pa.csv.ConvertOptions(
            column_types=dict.fromkeys(COLUMNS, pa.string()), include_columns=["timestamp", "value"]
        )
        with _opened(self.path) as stream:
            text = pa.csv.read_csv(stream, convert_options=convert).to_pandas()
        for column in ("timestamp", "value"):
            cells = text[column].str.strip()
            wrong = pd.to_numeric(cells, errors="coerce").isna() & ~cells.isin(_MISSING)
            if wrong.any():
                row = int(wrong.to_numpy().argmax())
                cell = str(text[column].iloc[row])
                message = f"{column} in row {row + 2} is {cell!r}, not a number"
                if column == "timestamp" and not pd.isna(pd.to_datetime(cell, errors="coerce")):
                    message = (
                        f"timestamp in row {row + 2} is the date {cell!r}; unix seconds (UTC) are expected"
                    )
                return message
        return "a cell that should be a number is not"

    def _read_parquet(self) -> pa.Table:
        self._check_schema()
        names = ["workload", "metric"]  # as dictionaries: each name is held once, however long it is
        return _typed(pa.parquet.read_table(self.path, columns=list(COLUMNS), read_dictionary=names))

    def _parquet_batches(self, *columns: str) -> Iterator[pa.Table]:
        self._check_schema()
        with pa.parquet.ParquetFile(
            self.path, read_dictionary=["workload", "metric"], buffer_size=_BUFFER
        ) as file:
            chosen = columns or COLUMNS
            # A few row groups at a time: an iteration over all of them would keep the buffers of each.
            groups: list[int] = []
            rows = 0
            for group in range(file.num_row_groups):
                groups.append(group)
                rows += file.metadata.row_group(group).num_rows
                if rows < _BATCH_ROWS and group + 1 < file.num_row_groups:
                    continue
                for batch in file.iter_batches(_BATCH_ROWS, row_groups=groups, columns=list(chosen)):
                    yield _typed(pa.Table.from_batches([batch]).select(list(chosen)))
                groups, rows = [], 0

    def _check_schema(self) -> None:
        check_parquet(self.path, COLUMNS)
        schema = pa.parquet.read_schema(self.path)
        self._check_columns(schema.names)
        for column in ("timestamp", "value"):
            kind = schema.field(column).type
            if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
                hint = "unix seconds (UTC) as numbers" if column == "timestamp" else "numbers"
                raise DataError(f"{self.path}: {column} has the type {kind}; {hint} are expected")
        for column in ("workload", "metric"):
            kind = schema.field(column).type
            if pa.types.is_nested(kind) or pa.types.is_primitive(kind):
                raise DataError(f"{self.path}: {column} has the type {kind}; text is expected")

    def _likely_reason(self, header: str) -> str:
        """The probable reason why a file lacks our columns."""
        with self.path.open("rb") as file:
            begin = file.read(4)
        if begin[:2] == b"\x1f\x8b" and self.path.suffix != ".gz":
            return "; it is compressed: let its name end in .csv.gz"
        if begin == b"PAR1" and not self._is_parquet:
            return "; it is a Parquet file: let its name end in .parquet"
        if begin[:2] in (b"\xff\xfe", b"\xfe\xff") or "\0" in header:
            return "; it is not UTF-8 text: save it as UTF-8"
        words = header.replace("\t", ";").replace(" ", ";").lower()
        if all(name in words for name in COLUMNS):
            return "; separate the columns by commas, without spaces, and write their names in lower case"
        return "; the first line must name the columns" if re.match(r"[\d.]+\s*(,|$)", header) else ""

    def _check_columns(self, names: list[str]) -> None:
        missing = [name for name in COLUMNS if name not in names]
        if missing:
            found = ", ".join(names) or "nothing"
            said = (found if len(found) <= 200 else found[:200] + " ...") + self._likely_reason(found)
            raise DataError(f"{self.path}: no column {', '.join(missing)}; the file has: {said}")
        if twice := [name for name in COLUMNS if names.count(name) > 1]:
            raise DataError(f"{self.path}: the column {', '.join(twice)} appears twice")


def _opened(path: Path) -> Any:
    """Open a file for reading; decompress it when its suffix names a compression."""
    return Decompressed(path) if is_compressed(path) else pa.input_stream(str(path))


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
    with _opened(path) as stream:
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
    if not pa.types.is_dictionary(encoded.type):
        encoded = encoded.dictionary_encode()
    names = np.array(
        [name if name is None else trimmed(name) for name in encoded.dictionary.to_pylist()], object
    )
    if not encoded.null_count:
        return Names(encoded.indices.to_numpy(), names)
    return Names(encoded.indices.fill_null(len(names)).to_numpy(), np.append(names, [None]))


def _empty(column: Names) -> np.ndarray | None:
    """Which rows have no name, bool ``[rows]``; None when all have one (the dictionary suffices to tell)."""
    nameless = np.flatnonzero([name is None or name == "" for name in column.names])
    return np.isin(column.codes, nameless) if len(nameless) else None


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
