"""From a source to a panel, in the way that needs the least memory."""

import pyarrow as pa

from kforecast.data.calendar import Calendar
from kforecast.data.mapped import mapped_panel
from kforecast.data.panel import Panel
from kforecast.metrics.csv import CsvSource
from kforecast.metrics.multiple import Multiple, are_many, check_multiple, check_turns, labels_of
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
            panel = mapped_panel(source, frequency, calendar)
            _check_repeats(panel, source)
            return panel
        try:
            panel = Panel.from_batches(
                source.batches(),
                frequency,
                calendar,
                keep_unfinished=keep_unfinished,
                on_multiple=source.on_multiple,
            )
            _check_repeats(panel, source)
            return panel
        except (OSError, pa.ArrowException):
            pass  # fetch() below reads the file as a whole: it succeeds, or explains the problem
    return Panel.from_frame(source.fetch(), frequency, calendar, keep_unfinished=keep_unfinished)


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
