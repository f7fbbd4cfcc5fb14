"""The folder of one run: created at the start, and removed when the run is refused."""

import fcntl
import os
import shutil
from collections.abc import Collection
from pathlib import Path

from kforecast.errors import ConfigError
from kforecast.files.directory import check_writable, make_directories, remove_empty


class RunFolder:
    """The output folder of a run.

    Two commands that start in the same second share a folder. Each holds a lock on it, so that a refused
    command does not remove the folder of the other.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._made: list[Path] = []
        self._descriptor: int | None = None

    def check(self) -> None:
        """Check early that the folder can be created.

        Raises
        ------
        ConfigError
            When it is a file, or is below a file.
        OutputError
            When permissions forbid it.
        """
        if not self.path.is_dir():
            try:
                check_writable(self.path)
            except ConfigError as error:
                raise ConfigError(f"hydra.run.dir: {error}") from error

    def make(self) -> None:
        """Create the folder, unless it exists.

        Raises
        ------
        OSError
            When the file system refuses.
        """
        self._made = make_directories(self.path)
        try:
            self._descriptor = os.open(self.path, os.O_RDONLY)
            fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            self._made = []  # without locks the folder may be shared, so it stays

    def remove(self, names: Collection[str]) -> None:
        """Remove what :meth:`make` created, if it holds only ``names`` and no other command uses it."""
        if self.path not in self._made or self._descriptor is None:
            return
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if all(entry.name in names or _is_empty(entry) for entry in self.path.iterdir()):
                shutil.rmtree(self.path)
        except OSError:
            return
        remove_empty(self._made)


def in_use(path: Path) -> bool:
    """Whether a command is using a run folder; False on a file system without locks."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no locks there
        return False
    finally:
        os.close(descriptor)
    return False


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())
