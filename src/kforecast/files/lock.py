"""Locks on directories: one writer at a time."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from kforecast.errors import OutputError
from kforecast.files.directory import make_directories, remove_empty, writing


@contextmanager
def sole_writer(directory: Path, name: str) -> Iterator[None]:
    """Keep other processes that ask for the same from writing a directory, on all machines where it lies.

    What processes that were killed have left of their writing is removed.

    Parameters
    ----------
    name:
        What others are told of who writes.

    Raises
    ------
    OutputError
        When another is writing, and who; or when the file system refuses.
    """
    directory = directory.resolve()
    with writing(directory):
        made = make_directories(directory.parent)
    path = _lock_of(directory)
    lock = FileLock(path, blocking=False)
    with writing(path):
        try:
            lock.acquire()
        except Timeout as error:
            holder = path.read_text(encoding="utf-8", errors="replace").strip() or "another run"
            raise OutputError(
                f"{directory}: {holder} is writing there; wait for it, or name another"
            ) from error
    try:
        with writing(path):
            path.write_text(name, encoding="utf-8")
        for folder in (directory.parent, directory) if directory.is_dir() else (directory.parent,):
            begin = re.escape(f".{directory.name}." if folder == directory.parent else ".new.")
            for left in folder.iterdir():
                if re.fullmatch(rf"{begin}[a-z0-9_]{{8}}", left.name) and left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        # While it is held: whoever was waiting for this file finds that it has gone, and makes another.
        path.unlink(missing_ok=True)
        lock.release()
        remove_empty(made)


def has_writer(directory: Path) -> bool:
    """Whether another process writes a directory now, see :func:`sole_writer`."""
    path = _lock_of(directory.resolve())
    if not path.exists():
        return False
    lock = FileLock(path, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        return True
    lock.release()
    return False


def _lock_of(directory: Path) -> Path:
    # A mounted volume is the only place that others are sure to see.
    inside = os.path.ismount(directory) or not os.access(directory.parent, os.W_OK | os.X_OK)
    return directory / ".lock" if inside else directory.parent / f".{directory.name}.lock"
