"""The history of a run: fetched once, and kept in the run folder where it cannot be fetched again."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from kforecast.console import short_path

if TYPE_CHECKING:
    import pandas as pd

    from kforecast.data.calendar import Calendar
    from kforecast.data.panel import Panel
    from kforecast.metrics.csv import CsvSource
    from kforecast.metrics.source import MetricSource
    from kforecast.window import Frequency

log = logging.getLogger(__name__)

HISTORY = "history.parquet"


def read_history(
    source: MetricSource, frequency: Frequency, folder: Path, calendar: Calendar | None = None
) -> Panel:
    """The source's history on a grid; one that cannot be fetched again is kept in the folder.

    The bins follow the local time of ``calendar``; None for UTC.
    """
    from kforecast.data.panel import Panel
    from kforecast.data.reading import read_panel

    if not source.repeatable:
        return Panel.from_frame(fetch_history(source, folder), frequency, calendar)
    log.info("Reading %s", source)
    return read_panel(source, frequency, calendar)


def fetch_history(source: MetricSource, folder: Path | None) -> pd.DataFrame:
    """Fetch a history, and keep it in the folder if there is one."""
    from kforecast.files.output import write_frame

    log.info("Reading %s", source)
    frame = source.fetch()
    if folder is not None:
        kept = folder / HISTORY
        write_frame(frame, kept)
        log.info("Kept in %s; to repeat the run: source=csv source.path=%s", *[short_path(kept)] * 2)
    return frame


def kept_history(history: Path) -> CsvSource:
    """The history that an earlier run has kept, as a source."""
    from kforecast.metrics.csv import CsvSource

    return CsvSource(history, memory_map=False, any_time=True)
