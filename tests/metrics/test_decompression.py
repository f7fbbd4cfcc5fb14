"""Decompression bombs are refused early; genuine large files are not."""

import bz2
import gzip
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from conftest import START
from kforecast.data.reading import read_panel
from kforecast.errors import DataError
from kforecast.metrics import decompression
from kforecast.metrics.csv import CsvSource
from kforecast.window import Frequency

HEADER = b"timestamp,value,workload,metric\n"
MINUTES = Frequency.parse("10min")


def gzipped(path: Path, piece: bytes, times: int) -> Path:
    """A file of several gzip streams, which read as one."""
    path.write_bytes(gzip.compress(HEADER) + gzip.compress(piece) * times)
    return path


READERS: dict[str, Callable[[CsvSource], object]] = {
    "train": lambda source: read_panel(source, MINUTES),
    "fetch": CsvSource.read,
    "forecast": CsvSource.fetch,
}


@pytest.fixture(params=[8, pytest.param(1, marks=pytest.mark.slow)])
def smaller(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The factor by which this test is smaller than a real case; it scales the accepted size, too."""
    monkeypatch.setattr(decompression, "_SMALL", decompression._SMALL // request.param)
    return int(request.param)


@pytest.mark.parametrize("how", READERS)
def test_a_bomb_is_refused_when_it_has_grown_out_of_proportion(
    tmp_path: Path, how: str, smaller: int
) -> None:
    path = gzipped(tmp_path / "bomb.csv.gz", b"0,0,a,b\n" * ((1 << 20) // smaller), 24)
    assert path.stat().st_size < 400_000 // smaller
    with pytest.raises(DataError, match=r"bomb\.csv\.gz: holds more than 400 times its size"):
        READERS[how](CsvSource(path))


@pytest.mark.parametrize("how", READERS)
def test_a_bomb_in_the_header_is_refused(tmp_path: Path, how: str, smaller: int) -> None:
    path = tmp_path / "bomb.csv.bz2"
    path.write_bytes(bz2.compress(b"0" * ((80 << 20) // smaller)))
    with pytest.raises(DataError, match=r"bomb\.csv\.bz2"):
        READERS[how](CsvSource(path))


@pytest.mark.parametrize("how", READERS)
def test_a_line_without_end_is_refused(tmp_path: Path, how: str) -> None:
    path = tmp_path / "line.csv"
    with path.open("wb") as file:
        file.write(HEADER)
        file.truncate(20 << 30)
    with pytest.raises(DataError, match=r"line\.csv"):
        READERS[how](CsvSource(path))


def test_a_bomb_takes_no_memory(tmp_path: Path) -> None:
    gzipped(tmp_path / "bomb.csv.gz", b"0,0,a,b\n" * (1 << 20), 256)  # 2 GiB
    script = """
import resource, sys
from kforecast.errors import DataError
from kforecast.metrics.csv import CsvSource
from kforecast.data.reading import read_panel
from kforecast.window import Frequency
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_panel(CsvSource("bomb.csv.gz"), Frequency.parse("10min"))
except DataError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 500_000  # KiB


def test_a_constant_metric_is_read_however_well_it_compresses(tmp_path: Path, smaller: int) -> None:
    """70 MB of text, with names of 250 letters."""
    rows = 140_000 // smaller
    names = f",0,{'w' * 250},{'m' * 250}\n"
    path = tmp_path / "constant.csv.gz"
    with gzip.open(path, "wt") as file:
        file.write(HEADER.decode())
        file.writelines(f"{START + 60 * number}{names}" for number in range(rows))
    assert 70e6 / smaller / path.stat().st_size > 100
    assert 70e6 / smaller > decompression._SMALL
    assert read_panel(CsvSource(path), MINUTES).num_bins == rows / 10
    assert len(CsvSource(path).fetch()) == rows


def constant(rows: int, name: str = "a") -> pa.Table:
    zeros, codes = np.zeros(rows), np.zeros(rows, np.int32)
    moments = START + 60.0 * np.arange(rows)
    names = {column: pa.DictionaryArray.from_arrays(codes, [name]) for column in ("workload", "metric")}
    return pa.table({"timestamp": moments, "value": zeros, **names})


def test_parquet_with_more_rows_than_its_bytes_can_say_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.parquet"
    table = constant(1_000_000).set_column(0, "timestamp", pa.array(np.zeros(1_000_000)))
    pa.parquet.write_table(table, path, compression="zstd")
    assert len(CsvSource(path).read()) == 1_000_000  # few rows are always accepted
    monkeypatch.setattr(decompression, "_SMALL_ROWS", 1000)
    for read in READERS.values():
        with pytest.raises(DataError, match="1,000,000 rows in a file of"):
            read(CsvSource(path))
    # One series with a row per minute and no traffic.
    pa.parquet.write_table(constant(1_000_000), path, compression="zstd")
    assert len(CsvSource(path).read()) == 1_000_000


def test_parquet_that_promises_more_bytes_than_it_can_hold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bytes.parquet"
    plain = {"use_dictionary": False, "compression": "zstd"}
    table = pa.table({"timestamp": [0.0], "value": [0.0], "workload": ["x" * (80 << 20)], "metric": ["b"]})
    pa.parquet.write_table(table, path, write_statistics=False, **plain)
    with pytest.raises(DataError, match=r"bytes in a file of"):
        CsvSource(path).read()


def test_a_long_name_is_held_once(tmp_path: Path) -> None:
    """Twenty thousand rows, each with a name of a megabyte, would take 20 GB."""
    path = tmp_path / "name.parquet"
    pa.parquet.write_table(constant(20_000, "x" * (1 << 20)), path)
    assert CsvSource(path).read()["workload"].nunique() == 1
    assert read_panel(CsvSource(path), MINUTES).num_bins == 2000


@pytest.mark.parametrize("name", ["data.csv", "data.csv.gz", "data.parquet"])
def test_what_has_no_end_is_refused(tmp_path: Path, name: str) -> None:
    for make in (lambda path: path.symlink_to("/dev/zero"), os.mkfifo):
        make(tmp_path / name)
        for read in READERS.values():
            with pytest.raises(DataError, match="is a pipe or a device"):
                read(CsvSource(tmp_path / name))
        (tmp_path / name).unlink()
