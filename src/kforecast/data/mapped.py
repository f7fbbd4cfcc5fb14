"""Panels larger than memory: a Parquet file is converted once and then memory-mapped from a cache."""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import pyarrow as pa

from kforecast.console import short_path
from kforecast.data.binning import Intake, Tally, bin_rows, blocks_of
from kforecast.data.calendar import Calendar
from kforecast.data.measures import MEASURES
from kforecast.data.panel import CleaningReport, Panel, fingerprint_head, in_key_order, in_rows, report_of
from kforecast.data.rows import Rows
from kforecast.errors import DataError
from kforecast.files.directory import make_directories, remove_empty
from kforecast.metrics.csv import CsvSource
from kforecast.window import Frequency

log = logging.getLogger(__name__)

_FORMAT = 3
_VALUES, _OBSERVED, _MEASURES, _ABOUT = "values", "observed", "measures", "panel"
_FILES = (_VALUES, _OBSERVED, _MEASURES)
# Rows binned at once; the memory of a conversion is a small multiple of this.
_BLOCK_ROWS = 4_000_000
_PIECE = 16 << 20
_BUILDING = ".building-"
# Seconds between two progress lines of a conversion.
_SECONDS = 10.0
# Seconds. A folder is locked just after it is created, so only older ones count as abandoned.
_FORSAKEN = 60.0

Piece = TypeVar("Piece")


def mapped_panel(source: CsvSource, frequency: Frequency, calendar: Calendar | None = None) -> Panel:
    """The panel of a Parquet file, mapped from ``source.cache_dir``; equal to :meth:`Panel.from_frame`'s.

    The arrays are mapped copy-on-write: changes stay in this process. When the cache has no panel for this
    file and frequency, the file is converted first. A conversion temporarily needs 14 bytes of disk per row,
    and memory for a few million rows (or for the rows of the longest series, if those are more).

    Raises
    ------
    DataError
        As ``source.fetch()`` and :meth:`Panel.from_frame`, and for timestamps after the year 2105.
    OSError
        When the cache cannot be written.
    """
    folder = source.cache_dir / _name(source, frequency, calendar or Calendar())
    panel = _opened(folder, frequency)
    if panel is not None:
        log.info("Mapping %s", short_path(folder))
        return panel
    log.info("Converting %s to a memory-mapped panel, once", source)
    made = make_directories(source.cache_dir)
    try:
        with _building(source.cache_dir) as staged:
            _convert(source, frequency, calendar, staged)
            panel = _published(staged, folder, frequency)
    except DataError:
        remove_empty(made)
        raise
    size = sum(file.stat().st_size for file in folder.iterdir())
    log.info("Mapped in %s (%.1f GB); delete it when it is not needed", short_path(folder), size / 1e9)
    return panel


def _name(source: CsvSource, frequency: Frequency, calendar: Calendar) -> str:
    """Name of the cached panel: a hash of the file's state, the grid and the cache format."""
    try:
        about, footer = source.path.stat(), source.footer()
    except (OSError, pa.ArrowException) as error:
        raise source.unreadable(error) from error
    zones = calendar.as_dict()["timezone"]
    grid = frequency.name if zones == "UTC" else f"{frequency.name} {json.dumps(zones)}"
    state = f"{grid} {source.on_multiple} {about.st_size} {about.st_mtime_ns}"
    digest = hashlib.sha256(f"{_FORMAT} {state} ".encode())
    # Other timestamps are refused while a file is converted.
    digest.update(f"any_time={source.any_time}".encode() + footer)
    return digest.hexdigest()[:32]


def _opened(folder: Path, frequency: Frequency) -> Panel | None:
    """The panel in a folder of the cache; None when there is none, or it has changed since it was written."""
    try:
        checksum, _, text = (folder / _ABOUT).read_text(encoding="utf-8").partition("\n")
        about = json.loads(text)
        if checksum != _checksum(text) or about["files"] != {name: _state(folder / name) for name in _FILES}:
            return None
        series = tuple((str(workload), str(metric)) for workload, metric in about["series"])
        shape = (len(series), about["num_bins"])
        panel = Panel(
            np.memmap(folder / _VALUES, np.float32, "c", shape=shape),
            np.memmap(folder / _OBSERVED, np.bool_, "c", shape=shape),
            about["start"],
            frequency,
            series,
            CleaningReport(**about["report"]),
            about["zone"],
            np.fromfile(folder / _MEASURES, MEASURES),
        )
        return panel.known_as(about["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _state(path: Path) -> list[int]:
    """Size and time of the last change, to detect changes without reading the file."""
    about = path.stat()
    return [about.st_size, about.st_mtime_ns]


@contextmanager
def _building(cache: Path) -> Iterator[Path]:
    """A folder to build in, locked while this process lives; remove the folders of dead processes."""
    for other in cache.glob(f"{_BUILDING}*"):
        try:
            if time.time() - other.stat().st_mtime > _FORSAKEN:
                with _locked(other):
                    shutil.rmtree(other)
        except OSError:
            continue  # another process is building there, or has just finished
    staged = Path(tempfile.mkdtemp(prefix=_BUILDING, dir=cache))
    try:
        with _locked(staged):
            yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _published(staged: Path, folder: Path, frequency: Frequency) -> Panel:
    """Move a finished folder to its final name, unless another process was faster; return its panel."""
    staged.chmod(0o755)
    try:
        staged.rename(folder)
    except OSError:
        panel = _opened(folder, frequency)
        if panel is not None:
            return panel
        # The existing folder is damaged. A folder cannot be replaced atomically, but it can be moved away.
        folder.rename(staged / "damaged")
        staged.rename(folder)
        shutil.rmtree(folder / "damaged")
    panel = _opened(folder, frequency)
    if panel is None:
        raise OSError(f"{folder}: the panel just written cannot be read back; is the disk full or shared?")
    return panel


def _convert(source: CsvSource, frequency: Frequency, calendar: Calendar | None, staged: Path) -> None:
    """Write the files of a panel.

    The first pass over the source counts the rows of each series. The second pass writes the rows to disk,
    grouped into blocks of series that fit into memory. Then each block is binned.
    """
    progress = _Progress(3 * source.num_rows())
    intake, numbered = Intake(), np.zeros(0, np.int64)
    for workload, metric in _readable(source, source.names()):
        numbers = intake.numbers.of(workload, metric)
        counts = np.bincount(numbers, minlength=len(numbered))
        counts[: len(numbered)] += numbered
        numbered = counts
        progress.add(len(numbers))
    blocks = blocks_of(numbered, _BLOCK_ROWS)
    with _RowsOnDisk(staged, blocks, numbered) as store:
        for batch in _readable(source, source.batches()):
            store.add(intake.compact(batch))
            progress.add(len(batch.value))
        series, row = in_key_order(intake.numbers.pairs)
        span = intake.bin_range(frequency, calendar, store, blocks)
        tally, last = Tally(source.on_multiple, intake.measures()), 0
        with (staged / _VALUES).open("w+b") as values, (staged / _OBSERVED).open("w+b") as observed:
            for bins in bin_rows(store, blocks, span, tally):
                for number in range(bins.begin, bins.stop):
                    at = int(row[number]) * span.num_bins
                    _put(values, 4 * at, bins.values[number - bins.begin])
                    _put(observed, at, bins.observed[number - bins.begin])
                last = max(last, bins.last)
                progress.add(int(numbered[bins.begin : bins.stop].sum()))
            intake.check_range(span, frequency, tally)
            tally.off_grid.report(intake.numbers.pairs, frequency, span.grid)
            for file, size in ((values, 4), (observed, 1)):
                _narrow(file, len(series), size * span.num_bins, size * (last + 1))
                file.flush()
                os.fsync(file.fileno())
            with (staged / _MEASURES).open("wb") as written:
                written.write(in_rows(tally.measures, row).data)
                written.flush()
                os.fsync(written.fileno())
            start, zone = span.grid.seconds(span.first_bin), span.grid.zone
            digest = hashlib.sha256(fingerprint_head(frequency, start, series, zone))
            # The mask as bits, 8 cells per byte across series, as in Panel.fingerprint().
            for piece in _pieces(observed):
                digest.update(np.packbits(np.frombuffer(piece, np.bool_)).data)
            for piece in _pieces(values):
                digest.update(piece)
    about: dict[str, Any] = {
        "format": _FORMAT,
        "source": str(source),
        "frequency": frequency.name,
        "start": start,
        "zone": zone,
        "num_bins": last + 1,
        "fingerprint": digest.hexdigest(),
        "report": asdict(report_of(intake, tally)),
        "files": {name: _state(staged / name) for name in _FILES},
        "series": series,
    }
    text = json.dumps(about)
    with (staged / _ABOUT).open("wb") as written:
        written.write(f"{_checksum(text)}\n{text}".encode())
        written.flush()
        os.fsync(written.fileno())


class _RowsOnDisk:
    """Rows on disk, grouped by blocks of series: one temporary file per column."""

    def __init__(self, folder: Path, blocks: list[tuple[int, int]], counts: np.ndarray) -> None:
        self._first = np.array([begin for begin, _ in blocks], np.int64)
        self._sizes = np.zeros(len(blocks), np.int64)
        widest = max((stop - begin for begin, stop in blocks), default=1)
        # Where each block begins. Rows without a value are counted but not stored: their space stays free.
        self._begin = np.r_[0, np.cumsum(counts)][self._first] if blocks else np.zeros(0, np.int64)
        self._block_of = np.repeat(np.arange(len(blocks)), [stop - begin for begin, stop in blocks])
        if len(blocks) <= 2**16:
            self._block_of = self._block_of.astype(np.uint16)  # sorted by radix
        narrow = np.dtype(np.uint16 if widest <= 2**16 else np.uint32)
        types = (narrow, np.dtype(np.uint32), np.dtype(np.float64))
        self._columns = [(tempfile.TemporaryFile(dir=folder), kind) for kind in types]  # noqa: SIM115

    def __enter__(self) -> "_RowsOnDisk":
        return self

    def __exit__(self, *_: object) -> None:
        for file, _kind in self._columns:
            file.close()

    def add(self, rows: Rows) -> None:
        """Append rows to their blocks."""
        if not len(rows.value):
            return
        if rows.second.dtype != np.uint32:
            raise DataError(
                "a timestamp is after the year 2105, the limit of a memory-mapped panel; is it wrong?"
            )
        block = self._block_of[rows.series]
        lowest = int(block.min())
        if lowest != int(block.max()):
            order = np.argsort(block, kind="stable")
            rows, block = rows.at(order), block[order]
        bounds = np.r_[0, np.flatnonzero(np.diff(block)) + 1, len(block)].tolist()
        for begin, stop in pairwise(bounds):
            number = int(block[begin])
            local = rows.series[begin:stop].astype(np.int64) - self._first[number]
            at = int(self._begin[number] + self._sizes[number])
            parts = (local, rows.second[begin:stop], rows.value[begin:stop])
            for (file, kind), part in zip(self._columns, parts, strict=True):
                _put(file, at * kind.itemsize, part.astype(kind, copy=False))
            self._sizes[number] += stop - begin

    def block(self, begin: int, stop: int) -> Rows:  # noqa: ARG002
        """The rows of one of the blocks; the rows of a series keep their order."""
        number = int(np.searchsorted(self._first, begin))
        columns = []
        for file, kind in self._columns:
            file.flush()
            file.seek(int(self._begin[number]) * kind.itemsize)
            columns.append(np.fromfile(file, kind, int(self._sizes[number])))
        local, second, value = columns
        return Rows(local.astype(np.uint32) + np.uint32(begin), second, value)


class _Progress:
    """Logs the progress of a long conversion every few seconds."""

    def __init__(self, total: int) -> None:
        self._total = max(total, 1)
        self._done = 0
        self._said = time.monotonic()

    def add(self, rows: int) -> None:
        self._done += rows
        now = time.monotonic()
        if now - self._said > _SECONDS:
            self._said = now
            log.info("Converted %d%%", 100 * self._done // self._total)


def _readable(source: CsvSource, pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The pieces of a source; errors of reading become DataError, unlike errors of writing."""
    try:
        yield from pieces
    except (OSError, pa.ArrowException) as error:
        raise source.unreadable(error) from error


def _put(file: BinaryIO | Any, at: int, content: np.ndarray) -> None:
    file.seek(at)
    file.write(content.data)


def _narrow(file: BinaryIO, rows: int, width: int, kept: int) -> None:
    """Keep the first ``kept`` bytes of each row."""
    if kept < width:
        for row in range(rows):
            file.seek(row * width)
            content = file.read(kept)
            file.seek(row * kept)
            file.write(content)
    file.truncate(rows * kept)


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    while piece := file.read(_PIECE):
        yield piece
