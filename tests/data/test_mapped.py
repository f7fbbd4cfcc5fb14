"""A mapped panel equals the panel in memory, for any file and any state of the cache."""

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kforecast.data import binning, mapped
from kforecast.data.panel import Panel
from kforecast.data.reading import read_panel
from kforecast.errors import DataError
from kforecast.metrics.csv import CsvSource
from kforecast.window import FREQUENCIES, Frequency

START = 1_700_000_000
MINUTE = Frequency.parse("1min")
SERIES = [("shop/b", "qps"), ("shop/a", "qps"), ("shop/a", "cpu"), ("ns/Ä", "m")]


def _write(path: Path, rows, row_group_size=7):
    frame = pd.DataFrame(rows, columns=["timestamp", "value", "workload", "metric"])
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), path, row_group_size=row_group_size)
    return path


def _minutes(series=3, count=50):
    return [(START + 60 * t, float(t + s), f"shop/{s}", "qps") for s in range(series) for t in range(count)]


def _map(path, cache, frequency=MINUTE):
    return read_panel(CsvSource(path, memory_map=True, cache_dir=cache), frequency)


def _assert_equal(one: Panel, other: Panel):
    assert one.values.dtype == other.values.dtype == np.float32
    assert one.observed.dtype == other.observed.dtype == bool
    np.testing.assert_array_equal(one.values.view(np.uint32), other.values.view(np.uint32))
    np.testing.assert_array_equal(one.observed, other.observed)
    for name in ("start", "frequency", "series", "report"):
        assert getattr(one, name) == getattr(other, name)
    assert one.fingerprint() == other.fingerprint()


@st.composite
def files(draw):
    """Rows in any order, with duplicates, gaps, missing values and fractions; a frequency; block sizes."""
    frequency = FREQUENCIES[draw(st.sampled_from(sorted(FREQUENCIES)))]
    second = st.integers(0, 40).map(lambda number: number * frequency.step // 3)
    row = st.tuples(
        (second | second.map(lambda number: number + 0.75)).map(lambda number: START + number),
        st.floats(-1e6, 1e6) | st.integers(0, 3).map(float) | st.just(float("nan")) | st.just(-0.0),
        st.sampled_from(SERIES[: draw(st.integers(1, len(SERIES)))]),
    )
    rows = draw(st.lists(row, min_size=1, max_size=80).filter(lambda rows: any(r[1] == r[1] for r in rows)))
    if draw(st.booleans()):
        rows.sort(key=lambda row: (row[2], row[0]))
    return [(at, value, *pair) for at, value, pair in rows], frequency, draw(st.integers(1, 30))


@given(files())
@settings(deadline=None, max_examples=60)
def test_a_mapped_panel_is_the_panel_in_memory(tmp_path_factory, given_file):
    rows, frequency, size = given_file
    folder = tmp_path_factory.mktemp("map")
    path = _write(folder / "a.parquet", rows, row_group_size=size)
    whole = Panel.from_frame(CsvSource(path).fetch(), frequency)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped, "_BLOCK_ROWS", size)
        patch.setattr(binning, "BLOCK_ROWS", size)
        patch.setattr(binning, "_CELLS", 5 * size)
        patch.setattr(mapped, "_PIECE", 8 * size)
        _assert_equal(_map(path, folder / "cache", frequency), whole)
        _assert_equal(_map(path, folder / "cache", frequency), whole)  # from the cache
        _assert_equal(read_panel(CsvSource(path, memory_map=False), frequency), whole)


def test_what_is_mapped_is_not_read_again_and_never_written_back(tmp_path, monkeypatch):
    path = _write(tmp_path / "a.parquet", _minutes())
    first = _map(path, tmp_path / "cache")
    monkeypatch.setattr(mapped, "_convert", None)
    second = _map(path, tmp_path / "cache")
    assert isinstance(second.values, np.memmap)
    second.values[:] = 7
    second.observed[:] = False
    _assert_equal(_map(path, tmp_path / "cache"), first)
    torch.from_numpy(second.values)  # would warn if the memory were read-only


def test_a_changed_panel_has_a_fingerprint_of_its_own(tmp_path):
    panel = _map(_write(tmp_path / "a.parquet", _minutes()), tmp_path / "cache")
    assert panel.rows([0, 1, 2]).fingerprint() == panel.fingerprint()
    assert panel.rows([0, 1]).fingerprint() != panel.fingerprint()
    assert panel.padded(1, 0).fingerprint() != panel.fingerprint()


def test_each_state_of_a_file_and_each_frequency_has_its_own_map(tmp_path):
    path = _write(tmp_path / "a.parquet", _minutes())
    _map(path, tmp_path / "cache")
    _map(path, tmp_path / "cache", Frequency.parse("10min"))
    _write(path, _minutes(count=60))
    assert _map(path, tmp_path / "cache").num_bins == 60
    assert len(list((tmp_path / "cache").iterdir())) == 3


@pytest.mark.parametrize("name", ["values", "observed", "panel"])
@pytest.mark.parametrize("harm", ["cut", "gone", "changed"])
def test_a_damaged_map_is_made_again(name, harm, tmp_path):
    path = _write(tmp_path / "a.parquet", _minutes())
    expected = _map(path, tmp_path / "cache")
    expected = Panel(
        np.array(expected.values), np.array(expected.observed), expected.start, MINUTE, expected.series,
        expected.report,
    )  # fmt: skip
    [entry] = (tmp_path / "cache").iterdir()
    file = entry / name
    if harm == "cut":
        os.truncate(file, file.stat().st_size // 2)
    elif harm == "gone":
        file.unlink()
    elif name == "panel":
        file.write_text(file.read_text().replace('"num_bins": 50', '"num_bins": 49'))
    else:
        content = bytearray(file.read_bytes())
        content[3] ^= 1
        file.write_bytes(content)
    _assert_equal(_map(path, tmp_path / "cache"), expected)
    assert [child.name for child in (tmp_path / "cache").iterdir()] == [entry.name]


def test_a_build_that_fails_leaves_nothing(tmp_path, monkeypatch):
    path = _write(tmp_path / "a.parquet", _minutes())

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mapped, "bin_rows", fail)
    with pytest.raises(OSError, match="No space"):
        _map(path, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_a_killed_build_left_is_removed_unless_someone_builds_there(tmp_path):
    cache = tmp_path / "cache"
    for name in ("dead", "alive", "new"):
        (cache / f".building-{name}").mkdir(parents=True)
        if name != "new":
            os.utime(cache / f".building-{name}", (0, 0))
    with mapped._locked(cache / ".building-alive"):
        _map(_write(tmp_path / "a.parquet", _minutes()), cache)
    assert {child.name for child in cache.glob(".*")} == {".building-alive", ".building-new"}


def test_two_builders_at_once_do_no_harm(tmp_path):
    path = _write(tmp_path / "a.parquet", _minutes())
    panels = []
    threads = [
        threading.Thread(target=lambda: panels.append(_map(path, tmp_path / "cache"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(panels) == 4
    for panel in panels:
        _assert_equal(panel, panels[0])
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_progress_and_the_place_are_said(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(mapped, "_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, "kforecast"):
        _map(_write(tmp_path / "a.parquet", _minutes()), tmp_path / "cache")
    text = caplog.text
    for words in ("Converting", "Converted 33%", "Converted 66%", "Converted 100%", "Mapped in", "cache"):
        assert words in text


@pytest.mark.parametrize(
    "rows",
    [
        [*_minutes(), (START, float("inf"), "w", "m")],
        [*_minutes(), (START, 1.0, None, "m"), (START, 1.0, "w", ""), (float("nan"), 1.0, "w", "m")],
        [*_minutes(), (START * 1000, 1.0, "w", "m")],
        [(START, float("nan"), "w", "m")],
        [*_minutes(), (START, 1.0, "ns/ab", "c"), (START, 1.0, "ns/a", "bc")],
        [*_minutes(), *[(0, 1.0, "w", "m")] * 3],
        [],
    ],
    ids=["infinite", "names and times", "milliseconds", "no value", "item keys", "1970", "no rows"],
)
def test_what_is_wrong_is_said_as_for_a_file_in_memory(rows, tmp_path):
    path = tmp_path / "a.parquet"
    types = zip(["timestamp", "value", "workload", "metric"], [float, float, str, str], strict=True)
    table = {
        name: pa.array([row[i] for row in rows], pa.string() if kind is str else pa.float64())
        for i, (name, kind) in enumerate(types)
    }
    pq.write_table(pa.table(table), path, row_group_size=7)
    with pytest.raises(DataError) as expected:
        Panel.from_frame(CsvSource(path).fetch(), MINUTE)
    for memory_map in (True, False):
        with pytest.raises(DataError) as said:
            read_panel(CsvSource(path, memory_map, tmp_path / "cache"), MINUTE)
        assert str(said.value) == str(expected.value)
    assert not (tmp_path / "cache").exists()


def test_a_corrupt_file_cannot_be_read(tmp_path):
    path = _write(tmp_path / "a.parquet", _minutes())
    good = path.read_bytes()
    for content in (
        b"",
        b"no parquet",
        good[: len(good) // 2],
        b"PAR1",
        good[:40] + b"\xff" * 200 + good[240:],
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"cannot be read|is empty"):
            _map(path, tmp_path / "cache")


def test_only_a_big_parquet_file_is_mapped_by_itself(tmp_path, monkeypatch):
    path = _write(tmp_path / "a.parquet", _minutes())
    assert not CsvSource(path).is_mapped()
    assert CsvSource(path, memory_map=True).is_mapped()
    monkeypatch.setattr("kforecast.metrics.csv._MOST_ROWS_IN_MEMORY", 149)
    assert CsvSource(path).is_mapped()
    assert not CsvSource(path, memory_map=False).is_mapped()
    assert not CsvSource(tmp_path / "a.csv").is_mapped()
    assert not CsvSource(tmp_path / "nowhere.parquet").is_mapped()


def write_big(path: Path, series: int, bins: int, by: str = "series", per_group: int = 1_000_000) -> None:
    """A Parquet file with a row per minute, 1 % of them missing, sorted by ``series`` or by ``time``."""
    names = pa.array([f"shop/web-{number}" for number in range(series)])
    random = np.random.default_rng(0)
    noise = np.round(random.gamma(2, 50, 1 << 20), 1)
    total = series * bins
    schema = pa.schema(
        [
            ("timestamp", pa.int64()),
            ("value", pa.float64()),
            ("workload", pa.dictionary(pa.int32(), pa.string())),
            ("metric", pa.dictionary(pa.int32(), pa.string())),
        ]
    )
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for begin in range(0, total, per_group):
            cell = np.arange(begin, min(begin + per_group, total))
            cell = cell[random.random(len(cell)) >= 0.01]
            row, minute = (cell // bins, cell % bins) if by == "series" else (cell % series, cell // series)
            metric = pa.DictionaryArray.from_arrays(np.zeros(len(cell), np.int32), pa.array(["qps"]))
            workload = pa.DictionaryArray.from_arrays(row.astype(np.int32), names)
            value = noise[(cell + begin) & ((1 << 20) - 1)] + row
            writer.write_table(pa.table([60 * minute + START, value, workload, metric], schema=schema))


@pytest.mark.slow
@pytest.mark.parametrize("by", ["series", "time"])
def test_a_big_file_is_converted_in_little_memory(by, tmp_path):
    path = tmp_path / "big.parquet"
    write_big(path, 500, 43_200, by)
    script = f"""
from kforecast.data.reading import read_panel
from kforecast.metrics.csv import CsvSource
from kforecast.window import Frequency
panel = read_panel(CsvSource({str(path)!r}, True, {str(tmp_path / "cache")!r}), Frequency.parse("1min"))
print(next(line for line in open("/proc/self/status") if "VmHWM" in line).split()[1])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1_500_000  # kB
    panel = _map(path, tmp_path / "cache")
    for number in (0, 7, 499):
        workload = f"shop/web-{number}"
        rows = pq.read_table(path, filters=[("workload", "=", workload)]).to_pandas()
        whole = Panel.from_frame(rows, MINUTE)
        row = panel.series.index((workload, "qps"))
        begin = (whole.start - panel.start) // 60
        span = slice(begin, begin + whole.num_bins)
        np.testing.assert_array_equal(panel.values[row, span], whole.values[0])
        np.testing.assert_array_equal(panel.observed[row, span], whole.observed[0])
        assert panel.observed[row].sum() == whole.observed.sum()
