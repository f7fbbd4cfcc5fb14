"""The errors that a user can cause or meet, each with the exit code of the command.

0 success, 2 bad input, 3 a failure outside the input, 4 gate not passed, 130 and 143 interrupted.
"""

from collections.abc import Sequence

BAD_INPUT = 2


class KforecastError(Exception):
    """An error whose message explains it; commands print it without a traceback."""

    exit_code = 3


class ConfigError(KforecastError):
    """A flag, an override or a configuration file is wrong."""

    exit_code = BAD_INPUT


class DataError(KforecastError):
    """The history cannot be used, for training or for forecasting."""

    exit_code = BAD_INPUT


class ArtifactError(KforecastError):
    """An artifact directory is incomplete, damaged or does not fit its use."""

    exit_code = BAD_INPUT


class SourceError(KforecastError):
    """A metrics server cannot be reached, refuses the request, or returns nothing usable."""


class StaleError(KforecastError):
    """The newest value of a series is too old (``on_stale=error``)."""


class WithdrawnError(KforecastError):
    """The guard has withdrawn a forecast: scaling on it has cost more than scaling on the newest value."""


class TrainingError(KforecastError):
    """The training itself failed: a number that is not finite, a lost process."""


class OutputError(KforecastError):
    """Something cannot be written: a full disk, a deleted folder, another run that writes there."""


class GateError(KforecastError):
    """A model is not better than the baselines or the champion by the required margin."""

    exit_code = 4


def ours(error: BaseException) -> KforecastError | None:
    """The first of our errors in a chain of causes; Hydra wraps errors that a constructor raises."""
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, KforecastError):
            return current
        current = current.__cause__
    return None


def exit_code(error: BaseException) -> int:
    """The exit code of a command for an error; 1 for an unforeseen one."""
    found = ours(error)
    if found is not None:
        return found.exit_code
    return KforecastError.exit_code if isinstance(error, OSError) else 1


def few(names: Sequence[str]) -> str:
    """The first five names for a message, with dots if there are more."""
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
