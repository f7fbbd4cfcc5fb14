"""Output files of a command, written as a whole or not at all, and its log file."""

import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from kforecast.errors import ConfigError, OutputError
from kforecast.files.directory import check_still_there, check_writable, signals_wait, writing

if TYPE_CHECKING:
    import pandas as pd


class LogFile(logging.FileHandler):
    """A log file that stops the work when it cannot be written.

    Raises
    ------
    OutputError
        From the call that logs.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, but not into a removed folder, where the open file would still accept it."""
        check_still_there(Path(self.baseFilename).parent)
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Raise errors of the file system."""
        if isinstance(error := sys.exc_info()[1], OSError):
            raise OutputError(f"{self.baseFilename}: cannot be written: {error.strerror or error}") from error
        super().handleError(record)


def check_output(value: object, endings: Collection[str], key: str = "output") -> Path | None:
    """Check the output file that a key names; None when the key names none.

    Raises
    ------
    ConfigError
        When its ending is not one of ``endings``, or it cannot be written.
    """
    if value is None:
        return None
    path = Path(str(value))
    if not path.name.endswith(tuple(endings)):
        raise ConfigError(f"{key}: {path} ends in none of {', '.join(endings)}")
    check_writable(path.parent)
    if path.is_dir():
        raise ConfigError(f"{key}: {path} is a directory")
    return path


def write_frame(frame: "pd.DataFrame", path: Path) -> None:
    """Write a frame as CSV, compressed CSV, Parquet or JSON (a list of rows), by the suffix of the path."""

    def write(staged: Path) -> None:
        if path.suffix == ".parquet":
            frame.to_parquet(staged, index=False)
        elif path.suffix == ".json":
            rows = json.dumps(frame.to_dict("records"), ensure_ascii=False, indent=1)
            staged.write_text(rows + "\n", encoding="utf-8")
        else:
            frame.to_csv(staged, index=False)

    replace_file(path, write)


def write_json(content: object, path: Path) -> None:
    """Write plain values as JSON."""
    text = json.dumps(content, ensure_ascii=False, indent=1)

    def write(staged: Path) -> None:
        staged.write_text(text + "\n", encoding="utf-8")

    replace_file(path, write)


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a new file, and replace ``path`` with it atomically.

    Raises
    ------
    OutputError
        When the file system refuses; the old file is still there.
    """
    with signals_wait(), writing(path):
        _replace(path.resolve(), write)


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        # Under the same name, because the suffix decides the format.
        staged = Path(folder) / path.name
        write(staged)
        with staged.open("rb") as file:
            os.fsync(file.fileno())
        staged.replace(path)
