"""How a command ends: an error becomes one line on standard error and an exit code."""

import os
import sys
from collections.abc import Callable

from kforecast.errors import ConfigError, KforecastError, exit_code, ours
from kforecast.training.distributed.processes import INTERRUPTED, Process

# Characters of a line of an error message; a longer line quotes input that helps nobody.
_WIDEST = 4000


def exit_code_of(work: Callable[[], object], process: Callable[[], Process] = Process) -> int:
    """Do the work of a command and return its exit code; print its error.

    With ``HYDRA_FULL_ERROR=1`` in the environment the error is raised instead, with its traceback.

    Parameters
    ----------
    work:
        The command. Only :class:`KforecastError`, ``OSError`` and interruptions are handled here.
    process:
        Returns this process of the run: only one on each machine prints errors.
    """
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    try:
        work()
    except BrokenPipeError:
        # The reader of our output has gone; Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return KforecastError.exit_code
    except (KforecastError, OSError) as error:
        if wants_traceback:
            raise
        found = _known(process)
        if found.first or found.local == 0:
            print(_printable(f"error: {ours(error) or error}"), file=sys.stderr)
        return exit_code(error)
    except KeyboardInterrupt:
        if _known(process).first:
            print("interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def _known(process: Callable[[], Process]) -> Process:
    """This process; when its environment is invalid, a process that runs alone."""
    try:
        return process()
    except ConfigError:
        return Process()


def _printable(message: str) -> str:
    """The message without control characters and endless lines: it may quote anything."""
    lines = (
        "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line[: _WIDEST + 1])
        for line in message.split("\n")
    )
    return "\n".join(line if len(line) <= _WIDEST else f"{line[:_WIDEST]} ..." for line in lines)
