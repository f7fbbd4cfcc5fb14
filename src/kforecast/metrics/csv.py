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
from kforecast.metrics.moments import (
    NotAMoment,
    check_zone,
    is_number,
    is_text,
    read_arrow,
    shown,
)
from kforecast.metrics.source import COLUMNS, Names, RowBatch, RowCheck, check_frame

_NAME = pa.dictionary(pa.int32(), pa.string())
_TYPES = {"timestamp": pa.float64(), "value": pa.float64(), "workload": _NAME, "metric": _NAME}
# Spellings of a missing value in exported metrics; any other text that is not a number is an error.
_MISSING = ["", "NaN", "nan", "NA", "N/A", "null", "NULL", "None"]
_CONVERT = pa.csv.ConvertOptions(
    column_types=_TYPES, include_columns=list(COLUMNS), null_values=_MISSING, strings_can_be_null=False
)
_NO_ZONE = "give the zone of its clock, like source.timezone=Europe/Berlin or UTC"
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
    timezone:
        The IANA name of the zone of timestamps that are datetimes or text without a zone. Datetimes of
        Parquet without a zone are UTC by default; text must say its zone, or this must.
    any_time:
        Whether moments before 2000 and after 2100 are right.

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
        timezone: str | None = None,
        any_time: bool = False,
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
        if not isinstance(any_time, bool):
            raise ConfigError(f"source.any_time: {any_time!r} is neither true nor false")
        try:
            self._timezone = check_zone(timezone, "source.timezone")
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self._memory_map, self.any_time = memory_map, any_time
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
        return self.checked(self.read())

    def checked(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Check the frame that :meth:`read` has returned, and return it.

        Raises
        ------
        DataError
            When its rows violate contract 3.
        """
        return check_frame(frame, str(self.path), self._first_row, self.any_time)

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
        if self._is_parquet and self._reads_whole():
            raise pa.ArrowInvalid("the order of all rows tells their moments")
        check = RowCheck(str(self.path), self._first_row, self.any_time)
        for table in self._parquet_batches() if self._is_parquet else self._csv_batches():
            for piece in table.to_batches():
                batch = _rows_of(piece)
                check.add(batch)
                if check.good:
                    yield batch
        check.finish()

    def is_mapped(self) -> bool:
        """Whether to map the file's panel from disk; false when the file cannot be read."""
        if self._memory_map != "auto":
            return bool(self._memory_map)
        try:
            is_parquet = self._is_parquet and self.path.is_file()
            return is_parquet and self.num_rows() > _MOST_ROWS_IN_MEMORY and not self._reads_whole()
        except (OSError, ValueError, KeyError, pa.ArrowException):
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
        if self._reads_whole():
            raise DataError(
                f"{self.path}: timestamps that are text, or of a local clock, cannot be mapped; convert them "
                f"with kforecast-fetch --dataset-file={self.path} output=FILE.parquet"
            )
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
            # Without the types that pandas had when it wrote a Parquet file.
            frame: pd.DataFrame = table.replace_schema_metadata().to_pandas()
        except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
            raise self.unreadable(error) from error
        return frame

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
            if self._is_parquet:
                pa.parquet.read_metadata(self.path)
        except pa.ArrowException:
            pass  # reading says more
        except (OSError, ValueError, KeyError) as error:  # also damaged metadata of a type of pandas
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
        return self._read_csv_texts()

    def _read_csv_texts(self) -> pa.Table:
        """Read a file whose timestamps are text, or whose values are."""

        def table(convert: pa.csv.ConvertOptions) -> pa.Table:
            with _opened(self.path) as stream:
                return pa.csv.read_csv(stream, convert_options=convert)

        convert = pa.csv.ConvertOptions(
            column_types=_TYPES | {"timestamp": _NAME},  # series share their moments
            include_columns=list(COLUMNS),
            null_values=_MISSING,
            strings_can_be_null=False,
        )
        try:
            return self._in_seconds(table(convert).unify_dictionaries())
        except pa.ArrowInvalid as error:
            if "conversion error" not in str(error):
                raise
        convert = pa.csv.ConvertOptions(column_types={"value": pa.string()}, include_columns=["value"])
        cells = table(convert).to_pandas()["value"].str.strip()
        wrong = pd.to_numeric(cells, errors="coerce").isna() & ~cells.isin(_MISSING)
        if not wrong.any():
            raise DataError(f"{self.path}: a cell of value is not a number")
        row = int(wrong.to_numpy().argmax())
        raise DataError(f"{self.path}: value in row {row + 2} is {str(cells.iloc[row])!r}, not a number")

    def _read_parquet(self) -> pa.Table:
        schema = self._check_schema()
        names = ["workload", "metric"]  # as dictionaries: each name is held once, however long it is
        if pa.types.is_string(schema.field("timestamp").type):
            names.append("timestamp")
        table = pa.parquet.read_table(self.path, columns=list(COLUMNS), read_dictionary=names)
        return self._in_seconds(_typed(table).unify_dictionaries())

    def _reads_whole(self) -> bool:
        """Whether the moments of a Parquet file need all rows: text, and the hour that clocks show twice."""
        schema = pa.parquet.read_schema(self.path)
        place = schema.get_field_index("timestamp")
        if place < 0:  # there is none, or several; both are refused later
            return False
        kind = schema.field(place).type
        if self._timezone is None:
            return is_text(kind)
        return not is_number(kind) and getattr(kind, "tz", None) is None

    def _parquet_batches(self, *columns: str) -> Iterator[pa.Table]:
        self._check_schema()
        with pa.parquet.ParquetFile(
            self.path, read_dictionary=["workload", "metric"], buffer_size=_BUFFER
        ) as file:
            chosen = columns or COLUMNS
            # A few row groups at a time: an iteration over all of them would keep the buffers of each.
            groups: list[int] = []
            rows = done = 0
            for group in range(file.num_row_groups):
                groups.append(group)
                rows += file.metadata.row_group(group).num_rows
                if rows < _BATCH_ROWS and group + 1 < file.num_row_groups:
                    continue
                for batch in file.iter_batches(_BATCH_ROWS, row_groups=groups, columns=list(chosen)):
                    table = _typed(pa.Table.from_batches([batch]).select(list(chosen)))
                    yield self._in_seconds(table, done)
                    done += batch.num_rows
                groups, rows = [], 0

    def _in_seconds(self, table: pa.Table, rows_before: int = 0) -> pa.Table:
        """The table with timestamps in unix seconds, if it has them, as float64."""
        place = table.schema.get_field_index("timestamp")
        if place < 0 or table.schema.field(place).type == pa.float64():
            return table
        try:
            moments = read_arrow(table.column(place), table.schema.field(place))
            series = None if moments.local is None else _series_of(table)
            seconds = moments.in_utc(self._timezone, series, _NO_ZONE)
        except NotAMoment as error:
            raise DataError(f"{self.path}: {error.words(self._first_row + rows_before)}") from error
        return table.set_column(place, "timestamp", pa.array(seconds))

    def _check_schema(self) -> pa.Schema:
        check_parquet(self.path, COLUMNS)
        schema = pa.parquet.read_schema(self.path)
        self._check_columns(schema.names)
        timestamp, value = schema.field("timestamp"), schema.field("value").type
        try:
            read_arrow(pa.array([], timestamp.type), timestamp)
        except NotAMoment as error:
            raise DataError(f"{self.path}: {error.words(0)}") from error
        if not is_number(value.value_type if pa.types.is_dictionary(value) else value):
            raise DataError(f"{self.path}: value has the type {shown(value, str)}; numbers are expected")
        for column in ("workload", "metric"):
            kind = schema.field(column).type
            if pa.types.is_nested(kind) or pa.types.is_primitive(kind):
                raise DataError(f"{self.path}: {column} has the type {shown(kind, str)}; text is expected")
        return schema

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
    """Cast values and names of a Parquet file to our types."""
    for place, field in enumerate(table.schema):
        if field.name != "timestamp" and field.type != _TYPES[field.name]:
            column = table.column(place)
            if pa.types.is_dictionary(field.type) and field.name == "value":
                column = column.cast(field.type.value_type)
            safe = field.name != "value"
            table = table.set_column(place, field.name, column.cast(_TYPES[field.name], safe=safe))
    return table


def _series_of(table: pa.Table) -> np.ndarray:
    """Numbers of the series of all rows of a table with unified dictionaries, int64 ``[rows]``."""
    numbers = np.zeros(table.num_rows, np.int64)
    for name in ("workload", "metric"):
        column = table.column(name).combine_chunks()
        width = len(column.dictionary) + 1
        numbers = numbers * width + column.indices.fill_null(width - 1).to_numpy(zero_copy_only=False)
    return numbers


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
    names = encoded.dictionary.to_numpy(zero_copy_only=False)
    if not encoded.null_count:
        return Names(encoded.indices.to_numpy(), names)
    return Names(encoded.indices.fill_null(len(names)).to_numpy(), np.append(names, [None]))


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
