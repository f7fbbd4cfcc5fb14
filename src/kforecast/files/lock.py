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
    """Lock a directory against other writers that use this function, on all machines that share it.

    Temporary files of killed writers are removed.

    Parameters
    ----------
    name:
        Name of this writer in the error message of others.

    Raises
    ------
    OutputError
        When another process is writing, with its name, or when the file system refuses.
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
        # Removed before the release: a waiting process notices that the file is gone, and creates another.
        path.unlink(missing_ok=True)
        lock.release()
        remove_empty(made)


def has_writer(directory: Path) -> bool:
    """Whether another process holds the lock of :func:`sole_writer` on a directory."""
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
    # Only the inside of a mounted volume is sure to be visible to other machines.
    inside = os.path.ismount(directory) or not os.access(directory.parent, os.W_OK | os.X_OK)
    return directory / ".lock" if inside else directory.parent / f".{directory.name}.lock"
