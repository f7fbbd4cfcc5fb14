"""From a source to a panel, in the way that needs the least memory."""

import pandas as pd
import pyarrow as pa

from kforecast.data.mapped import mapped_panel
from kforecast.data.panel import Panel
from kforecast.metrics.csv import CsvSource
from kforecast.metrics.frame import FrameSource
from kforecast.metrics.source import MetricSource
from kforecast.window import Frequency


def read_panel(source: MetricSource, frequency: Frequency) -> Panel:
    """Read a source into a panel.

    A file is binned batch by batch, never held as a frame; a large Parquet file is memory-mapped.

    Raises
    ------
    DataError, SourceError
        As ``source.fetch()`` and :meth:`Panel.from_frame`.
    """
    if isinstance(source, CsvSource):
        if source.is_mapped():
            return mapped_panel(source, frequency)
        try:
            return Panel.from_batches(source.batches(), frequency)
        except (OSError, pa.ArrowException):
            pass  # fetch() below reads the file as a whole: it succeeds, or explains the problem
    return Panel.from_frame(source.fetch(), frequency)


def panel_of(frame: pd.DataFrame, frequency: Frequency, any_time: bool = False) -> Panel:
    """Check a user's frame and bin it into a panel; ``any_time`` as of :class:`FrameSource`.

    Raises
    ------
    DataError
        As :meth:`FrameSource.fetch` and :meth:`Panel.from_frame`.
    """
    return read_panel(FrameSource(frame, any_time=any_time), frequency)
