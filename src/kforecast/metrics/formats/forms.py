"""What a file is, told by its first bytes; files that cannot be read are refused by name."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from kforecast.errors import DataError
from kforecast.metrics.formats.answers import read_json
from kforecast.metrics.formats.influx import is_influx, read_influx
from kforecast.metrics.formats.names import Naming
from kforecast.metrics.formats.tables import Seconds, TextTable, text_table
from kforecast.metrics.formats.text import start_of, whole_text

_TO_PARQUET = "convert it with python -c \"import pandas; pandas.{}('{}').to_parquet('history.parquet')\""
_UNPACK = "unpack it first"
# Binary files by their first bytes: what they are, and what to do.
_BINARY: dict[bytes, tuple[str, str]] = {
    b"SQLite format 3": (
        "an SQLite database",
        "export its rows: sqlite3 -header -csv {path} 'SELECT ...' > history.csv",
    ),
    b"ORC": ("an ORC file", _TO_PARQUET.format("read_orc", "{path}")),
    b"ARROW1": ("an Arrow (Feather) file", _TO_PARQUET.format("read_feather", "{path}")),
    b"FEA1": ("a Feather file", _TO_PARQUET.format("read_feather", "{path}")),
    b"\xff\xff\xff\xff": ("an Arrow stream", "write it as Parquet"),
    b"\xd0\xcf\x11\xe0": ("an Excel workbook", "save the sheet as CSV and give that file"),
    b"\x89HDF": ("an HDF5 file", _TO_PARQUET.format("read_hdf", "{path}")),
    b"\x93NUMPY": (
        "a NumPy array",
        "write it as CSV or Parquet with the columns timestamp, value, workload, metric",
    ),
    b"Obj\x01": ("an Avro file", "write it as Parquet"),
    b"PAR1": ("a compressed Parquet file", "unpack it; Parquet is compressed inside"),
    b"%PDF": ("a PDF", "export the data itself"),
    b"\x89PNG": ("an image", "export the data itself"),
    b"Rar!": ("a RAR archive", _UNPACK),
    b"7z\xbc\xaf": ("a 7z archive", _UNPACK),
    b"\x1f\x8b": ("compressed twice", _UNPACK),
    b"BZh9": ("compressed twice", _UNPACK),
    b"\xfd7zXZ": ("compressed twice", _UNPACK),
    b"\x28\xb5\x2f\xfd": ("compressed twice", _UNPACK),
    b"PK\x03\x04": ("a zip in a compressed file", _UNPACK),
    **{
        bytes([0x80, version]): ("a Python pickle", "write the frame with to_csv() or to_parquet()")
        for version in (2, 3, 4, 5)
    },
}
# Texts that are no tables of history.
_TEXTS: list[tuple[str, str, str]] = [
    (
        r"(?i)<!doctype html|<html|<head|<body",
        "a web page (HTML), perhaps of a login",
        "export the data itself",
    ),
    (r"<\?xml|<[A-Za-z]+[ >]", "XML", "export the rows as CSV"),
    (r"version https://git-lfs", "a pointer of Git LFS, not the file itself", "fetch it with git lfs pull"),
    (
        r"# (HELP|TYPE|EOF) |[a-zA-Z_:][\w:]*\{[^}\n]*\} [-+.\dNI]",
        "Prometheus' exposition format, the values of one moment",
        "ask the server for a range, with source=prometheus",
    ),
    (
        r"[\w:]*(\{[^\n]*\})? =>\s*\n",
        "promtool's text output",
        "ask with promtool query range -o json and give that file",
    ),
    (
        r"[\w.-]+(,[\w.-]+=[^,= \n]+)+ \w+=\S+( \d+)?\s*(\n|$)",
        "InfluxDB's line protocol",
        "query the rows as CSV: influx query --raw '...' > history.csv",
    ),
    (
        r"(LABEL|METRICDATARESULTS|DATAPOINTS)\t",
        "text output of the AWS command line",
        "ask with --output json and give that file",
    ),
    (
        r'"?(Full label|Label|Id|Account ID|Namespace|Region)"?[,;]"?[^\n]*\n"?(Full label|Label|Id|Account|'
        r"Namespace|Region|Metric|MetricName|Metric name|Statistic|Stat|Period|Unit|Dimensions)",
        "an export of CloudWatch's console",
        "ask for the data instead, aws cloudwatch get-metric-data --output json, and give that file",
    ),
    (r"(PRAGMA|BEGIN TRANSACTION|CREATE TABLE|INSERT INTO|--)\s", "SQL", "export the rows as CSV"),
]


@dataclass(frozen=True)
class Form:
    """How a file is read: as a table of text, or by a parser of its own."""

    read: Callable[[Seconds], tuple[pa.Table, list[str]]]
    """Reads the whole file: rows, and notes for the user, of which the first says what wrote it."""
    table: TextTable | None = None


def recognise(path: Path, naming: Naming) -> Form:
    """Find out what a text file is, compressed or not.

    Raises
    ------
    DataError
        When it is of a kind that cannot be read, or its columns are not clear.
    OSError, ArrowException
        When the file cannot be read.
    """
    start = start_of(path)
    _refuse_binary(start, path)
    _refuse_text(start, path)
    if start.lstrip()[:1] in (b"{", b"["):
        return Form(lambda seconds: read_json(whole_text(path), path, naming, seconds))
    if is_influx(start):
        return Form(lambda seconds: read_influx(whole_text(path), path, naming, seconds))
    table = text_table(start, path, naming)
    return Form(table.read, table)


def _refuse_binary(start: bytes, path: Path) -> None:
    for magic, (kind, remedy) in _BINARY.items():
        if start.startswith(magic):
            raise DataError(f"{path}: is {kind}; {remedy.replace('{path}', str(path))}")
    if start[257:262] == b"ustar":
        raise DataError(f"{path}: is a tar archive; unpack it and give one of its files")


def _refuse_text(start: bytes, path: Path) -> None:
    text = start[:4096].decode("utf-8", errors="replace").lstrip()
    for pattern, kind, remedy in _TEXTS:
        if re.match(pattern, text):
            raise DataError(f"{path}: is {kind}; {remedy}")
