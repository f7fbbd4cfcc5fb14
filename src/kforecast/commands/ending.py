"""How a command ends: an error becomes one line on standard error and an exit code."""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from kforecast.commands.streams import close_streams, open_streams
from kforecast.errors import ConfigError, KforecastError, OutputError, exit_code, ours
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
    open_streams()
    try:
        code = _exit_code_of(work, process)
    except SystemExit as ended:
        if (failed := _close()) and not ended.code:
            raise SystemExit(failed) from None
        raise
    failed = _close()
    return code or failed


def _close() -> int:
    """Close the streams; return the exit code of a failure, 0 without one."""
    try:
        close_streams()
    except BrokenPipeError:  # the reader of our output has gone
        return KforecastError.exit_code
    except OutputError as error:
        _say(f"error: {error}")
        return error.exit_code
    return 0


def _exit_code_of(work: Callable[[], object], process: Callable[[], Process]) -> int:
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    try:
        _check_names(sys.argv[1:])
        work()
    except BrokenPipeError:
        return KforecastError.exit_code
    except (KforecastError, OSError) as error:
        if wants_traceback:
            raise
        found = _known(process)
        if found.first or found.local == 0:
            _say(_printable(f"error: {ours(error) or error}"))
        return exit_code(error)
    except KeyboardInterrupt:
        if _known(process).first:
            _say("interrupted")
        return INTERRUPTED
    return 0


def _check_names(arguments: Sequence[str]) -> None:
    """Refuse names that Python cannot decode: most libraries could not open them."""
    try:
        folder = str(Path.cwd())
    except FileNotFoundError as error:
        raise OutputError("the working directory has been removed; change to another") from error
    if "${" in folder:  # Hydra would look up a key of that name
        raise ConfigError(f"{folder}: a working directory cannot have ${{ in its name; change to another")
    for name in (*arguments, folder):
        try:
            name.encode()
        except UnicodeEncodeError as error:
            encoding = sys.getfilesystemencoding()
            remedy = "rename it" if encoding == "utf-8" else f"set LC_ALL=C.UTF-8 (it is {encoding} here)"
            written = ascii(os.fsencode(name))[2:-1]
            raise ConfigError(
                f"{written}: the name is not text in the encoding of file names; {remedy}"
            ) from error


def _say(line: str) -> None:
    with suppress(OSError):  # its reader may have gone
        print(line, file=sys.stderr, flush=True)


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
