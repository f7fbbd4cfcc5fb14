"""What people read: log lines that get along with a progress bar, and tables."""

import logging
import shutil
import sys
import textwrap
from collections.abc import Collection, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Literal, TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

# The control characters of ASCII and Latin-1 but tab and line feed, and those that turn text around.
_CONTROLS = dict.fromkeys(
    [*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)], "\ufffd"
)


class ConsoleHandler(logging.StreamHandler[TextIO]):
    """Writes to whatever ``sys.stdout`` or ``sys.stderr`` is at the moment.

    A progress bar puts a stream of its own there, which prints lines above the bar; a handler that had kept
    the first stream would write into it.
    """

    def __init__(self, stream: Literal["stdout", "stderr"]) -> None:
        logging.Handler.__init__(self)
        self._name_of_stream = stream
        self.mark = ""
        """What every line begins with."""

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """The stream to write to now."""
        current: TextIO = getattr(sys, self._name_of_stream)
        return current

    def format(self, record: logging.LogRecord) -> str:
        """The record as text, each of its lines marked."""
        return textwrap.indent(harmless(super().format(record)), self.mark, lambda _: True)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Say nothing when the reader has gone (``| head``); the work goes on, the log file has it all."""
        if not isinstance(sys.exc_info()[1], BrokenPipeError):
            super().handleError(record)


def table(
    title: str,
    columns: Mapping[str, Sequence[str]],
    *,
    left: Collection[str] = (),
    spare: Sequence[str] = (),
    total: bool = False,
    bold: int | None = None,
) -> str:
    """A table as plain text.

    Parameters
    ----------
    title:
        A line above it.
    columns:
        Cells by column name, all of one length.
    left:
        Columns that are left-aligned; the others are right-aligned.
    spare:
        Columns to leave out, one after the other, until the terminal is wide enough.
    total:
        The last row is set apart.
    bold:
        A row to stress, where the console can.
    """
    width = max(shutil.get_terminal_size((160, 0)).columns, 80)
    console = Console(file=StringIO(), width=width, force_jupyter=False)  # which would show it at once
    shown = dict(columns)
    rich_table = _rich_table(shown, left, total, bold)
    for name in spare:
        if console.measure(rich_table, options=console.options.update(width=10_000)).maximum <= width:
            break
        shown.pop(name, None)
        rich_table = _rich_table(shown, left, total, bold)
    console.print(rich_table)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join([title, *(line.rstrip() for line in text.splitlines() if line.strip())])


def _rich_table(
    columns: Mapping[str, Sequence[str]], left: Collection[str], total: bool, bold: int | None
) -> Table:
    rich_table = Table(box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for name in columns:
        rich_table.add_column(name, justify="left" if name in left else "right", overflow="fold")
    rows = list(zip(*columns.values(), strict=True))
    for number, row in enumerate(rows):
        if total and number == len(rows) - 1:
            rich_table.add_section()
        # Text, because names may hold what rich takes for markup.
        rich_table.add_row(*(Text(harmless(cell)) for cell in row), style="bold" if number == bold else None)
    return rich_table


def harmless(text: str) -> str:
    """The text without what a terminal would obey: a name may be anything."""
    return text.translate(_CONTROLS)


def short_path(path: Path) -> str:
    """A path as short as it can be typed here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
