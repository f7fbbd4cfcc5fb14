"""From a source to a panel, by the shortest way the source allows."""

import pandas as pd
import pyarrow as pa

from kforecast.data.mapped import mapped_panel
from kforecast.data.panel import Panel
from kforecast.metrics.csv import CsvSource
from kforecast.metrics.frame import FrameSource
from kforecast.metrics.source import MetricSource
from kforecast.window import Frequency


def read_panel(source: MetricSource, frequency: Frequency) -> Panel:
    """The source's history on a grid; a file is never held as a frame, a big one is not held at all.

    Raises
    ------
    DataError
        What ``source.fetch()`` and :meth:`Panel.from_frame` raise.
    """
    if isinstance(source, CsvSource):
        if source.is_mapped():
            return mapped_panel(source, frequency)
        try:
            return Panel.from_batches(source.batches(), frequency)
        except (OSError, pa.ArrowException):
            pass  # what is wrong is said, or made up for, by who looks at the file as a whole
    return Panel.from_frame(source.fetch(), frequency)


def panel_of(frame: pd.DataFrame, frequency: Frequency) -> Panel:
    """A user's frame on a grid, after the checks that every source's frame passes.

    Raises
    ------
    DataError
        What :meth:`FrameSource.fetch` and :meth:`Panel.from_frame` raise.
    """
    return read_panel(FrameSource(frame), frequency)
