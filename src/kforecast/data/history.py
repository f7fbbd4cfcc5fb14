"""The history a run works on: fetched once, and kept with the run where it could not be had again."""

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
    """The source's history on a grid; what could not be had again is kept in the run folder."""
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
    """The history that an earlier run has kept, as a source."""
    from kforecast.metrics.csv import CsvSource

    return CsvSource(history, memory_map=False)
