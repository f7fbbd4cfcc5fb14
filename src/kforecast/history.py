"""The history a run works on: fetched once, and kept with the run where it could not be had again."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kforecast.console import short_path
from kforecast.errors import SourceError

if TYPE_CHECKING:
    import pandas as pd

    from kforecast.data.panel import Panel
    from kforecast.metrics.source import MetricSource
    from kforecast.window import Frequency

log = logging.getLogger(__name__)

HISTORY = "history.parquet"


def fetch_history(source: MetricSource, run_dir: Path) -> pd.DataFrame:
    """The source's rows; those that could not be had again are kept in the run folder.

    Of several processes of one run, which share its folder, only the first fetches.
    """
    from kforecast.metrics.csv import CsvSource
    from kforecast.output import write_frame

    kept = run_dir / HISTORY
    if source.repeatable:
        log.info("Reading %s", source)
        return source.fetch()
    if _process_number() > 0:
        patience = time.monotonic() + getattr(source, "timeout", 600.0)
        while not kept.exists():
            if time.monotonic() > patience:
                raise SourceError(f"{kept}: the first process of this run has not fetched it in time")
            time.sleep(0.1)
        return CsvSource(kept).fetch()
    log.info("Reading %s", source)
    frame = source.fetch()
    write_frame(frame, kept)
    log.info("Kept in %s; to repeat the run: source=csv source.path=%s", *[short_path(kept)] * 2)
    return frame


def read_history(source: MetricSource, frequency: Frequency, run_dir: Path) -> Panel:
    """The source's history on a grid; what could not be had again is kept in the run folder."""
    from kforecast.data.panel import Panel
    from kforecast.data.reading import read_panel

    if source.repeatable:
        log.info("Reading %s", source)
        return read_panel(source, frequency)
    return Panel.from_frame(fetch_history(source, run_dir), frequency)


def _process_number() -> int:
    """Which process of a run on several devices this is, as its launcher says."""
    for variable in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if (number := os.environ.get(variable, "")).isdecimal():
            return int(number)
    return 0
