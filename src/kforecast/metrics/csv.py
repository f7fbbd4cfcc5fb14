"""``source=csv``: history from a CSV, a compressed CSV or a Parquet file (contract 3)."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from kforecast.errors import DataError
from kforecast.metrics.source import COLUMNS, Names, RowBatch, RowCheck, check_frame

_NAME = pa.dictionary(pa.int32(), pa.string())
_TYPES = {"timestamp": pa.float64(), "value": pa.float64(), "workload": _NAME, "metric": _NAME}
# Spellings of "unknown" seen in exported metrics; anything else that is not a number is an error.
_MISSING = ["", "NaN", "nan", "NA", "N/A", "null", "NULL", "None"]
_SCHEMA = pa.schema([(name, _TYPES[name]) for name in COLUMNS])
_CONVERT = pa.csv.ConvertOptions(
    column_types=_TYPES, include_columns=list(COLUMNS), null_values=_MISSING, strings_can_be_null=False
)
# Of Parquet: bytes read at once, of each column, and rows that are decoded at once.
_BUFFER = 4 << 20
_BATCH_ROWS = 1 << 19


class CsvSource:
    """History in a file.

    Parameters
    ----------
    path:
        ``.csv``, ``.csv.gz`` (any compression pyarrow knows by its ending) or ``.parquet``.
    """

    repeatable = True

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __str__(self) -> str:
        return str(self.path)

    def fetch(self) -> pd.DataFrame:
        """Read the file.

        Raises
        ------
        DataError
            When it is missing, unreadable, or not what contract 3 describes.
        """
        return check_frame(self.read(), str(self.path), first_row=self._first_row)

    def batches(self) -> Iterator[RowBatch]:
        """Read the file in pieces, which need little memory.

        Nothing is right before the last piece is had: a row that is wrong ends the pieces, and what is
        wrong is raised when the whole file has been looked at.

        Raises
        ------
        DataError
            What :meth:`fetch` raises.
        """
        self._check_file()
        check = RowCheck(str(self.path), self._first_row)
        try:
            for table in self._parquet_batches() if self._is_parquet else self._csv_batches():
                batch = _rows_of(table)
                empty = {"workload": _empty(batch.workload), "metric": _empty(batch.metric)}
                found = ((column, rows) for column, rows in empty.items() if rows is not None)
                check.add(batch.timestamp, batch.value, *found)
                if check.good:
                    yield batch
        except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
            raise self._unreadable(error) from error
        check.finish()

    def read(self) -> pd.DataFrame:
        """Read the file without judging its rows: a report on them wants to see what is wrong.

        Raises
        ------
        DataError
            When it is missing, unreadable, or has not the columns of contract 3.
        """
        self._check_file()
        try:
            table = self._read_parquet() if self._is_parquet else self._read_csv()
        except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
            raise self._unreadable(error) from error
        frame: pd.DataFrame = table.to_pandas()
        return frame

    @property
    def _is_parquet(self) -> bool:
        return self.path.suffix == ".parquet"

    @property
    def _first_row(self) -> int:
        # Row numbers as an editor shows them: a CSV has its header in line 1.
        return 1 if self._is_parquet else 2

    def _check_file(self) -> None:
        try:
            if not self.path.exists():
                raise DataError(f"{self.path}: no such file")
            if self.path.is_dir():
                raise DataError(f"{self.path}: is a directory, not a CSV or Parquet file")
            if self.path.stat().st_size == 0:
                raise DataError(f"{self.path}: the file is empty; expected the columns {', '.join(COLUMNS)}")
        except OSError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> DataError:
        return DataError(f"{self.path}: cannot be read: {_first_line(error)}")

    def _csv_batches(self) -> Iterator[pa.RecordBatch]:
        self._check_columns(self._header())
        try:
            with pa.csv.open_csv(self.path, convert_options=_CONVERT) as reader:
                yield from reader
        except pa.ArrowInvalid as error:
            raise self._wrong_cell(error) from error

    def _header(self) -> list[str]:
        with pa.input_stream(str(self.path)) as stream:
            head = stream.read(1 << 16).decode("utf-8-sig", errors="replace")
        return next(csv.reader(head.splitlines()[:1]), [])

    def _read_csv(self) -> pa.Table:
        self._check_columns(self._header())
        try:
            return pa.csv.read_csv(self.path, convert_options=_CONVERT)
        except pa.ArrowInvalid as error:
            raise self._wrong_cell(error) from error

    def _wrong_cell(self, error: pa.ArrowInvalid) -> Exception:
        if "conversion error" not in str(error):
            return error
        if "invalid UTF8" in str(error):
            return DataError(f"{self.path}: a name is not UTF-8 text; save the file as UTF-8")
        return DataError(f"{self.path}: {self._first_text()}")

    def _first_text(self) -> str:
        """Name the first cell that should be a number and is not; slow, for the message only."""
        convert = pa.csv.ConvertOptions(
            column_types=dict.fromkeys(COLUMNS, pa.string()), include_columns=["timestamp", "value"]
        )
        text = pa.csv.read_csv(self.path, convert_options=convert).to_pandas()
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
        table = pa.parquet.read_table(self.path, columns=list(COLUMNS))
        return table.cast(_SCHEMA)

    def _parquet_batches(self) -> Iterator[pa.RecordBatch]:
        self._check_schema()
        with pa.parquet.ParquetFile(
            self.path, read_dictionary=["workload", "metric"], buffer_size=_BUFFER
        ) as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=list(COLUMNS)):
                yield batch.cast(_SCHEMA)

    def _check_schema(self) -> None:
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

    def _check_columns(self, names: list[str]) -> None:
        missing = [name for name in COLUMNS if name not in names]
        if missing:
            raise DataError(
                f"{self.path}: no column {', '.join(missing)}; the file has: {', '.join(names) or 'nothing'}"
            )
        if twice := [name for name in COLUMNS if names.count(name) > 1]:
            raise DataError(f"{self.path}: the column {', '.join(twice)} stands twice")


def _rows_of(batch: pa.RecordBatch) -> RowBatch:
    def numbers(column: str) -> np.ndarray:
        values: np.ndarray = batch.column(column).to_numpy(zero_copy_only=False)
        return values

    def names(column: str) -> Names:
        encoded = batch.column(column)
        codes = encoded.indices if not encoded.null_count else encoded.indices.fill_null(-1)
        return Names(codes.to_numpy(), encoded.dictionary.to_numpy(zero_copy_only=False))

    return RowBatch(numbers("timestamp"), numbers("value"), names("workload"), names("metric"))


def _empty(column: Names) -> np.ndarray | None:
    """Which rows have no name, bool ``[rows]``; None where all have one, which a few names tell."""
    nameless = np.flatnonzero([name is None or name == "" for name in column.names])
    if not len(nameless) and column.codes.min(initial=0) >= 0:
        return None
    empty: np.ndarray = (column.codes < 0) | np.isin(column.codes, nameless)
    return empty


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
