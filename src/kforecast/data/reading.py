"""From a source to a panel, in the way that needs the least memory."""

import pandas as pd
import pyarrow as pa

from kforecast.data.calendar import Calendar
from kforecast.data.mapped import mapped_panel
from kforecast.data.panel import Panel
from kforecast.metrics.csv import CsvSource
from kforecast.metrics.frame import FrameSource
from kforecast.metrics.source import MetricSource
from kforecast.window import Frequency


def read_panel(
    source: MetricSource,
    frequency: Frequency,
    calendar: Calendar | None = None,
    *,
    keep_unfinished: bool = False,
) -> Panel:
    """Read a source into a panel.

    A file is binned batch by batch, never held as a frame; a large Parquet file is memory-mapped.

    Parameters
    ----------
    calendar, keep_unfinished:
        See :meth:`Panel.from_frame`.

    Raises
    ------
    DataError, SourceError
        As ``source.fetch()`` and :meth:`Panel.from_frame`.
    """
    if isinstance(source, CsvSource):
        if source.is_mapped() and not keep_unfinished:  # only whole bins are mapped
            return mapped_panel(source, frequency, calendar)
        try:
            return Panel.from_batches(source.batches(), frequency, calendar, keep_unfinished=keep_unfinished)
        except (OSError, pa.ArrowException):
            pass  # fetch() below reads the file as a whole: it succeeds, or explains the problem
    return Panel.from_frame(source.fetch(), frequency, calendar, keep_unfinished=keep_unfinished)


def panel_of(
    frame: pd.DataFrame,
    frequency: Frequency,
    calendar: Calendar | None = None,
    *,
    keep_unfinished: bool = False,
) -> Panel:
    """Check a user's frame and bin it into a panel.

    Parameters
    ----------
    calendar, keep_unfinished:
        See :meth:`Panel.from_frame`.

    Raises
    ------
    DataError
        As :meth:`FrameSource.fetch` and :meth:`Panel.from_frame`.
    """
    return read_panel(FrameSource(frame), frequency, calendar, keep_unfinished=keep_unfinished)
