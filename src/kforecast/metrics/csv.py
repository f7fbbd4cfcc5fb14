"""``source=csv``: history from a file: CSV and Parquet (contract 3), and the exports of other tools."""

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from kforecast.errors import ConfigError, DataError, few
from kforecast.metrics.decompression import LONGEST_LINE
from kforecast.metrics.formats.forms import Form, recognise
from kforecast.metrics.formats.names import Naming, wide_names
from kforecast.metrics.formats.numbers import MISSING
from kforecast.metrics.formats.parquet import ParquetLayout
from kforecast.metrics.formats.parts import is_parquet, parts_of
from kforecast.metrics.formats.series import NAME, TYPES, renamed, rows_of, series_of
from kforecast.metrics.formats.tables import TextTable
from kforecast.metrics.formats.text import opened
from kforecast.metrics.moments import NotAMoment, check_zone, is_number, is_text, read_arrow
from kforecast.metrics.multiple import (
    check_on_multiple,
    check_turns,
    labels_of,
    longest_series,
    one_row_a_moment,
)
from kforecast.metrics.names import trimmed
from kforecast.metrics.source import COLUMNS, Names, RowBatch, RowCheck, as_names, check_frame

log = logging.getLogger(__name__)

_NO_ZONE = "give the zone of its clock, like source.timezone=Europe/Berlin or UTC"
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
        The decimal mark of a table of text, ``point`` or ``comma``, where the file leaves it open.
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
    on_multiple:
        How to treat several rows of one series at one moment:
        :func:`~kforecast.metrics.multiple.one_row_a_moment`.

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
        timezone: str | None = None,
        any_time: bool = False,
        on_multiple: str | None = None,
        *,
        columns: Mapping[str, Any] | None = None,
        workload: str | None = None,
        metric: str | None = None,
        decimal: str | None = None,
    ) -> None:
        if not isinstance(path, str | Path) or not str(path):
            raise ConfigError(f"source.path: {path!r} is not the name of a file")
        self.path = Path(path)
        self.on_multiple = check_on_multiple(on_multiple, "source.on_multiple")
        naming = Naming.checked(columns, workload, metric, decimal)
        self._naming = replace(naming, on_multiple=self.on_multiple)
        self._first_row = 1
        self._said: Sequence[str] = ()
        if not isinstance(memory_map, bool) and memory_map != "auto":
            raise ConfigError(f"source.memory_map: {memory_map!r} is wrong; use auto, true or false")
        single = is_parquet(self.path) and not self.path.is_dir()
        if memory_map is True and (not single or self._naming != Naming()):
            raise ConfigError(
                f"source.memory_map: {self.path} is not a Parquet file of the columns {', '.join(COLUMNS)}, "
                "the only kind that can be mapped; convert it with "
                f"kforecast-fetch --dataset-file={self.path} output=FILE.parquet"
            )
        if not isinstance(cache_dir, str | Path) or not str(cache_dir):
            raise ConfigError(f"source.cache_dir: {cache_dir!r} is not a folder")
        if not isinstance(any_time, bool):
            raise ConfigError(f"source.any_time: {any_time!r} is neither true nor false")
        self.timezone = check_zone(timezone, "source.timezone")
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
        return self.resolved(self.read())

    def resolved(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Check rows of :meth:`read`, and treat several at one moment as ``on_multiple`` says.

        Raises
        ------
        DataError
            As :meth:`fetch`.
        """
        frame = check_frame(rows, str(self.path), self._first_row, self.any_time)
        others = self.other_columns()
        if labels := labels_of(others):
            check_turns(self.rows_of(*longest_series(frame), labels), self.on_multiple, str(self.path))
        of_series = self.rows_of if others else None
        return one_row_a_moment(
            frame, self.on_multiple, str(self.path), of_series, lambda: self._unread(others)
        )

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
        tables = self._tables()
        check = RowCheck(str(self.path), self._first_row, self.any_time)
        for table in tables:
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
            mappable = self._is_parquet and self.path.is_file() and self._naming == Naming()
            return mappable and self.num_rows() > _MOST_ROWS_IN_MEMORY and not self._reads_whole()
        except (OSError, ValueError, KeyError, pa.ArrowException, DataError):
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
            for column in ("workload", "metric"):
                frame[column] = as_names(frame[column])
        except (OSError, UnicodeError, pa.ArrowException) as error:
            raise self.unreadable(error) from error
        return frame

    def other_columns(self) -> list[str]:
        """Names of the columns that are not read, of a table with a row for each value."""
        if self._is_parquet:
            layouts = [ParquetLayout.of(path, said, self._naming) for path, said in self._parts()]
            shapes = [(layout.header, layout.shape) for layout in layouts]
        else:
            table = recognise(self.path, self._naming).table
            shapes = [] if table is None else [(table.header, table.shape)]
        if any(shape.value is None for _, shape in shapes):
            return []
        found = [
            {name for at, name in enumerate(header) if at not in shape.used and header.count(name) == 1}
            for header, shape in shapes
        ]
        return sorted(set.intersection(*found)) if found else []

    def rows_of(self, workload: str, metric: str, others: list[str] | None = None) -> pd.DataFrame:
        """Read the rows of a series with other columns, by default all, to see which one tells rows apart.

        Raises
        ------
        DataError
            When the file is unreadable.
        """
        chosen = self.other_columns() if others is None else others
        try:
            parts = self._parquet_with(chosen) if self._is_parquet else self._csv_with(chosen)
            found = [
                part[(part["workload"] == workload) & (part["metric"] == metric) & part["value"].notna()]
                for part in parts
            ]
        except (OSError, UnicodeError, pa.ArrowException) as error:
            raise self.unreadable(error) from error
        rows: pd.DataFrame = pd.concat(found, ignore_index=True)
        rows["timestamp"] = np.floor(rows["timestamp"].astype(np.float64))
        return rows

    def _unread(self, others: list[str]) -> pd.DataFrame:
        """Other columns of all rows, in their order."""
        try:
            parts = self._parquet_with(others) if self._is_parquet else self._csv_with(others)
            return pd.concat([part[others] for part in parts], ignore_index=True)
        except (OSError, UnicodeError, pa.ArrowException) as error:
            raise self.unreadable(error) from error

    def _csv_with(self, others: list[str]) -> Iterator[pd.DataFrame]:
        """The rows of :meth:`read`, with columns that are not read otherwise."""
        table = recognise(self.path, self._naming).table
        assert table is not None
        with opened(self.path) as stream:
            unread = pa.csv.read_csv(
                stream,
                read_options=pa.csv.ReadOptions(skip_rows=table.skipped),
                parse_options=pa.csv.ParseOptions(delimiter=table.separator),
                convert_options=pa.csv.ConvertOptions(
                    column_types=dict.fromkeys(others, NAME), include_columns=others
                ),
            )
        yield pd.concat([self.read(), unread.to_pandas()], axis=1)

    def _parquet_with(self, others: list[str]) -> Iterator[pd.DataFrame]:
        """The rows batch by batch, with columns that are not read otherwise."""
        for path, said in self._parts():
            for table in ParquetLayout.of(path, said, self._naming).batches(COLUMNS, others):
                part = self._in_seconds(table).to_pandas()
                for column in ("workload", "metric"):
                    part[column] = as_names(part[column])
                yield part

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
            table, notes = form.read(self._seconds)
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
            elif not self.path.is_file():  # a pipe cannot be read twice, and a device may never end
                raise DataError(f"{self.path}: is a pipe or a device; write the rows into a file first")
            elif self.path.stat().st_size == 0:
                raise DataError(f"{self.path}: the file is empty; expected the columns {', '.join(COLUMNS)}")
            for part, _ in self._parts() if self._is_parquet else []:
                pa.parquet.read_metadata(part)
        except pa.ArrowException:
            pass  # reading says more
        except (OSError, ValueError, KeyError) as error:  # also damaged metadata of a type of pandas
            raise self.unreadable(error) from error

    def unreadable(self, error: Exception) -> DataError:
        """The DataError for an error raised while reading the file."""
        if "straddling" in str(error):
            return DataError(f"{self.path}: a line of very many bytes; is it a CSV file?")
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
            return renamed(parsed, layout.shape, layout.header)

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
        if form.table is None or not form.table.plain:
            return self._read_form(form)
        for kind in (pa.float64(), NAME):  # timestamps may be text
            try:
                with opened(self.path) as stream:
                    table = pa.csv.read_csv(stream, convert_options=_conversion(form.table, kind))
                return self._in_seconds(
                    renamed(table, form.table.shape, form.table.header).unify_dictionaries()
                )
            except pa.ArrowInvalid as error:
                if "Empty CSV file" in str(error):  # a header without a line break
                    raise DataError(f"{self.path}: no rows") from error
                if "conversion error" not in str(error):
                    raise
        # A value is no plain number: it has a unit or separators, or is refused.
        return self._read_form(form)

    def _read_parquet(self) -> pa.Table:
        tables = [table for table, _ in self._parquet_tables(COLUMNS)]
        if not tables:
            raise DataError(f"{self.path}: no rows")
        return self._in_seconds(pa.concat_tables(tables).unify_dictionaries())

    def _parquet_batches(self, *columns: str) -> Iterator[pa.Table]:
        for table, rows_before in self._parquet_tables(columns or COLUMNS):
            yield self._in_seconds(table, rows_before)

    def _reads_whole(self) -> bool:
        """Whether the moments of a Parquet file need all rows: text, and the hour that clocks show twice."""
        for path, said in self._parts():
            kind = ParquetLayout.of(path, said, self._naming).moments.type
            whole = not is_number(kind) and getattr(kind, "tz", None) is None
            if is_text(kind) if self.timezone is None else whole:
                return True
        return False

    def _parquet_tables(self, columns: tuple[str, ...]) -> Iterator[tuple[pa.Table, int]]:
        """The rows in batches, with timestamps as they are; each with the number of rows before it."""
        first: set[str] = set()
        done = 0
        parts = self._parts()
        for path, said in parts:
            layout = ParquetLayout.of(path, said, self._naming)
            used = {layout.header[at] for at in layout.shape.used}
            first = first or used
            if used != first:
                raise DataError(
                    f"{path}: other columns than in the parts before it: {few(sorted(used ^ first))}"
                )
            if layout.shape.value is None:
                if len(parts) > 1 and self._reads_whole():
                    raise DataError(
                        f"{path}: one of several wide tables with times of a local clock; use UTC"
                    )
                yield self._molten(layout).select(list(columns)), done
                continue
            for table in layout.batches(columns):
                yield table, done
                done += table.num_rows

    def _molten(self, layout: ParquetLayout) -> pa.Table:
        """The rows of a wide Parquet file; a missing value is no row."""
        table = layout.whole()
        shape, header = layout.shape, layout.header
        names = [header[at] for at in shape.series]
        place = table.schema.get_field_index(header[shape.timestamp])
        moments = self._seconds(table.column(place), 1, field=table.schema.field(place))
        values = [table.column(name).cast(pa.float64(), safe=False).to_numpy() for name in names]
        kept = [np.flatnonzero(~np.isnan(value)) for value in values]
        return rows_of(
            wide_names(names, self._naming, layout.path),
            [len(rows) for rows in kept],
            pc.take(moments, pa.array(np.concatenate(kept))),
            np.concatenate([value[rows] for value, rows in zip(values, kept, strict=True)]),
        )

    def _in_seconds(self, table: pa.Table, rows_before: int = 0) -> pa.Table:
        """The table with timestamps in unix seconds, if it has them, as float64."""
        place = table.schema.get_field_index("timestamp")
        if place < 0 or table.schema.field(place).type == pa.float64():
            return table
        seconds = self._seconds(
            table.column(place),
            self._first_row + rows_before,
            lambda: series_of(table),
            table.schema.field(place),
        )
        return table.set_column(place, "timestamp", seconds)

    def _seconds(
        self,
        moments: pa.Array | pa.ChunkedArray,
        first_row: int,
        series: Callable[[], np.ndarray] | None = None,
        field: pa.Field | None = None,
    ) -> pa.Array:
        """Timestamps of any representation as unix seconds; ``series`` gives the series of each row."""
        try:
            found = read_arrow(moments, field)
            codes = series() if series is not None and found.local is not None else None
            return pa.array(found.in_utc(self.timezone, codes, _NO_ZONE))
        except NotAMoment as error:
            raise DataError(f"{self.path}: {error.words(first_row)}") from error


def _conversion(layout: TextTable, timestamp: pa.DataType = TYPES["timestamp"]) -> pa.csv.ConvertOptions:
    """How pyarrow converts the columns of a plain CSV; timestamps get the given type."""
    types = TYPES | {"timestamp": timestamp}
    names = {column: [layout.header[at] for at in layout.shape.positions((column,))] for column in COLUMNS}
    column_types = {name: types[column] for column, many in names.items() for name in many}
    return pa.csv.ConvertOptions(
        column_types=column_types,
        include_columns=[*column_types],
        null_values=MISSING,
        strings_can_be_null=False,
    )


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
    if not pa.types.is_dictionary(encoded.type):
        encoded = encoded.dictionary_encode()
    names = np.array(
        [name if name is None else trimmed(name) for name in encoded.dictionary.to_pylist()], object
    )
    if not encoded.null_count:
        return Names(encoded.indices.to_numpy(), names)
    return Names(encoded.indices.fill_null(len(names)).to_numpy(), np.append(names, [None]))


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
