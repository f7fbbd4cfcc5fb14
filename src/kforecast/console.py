"""Output for people: log lines that respect a progress bar, and tables."""

import logging
import shutil
import sys
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Literal, TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

# The control characters of ASCII and Latin-1 except tab and line feed, and those that reverse text.
_CONTROLS = dict.fromkeys(
    [*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)], "\ufffd"
)


class ConsoleHandler(logging.StreamHandler[TextIO]):
    """Writes to the current ``sys.stdout`` or ``sys.stderr``.

    A progress bar replaces them by a stream that prints lines above the bar; a handler that kept the original
    stream would write into the bar.
    """

    def __init__(self, stream: Literal["stdout", "stderr"]) -> None:
        logging.Handler.__init__(self)
        self._name_of_stream = stream
        self.mark = ""
        """The beginning of every line."""

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """The current stream."""
        current: TextIO = getattr(sys, self._name_of_stream)
        return current

    def format(self, record: logging.LogRecord) -> str:
        """The record as text, each line with the mark."""
        return textwrap.indent(harmless(super().format(record)), self.mark, lambda _: True)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Ignore that the console has gone (``| head``) or is full: the log file has all lines."""
        if not isinstance(sys.exc_info()[1], OSError):
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
    """Format a table as plain text.

    Parameters
    ----------
    title:
        The line above the table.
    columns:
        Cells by column name; all columns have the same length.
    left:
        Left-aligned columns; the others are right-aligned.
    spare:
        Columns to omit, in this order, until the table fits into the terminal.
    total:
        Whether the last row is a total, set apart by a line.
    bold:
        The number of a row to print in bold, where the console can.
    """
    width = max(shutil.get_terminal_size((160, 0)).columns, 80)
    console = Console(file=StringIO(), width=width, force_jupyter=False)  # Jupyter would display it
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
        # Text, because names may contain rich's markup.
        rich_table.add_row(*(Text(harmless(cell)) for cell in row), style="bold" if number == bold else None)
    return rich_table


def harmless(text: str) -> str:
    """The text without control characters, which a terminal would obey: a name may contain anything."""
    return text.translate(_CONTROLS)


def short_path(path: Path) -> str:
    """The path relative to the working directory if it lies inside, else as it is."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


@contextmanager
def no_log_lines() -> Iterator[None]:
    """Switch logging off inside the block, for all loggers of the process."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
