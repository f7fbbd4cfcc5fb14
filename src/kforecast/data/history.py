"""The history of a run: fetched once, and kept in the run folder when it cannot be fetched again."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from kforecast.console import short_path

if TYPE_CHECKING:
    from kforecast.data.panel import Panel
    from kforecast.metrics.csv import CsvSource
    from kforecast.metrics.source import MetricSource
    from kforecast.window import Frequency

log = logging.getLogger(__name__)

HISTORY = "history.parquet"


def read_history(source: MetricSource, frequency: Frequency, run_dir: Path) -> Panel:
    """Read the source into a panel; keep the rows of a source that is not repeatable in the run folder.

    Raises
    ------
    DataError, SourceError
        As ``source.fetch()`` and :meth:`Panel.from_frame`.
    """
    from kforecast.data.panel import Panel
    from kforecast.data.reading import read_panel
    from kforecast.files.output import write_frame

    log.info("Reading %s", source)
    if source.repeatable:
        return read_panel(source, frequency)
    frame = source.fetch()
    kept = run_dir / HISTORY
    write_frame(frame, kept)
    log.info("Kept in %s; to repeat the run: source=csv source.path=%s", *[short_path(kept)] * 2)
    return Panel.from_frame(frame, frequency)


def kept_history(history: Path) -> CsvSource:
    """The history kept by an earlier run, as a source."""
    from kforecast.metrics.csv import CsvSource

    return CsvSource(history, memory_map=False)
