"""From a source to a panel, by the shortest way the source allows."""

from kforecast.data.panel import Panel
from kforecast.metrics.csv import CsvSource
from kforecast.metrics.source import MetricSource
from kforecast.window import Frequency


def read_panel(source: MetricSource, frequency: Frequency) -> Panel:
    """The source's history on a grid; a file is never held as a frame.

    Raises
    ------
    DataError
        What ``source.fetch()`` and :meth:`Panel.from_frame` raise.
    """
    if isinstance(source, CsvSource):
        return Panel.from_batches(source.batches(), frequency)
    return Panel.from_frame(source.fetch(), frequency)
