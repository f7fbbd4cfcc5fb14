"""The history a run works on: fetched once, and kept with the run where it could not be had again."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from kforecast.console import short_path

if TYPE_CHECKING:
    import pandas as pd

    from kforecast.metrics.source import MetricSource

log = logging.getLogger(__name__)

HISTORY = "history.parquet"


def fetch_history(source: MetricSource, run_dir: Path) -> pd.DataFrame:
    """The source's rows; those that could not be had again are kept in the run folder."""
    from kforecast.output import write_frame

    log.info("Reading %s", source)
    frame = source.fetch()
    if not source.repeatable:
        kept = run_dir / HISTORY
        write_frame(frame, kept)
        log.info("Kept in %s; to repeat the run: source=csv source.path=%s", *[short_path(kept)] * 2)
    return frame
