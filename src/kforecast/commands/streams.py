"""Standard output and standard error of a command: any text on any console, and UTF-8 for data."""

import codecs
import os
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

from kforecast.errors import OutputError

# Rules, dashes, quotes, dots and spaces, for a console that has only the ASCII ones.
_PLAIN = {
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212\u2500\u2501\u2578\u257a", "-"),
    **dict.fromkeys("\u2018\u2019", "'"),
    **dict.fromkeys("\u201c\u201d", '"'),
    **dict.fromkeys("\u00a0\u2009\u202f", " "),
    "\u2022": "*",
    "\u2026": "...",
}
_ENCODABLE = "kforecast.encodable"


def open_streams() -> None:
    """Let the streams take any text; one that the caller has closed (``>&-``) discards it."""
    codecs.register_error(_ENCODABLE, _encodable)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=_ENCODABLE)


def _encodable(error: UnicodeError) -> tuple[str, int]:
    """Codec error handler: replaces characters that the console lacks by similar ones, or escapes them."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    plain = "".join(_PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lacking)
    return plain, error.end


def data_output() -> TextIO:
    """Standard output for data, which is UTF-8 on any console.

    Raises
    ------
    OutputError
        When the caller has closed it.
    """
    if sys.stdout.name == os.devnull:  # by open_streams()
        raise OutputError("standard output is closed, so the result goes nowhere; name a file: output=FILE")
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    return sys.stdout


def close_streams() -> None:
    """Write what the streams still buffer, so that Python has nothing to complain about when it ends.

    Raises
    ------
    BrokenPipeError
        When the reader of standard output has gone.
    OutputError
        When standard output cannot be written.
    """
    failure: OSError | None = None
    for stream in (sys.stderr, sys.stdout):
        try:
            stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            failure = error if stream is sys.stdout else None
    if isinstance(failure, BrokenPipeError):
        raise failure
    if failure is not None:
        raise OutputError(f"standard output: cannot be written: {failure.strerror}") from failure
