"""From a source to a panel, in the way that needs the least memory."""

import pandas as pd
import pyarrow as pa

from kforecast.data.mapped import mapped_panel
from kforecast.data.panel import Panel
from kforecast.metrics.csv import CsvSource
from kforecast.metrics.frame import FrameSource
from kforecast.metrics.multiple import Multiple, are_many, check_multiple, check_turns, labels_of
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
            panel = mapped_panel(source, frequency)
            _check_repeats(panel, source)
            return panel
        try:
            panel = Panel.from_batches(source.batches(), frequency, on_multiple=source.on_multiple)
            _check_repeats(panel, source)
            return panel
        except (OSError, pa.ArrowException):
            pass  # fetch() below reads the file as a whole: it succeeds, or explains the problem
    return Panel.from_frame(source.fetch(), frequency)


def _check_repeats(panel: Panel, source: CsvSource) -> None:
    """Refuse several rows of a series at one moment that must not be averaged.

    Raises
    ------
    DataError
        As :func:`kforecast.metrics.multiple.one_row_a_moment`.
    """
    measures = panel.measures
    assert measures is not None
    if labels := labels_of(source.other_columns()):
        longest = panel.series[int(measures["points"].argmax())]
        check_turns(source.rows_of(*longest, labels), source.on_multiple, str(source))
    if not measures["repeated"].any():
        return
    row = int(measures["repeated_moments"].argmax())
    worst = measures[row]
    multiple = Multiple(*panel.series[row], int(worst["repeated_at"]), int(worst["repeated_rows"]))
    told_apart = are_many(worst["repeated_moments"], worst["points"]) and source.other_columns()
    check_multiple(multiple, source.on_multiple, str(source), source.rows_of if told_apart else None)


def panel_of(frame: pd.DataFrame, frequency: Frequency, *, on_multiple: str | None = None) -> Panel:
    """Check a user's frame and bin it into a panel; ``on_multiple`` as in :class:`FrameSource`.

    Raises
    ------
    ConfigError, DataError
        As :class:`FrameSource`, :meth:`FrameSource.fetch` and :meth:`Panel.from_frame`.
    """
    return read_panel(FrameSource(frame, on_multiple=on_multiple), frequency)
