"""The errors a user can cause or meet, each with the exit code a command ends with.

0 success, 2 bad input, 3 something we depend on failed, 4 gate not passed, 130 and 143 interrupted.
"""

from collections.abc import Sequence

BAD_INPUT = 2


class KforecastError(Exception):
    """An error that is explained by its message alone; commands print it without a traceback."""

    exit_code = 3


class ConfigError(KforecastError):
    """A flag, an override or a configuration file is wrong."""

    exit_code = BAD_INPUT


class DataError(KforecastError):
    """The training or history data cannot be used."""

    exit_code = BAD_INPUT


class ArtifactError(KforecastError):
    """An artifact directory is incomplete, damaged or does not fit its use."""

    exit_code = BAD_INPUT


class SourceError(KforecastError):
    """A metrics server cannot be reached, refuses, or answers with nothing that can be used."""


class TrainingError(KforecastError):
    """Training itself failed: numbers that are not finite, a process that is lost."""


class OutputError(KforecastError):
    """Something cannot be written: a full disk, a folder that has gone, another run that writes there."""


class GateError(KforecastError):
    """A model is not better than the baselines by as much as was required."""

    exit_code = 4


def ours(error: BaseException) -> KforecastError | None:
    """The error of ours that this one is or was caused by (Hydra wraps what a constructor raises)."""
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, KforecastError):
            return current
        current = current.__cause__
    return None


def exit_code(error: BaseException) -> int:
    """What a command ends with for an error; 1 for one that nobody foresaw."""
    found = ours(error)
    if found is not None:
        return found.exit_code
    return KforecastError.exit_code if isinstance(error, OSError) else 1


def few(names: Sequence[str]) -> str:
    """Names for a message: the first five, and a sign that there are more."""
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
