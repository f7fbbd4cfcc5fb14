"""Directories: check that they are writable, and replace them as a whole or not at all."""

import ctypes
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from kforecast.errors import ConfigError, OutputError


def check_writable(directory: Path) -> None:
    """Check early that files can be written to ``directory``, without writing any.

    Raises
    ------
    ConfigError
        When it is a file, or is below one.
    OutputError
        When permissions forbid it.
    """
    try:
        _check_writable(directory)
    except (OSError, ValueError) as error:  # a name that is too long or has a NUL
        raise ConfigError(f"{directory}: {getattr(error, 'strerror', None) or error}") from error


def _check_writable(directory: Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"{directory}: is a file, not a directory")
    existing = directory
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise ConfigError(f"{directory}: {existing} is a file, so no directory can be created there")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(f"{directory}: {existing} is not writable")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into an error that names the path.

    Raises
    ------
    OutputError
        In place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error


def check_still_there(directory: Path) -> None:
    """Check that a directory has not disappeared, for instance with its volume.

    Raises
    ------
    OutputError
        When it has: files would be written to a different place.
    """
    if not directory.is_dir():
        raise OutputError(f"{directory}: has gone since the run began; is its volume still mounted?")


def make_directories(directory: Path) -> list[Path]:
    """Create a directory and its missing parents; return the created ones, outermost first.

    Raises
    ------
    OSError
        When the file system refuses.
    """
    made = []
    for path in reversed((directory, *directory.parents)):
        try:
            path.mkdir()
        except OSError:
            if not path.is_dir():
                raise
        else:
            made.append(path)
    return made


def remove_empty(made: Iterable[Path]) -> None:
    """Undo :func:`make_directories`; directories that are no longer empty stay."""
    for path in reversed(list(made)):
        with suppress(OSError):
            path.rmdir()


def replace_directory(directory: Path, contents: Mapping[str, bytes], owned: Collection[str]) -> None:
    """Replace the owned files of ``directory`` with ``contents``, atomically where possible.

    A directory with only owned entries is swapped in one atomic rename. Where that is impossible (a mounted
    volume, or foreign files in the directory) the files are renamed one by one; old and new files are mixed
    if the process dies in those microseconds. Ctrl-C and SIGTERM take effect after the replacement, so that
    they cannot interrupt it.

    Parameters
    ----------
    directory:
        Created if missing.
    contents:
        Bytes by path below the directory.
    owned:
        Names directly below the directory that belong to us. Owned files that are not in ``contents`` are
        removed; other files stay.

    Raises
    ------
    OutputError
        When the file system refuses; the old content is still there.
    """
    with signals_wait(), writing(directory):
        _replace(directory.resolve(), contents, owned)


def _replace(directory: Path, contents: Mapping[str, bytes], owned: Collection[str]) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True)
    if not _may_be_swapped(directory, owned):
        _replace_files(directory, contents, owned)
        return
    staged = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        # mkdtemp creates it private, but a job of another user may serve it.
        staged.chmod(directory.stat().st_mode & 0o7777 if directory.exists() else 0o755)
        _write_all(staged, contents)
        if not directory.exists():
            staged.rename(directory)
        elif not _exchange(staged, directory):
            _replace_files(directory, contents, owned)
        _sync(directory.parent)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


@contextmanager
def signals_wait() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM to the end of the block. Only the main thread receives them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    # None: a handler that was not installed from Python, which could not be restored.
    handlers = {number: found for number in numbers if (found := signal.getsignal(number)) is not None}
    try:
        for number in handlers:
            signal.signal(number, lambda number, _: came.append(number))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for waiting in came:
            signal.raise_signal(waiting)


def _may_be_swapped(directory: Path, owned: Collection[str]) -> bool:
    if not os.access(directory.parent, os.W_OK | os.X_OK):
        return False
    if not directory.exists():
        return True
    if os.path.ismount(directory) or Path.cwd().is_relative_to(directory):
        return False
    return {entry.name for entry in directory.iterdir()} <= set(owned)


def _replace_files(directory: Path, contents: Mapping[str, bytes], owned: Collection[str]) -> None:
    directory.mkdir(exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=".new.", dir=directory))
    try:
        _write_all(staged, contents)
        for name in contents:
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (staged / name).replace(directory / name)
        for path in [path for name in owned for path in (directory / name, *(directory / name).rglob("*"))]:
            if path.is_file() and path.relative_to(directory).as_posix() not in contents:
                path.unlink()
        _sync(directory)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _write_all(directory: Path, contents: Mapping[str, bytes]) -> None:
    for name, content in contents.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


def _exchange(one: Path, other: Path) -> bool:
    """Swap two directories atomically; return False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    at_cwd, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE, see renameat2(2)
    done: int = renameat2(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), exchange)
    return done == 0


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
