"""InfluxDB's annotated CSV: tables one below the other, each with annotations, a header and rows."""

import csv
import io
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv

from kforecast.errors import DataError
from kforecast.metrics.formats.names import Naming, rule_of, series_names, shortened_list
from kforecast.metrics.formats.numbers import NotANumberError, numbers
from kforecast.metrics.formats.series import check_common_moments, coded, table_of
from kforecast.metrics.formats.tables import Seconds, in_seconds, labelled, timestamps

_MOST_TABLES = 10_000
_NO_LABELS = {"", "result", "table", "_start", "_stop", "_time", "_value"}
_NUMERIC = {"double", "long", "unsignedLong", "decimal"}


def is_influx(start: bytes) -> bool:
    """Whether a text begins like InfluxDB's CSV."""
    return bool(re.match(rb'"?#(group|datatype|default)\b|,"?result"?,"?table"?,', start))


def read_influx(content: bytes, path: Path, naming: Naming, seconds: Seconds) -> tuple[pa.Table, list[str]]:
    """Read InfluxDB's CSV; returns the rows, and notes for the user.

    The labels are the tags. ``__name__`` is measurement and field, joined by ``_`` (without a field that is
    called ``value``).

    Raises
    ------
    DataError
        When it holds an error of the server, values that are no numbers, or pivoted tables.
    """
    tables = [table for text in _tables(content, path) if (table := _table(text, path, naming)) is not None]
    if not tables:
        raise DataError(f"{path}: no rows")
    labels = pd.concat([labels for labels, _, _ in tables], ignore_index=True).fillna("")
    codes, series = labelled(labels)
    for one in series:
        name, field = one.get("_measurement"), one.get("_field")
        if name or field:
            one["__name__"] = "_".join(
                part for part in (name, field if field != "value" or not name else "") if part
            )
    names = series_names(series, naming, path)
    moments = timestamps(pa.concat_arrays([moments for _, moments, _ in tables]))
    try:
        (value,) = numbers([pa.concat_arrays([cells for _, _, cells in tables])], decimal=".")
    except NotANumberError as error:
        raise DataError(
            f"{path}: _value in row {error.row + 1} of InfluxDB's CSV is {error.cell[:100]!r}, {error}"
        ) from error
    workload, metric = (coded(codes, [name[at] for name in names]) for at in (0, 1))
    rows = in_seconds(table_of(moments, value.values, workload, metric), seconds, 1)
    if naming.on_multiple == "sum":
        check_common_moments(rows, codes, names, path)
    return rows, ["InfluxDB's CSV", rule_of(series, naming)]


def _tables(content: bytes, path: Path) -> list[bytes]:
    """The text of each table: after a blank line, or before annotations, another begins."""
    cuts = {0, len(content)}
    cuts |= {found.end() for found in re.finditer(rb"\n[ \t]*\r?\n", content)}
    cuts |= {found.start() for found in re.finditer(rb'(?m)^(?:"?#[^\n]*(?:\n|\Z))+', content)}
    if len(cuts) > _MOST_TABLES:
        raise DataError(
            f"{path}: more than {_MOST_TABLES:,} tables; group() fewer series together in the query"
        )
    ends = sorted(cuts)
    pieces = (content[begin:end] for begin, end in pairwise(ends))
    return [piece for piece in pieces if piece.strip()]


def _table(text: bytes, path: Path, naming: Naming) -> tuple[pd.DataFrame, pa.Array, pa.Array] | None:
    """Labels, moments and values of one table as text; None for one without rows."""
    annotations: dict[str, list[str]] = {}
    while text.startswith((b"#", b'"#')):
        line, _, text = text.partition(b"\n")
        name, *cells = _cells(line, path)
        annotations[name] = [name, *cells]
    line, _, rows = text.partition(b"\n")
    header = _cells(line, path)
    if not header:
        return None
    if "error" in header and "_value" not in header:
        said = dict(zip(header, _cells(rows.partition(b"\n")[0], path), strict=False)).get("error", "unknown")
        raise DataError(f"{path}: is InfluxDB's error: {said[:200]}")
    (time,), (value,) = (
        naming.columns.get(c, (default,)) for c, default in (("timestamp", "_time"), ("value", "_value"))
    )
    for column, key in ((time, "timestamp"), (value, "value")):
        if column not in header:
            raise DataError(
                f"{path}: a table of InfluxDB's CSV has no column {column}, but {shortened_list(header)}; "
                "leave out pivot() in the query, or choose a column, like "
                f"'source.columns={{{key}: COLUMN}}'"
            )
    if len(set(header)) < len(header):
        raise DataError(f"{path}: a column of InfluxDB's CSV appears twice: {shortened_list(header)}")
    kind = dict(zip(header, annotations.get("#datatype", []), strict=False)).get(value, "double")
    if kind not in _NUMERIC:
        raise DataError(
            f"{path}: {value} of InfluxDB's CSV has the type {kind[:40]}; "
            "keep numeric fields only, with filter()"
        )
    if not rows.strip():
        return None
    table = pa.csv.read_csv(
        pa.BufferReader(rows),
        read_options=pa.csv.ReadOptions(column_names=header, block_size=16 << 20),
        convert_options=pa.csv.ConvertOptions(
            column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=False
        ),
    ).combine_chunks()
    defaults = dict(zip(header, annotations.get("#default", []), strict=False))
    labels = [name for name in header if name not in _NO_LABELS | {time, value}]
    frame = pd.DataFrame(
        {name: table.column(name).to_pandas().replace("", defaults.get(name, "")) for name in labels},
        index=np.arange(table.num_rows),
    )
    moments, values = (table.column(name).combine_chunks() for name in (time, value))
    return frame, moments, values


def _cells(line: bytes, path: Path) -> list[str]:
    text = line.decode("utf-8", errors="replace").strip("\r")
    try:
        return next(csv.reader(io.StringIO(text)), [])
    except csv.Error as error:  # a carriage return amid the line, or a field of more than 128 KiB
        raise DataError(f"{path}: a head of InfluxDB's CSV is no line of CSV: {error}") from error
