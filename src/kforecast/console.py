"""What people read: log lines that get along with a progress bar, and tables."""

import logging
import shutil
import sys
from io import StringIO
from pathlib import Path
from typing import Literal, TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table


class ConsoleHandler(logging.StreamHandler[TextIO]):
    """Writes to whatever ``sys.stdout`` or ``sys.stderr`` is at the moment.

    A progress bar puts a stream of its own there, which prints lines above the bar; a handler that had kept
    the first stream would write into it.
    """

    def __init__(self, stream: Literal["stdout", "stderr"]) -> None:
        logging.Handler.__init__(self)
        self._name_of_stream = stream

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """The stream to write to now."""
        current: TextIO = getattr(sys, self._name_of_stream)
        return current


def render(table: Table) -> str:
    """A table as plain text, as wide as the terminal, or as needed where there is none."""
    width = shutil.get_terminal_size((160, 0)).columns
    table.box = SIMPLE_HEAD
    console = Console(file=StringIO(), width=max(width, 80))
    if table.title is not None:
        # On a line of its own; rich would wrap it at the table's width.
        console.print(table.title, soft_wrap=True, highlight=False)
        table.title = None
    console.print(table)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines() if line.strip())


def short_path(path: Path) -> str:
    """A path as short as it can be typed here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
