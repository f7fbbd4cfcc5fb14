"""The folder of one run: taken at the start, and removed when the run is refused."""

import fcntl
import os
import shutil
import time
from collections.abc import Collection
from pathlib import Path

from kforecast.errors import ConfigError
from kforecast.files.directory import check_writable, make_directories, remove_empty

# A command that only looks whether a folder is in use holds its lock for a moment: try for half a second.
_TRIES, _PAUSE = 11, 0.05


class RunFolder:
    """The output folder of a run, which holds a lock on it until it ends."""

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

    def share(self) -> None:
        """Create the folder, unless it exists. Other commands may use it, too.

        Raises
        ------
        OSError
            When the file system refuses.
        """
        self._made = make_directories(self.path)
        if not self._lock(fcntl.LOCK_SH):
            self._made = []  # without a lock others may use the folder, so it stays

    def take(self, new: bool) -> bool:
        """Create the folder, unless it exists, and keep other runs out of it.

        Parameters
        ----------
        new:
            Whether a folder that exists is another run's.

        Returns
        -------
        Whether the folder is ours.

        Raises
        ------
        OSError
            When the file system refuses.
        """
        for number in range(_TRIES):
            if number:
                time.sleep(_PAUSE)
            self._made += make_directories(self.path)
            if new and self.path not in self._made:
                return False
            if self._lock(fcntl.LOCK_EX):
                return True
        self._made = []
        return False

    def _lock(self, kind: int) -> bool:
        """Lock the folder; False when another command has it. Some file systems have no locks."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            found = self.path.stat()
        except (BlockingIOError, FileNotFoundError):
            os.close(descriptor)
            return False
        except OSError:
            os.close(descriptor)
            return True
        if not os.path.samestat(os.fstat(descriptor), found):  # removed and made again meanwhile
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Let others use the folder."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def remove(self, names: Collection[str]) -> None:
        """Remove what was created, if it holds only ``names`` and no other command uses it."""
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
