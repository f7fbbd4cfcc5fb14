"""From a source to a panel, in the way that needs the least memory."""

import pyarrow as pa

from kforecast.data.calendar import Calendar
from kforecast.data.mapped import mapped_panel
from kforecast.data.panel import Panel
from kforecast.metrics.csv import CsvSource
from kforecast.metrics.multiple import Multiple, are_many, check_multiple, check_turns, has_copies, labels_of
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
            if _check_repeats(panel, source):
                return panel
            return Panel.from_frame(source.fetch(), frequency, calendar)
        try:
            panel = Panel.from_batches(
                source.batches(),
                frequency,
                calendar,
                keep_unfinished=keep_unfinished,
                on_multiple=source.on_multiple,
            )
            if _check_repeats(panel, source):
                return panel
        except (OSError, pa.ArrowException):
            pass
    # Reading a file as a whole succeeds where the pieces did not, leaves out copies, or explains the problem.
    return Panel.from_frame(source.fetch(), frequency, calendar, keep_unfinished=keep_unfinished)


def _check_repeats(panel: Panel, source: CsvSource) -> bool:
    """Refuse several rows of a series at one moment that must not be averaged.

    Returns
    -------
    False when a sum counted copies of rows.

    Raises
    ------
    DataError
        As :func:`kforecast.metrics.multiple.one_row_a_moment`.
    """
    measures = panel.measures
    assert measures is not None
    longest = panel.series[int(measures["points"].argmax())]
    others = source.other_columns()
    if labels := labels_of(others):
        check_turns(source.rows_of(*longest, labels), source.on_multiple, str(source))
    if source.on_multiple == "sum" and others and panel.report.duplicates:
        return not has_copies(source.rows_of(*longest))
    if not measures["repeated"].any():
        return True
    row = int(measures["repeated_moments"].argmax())
    worst = measures[row]
    multiple = Multiple(*panel.series[row], int(worst["repeated_at"]), int(worst["repeated_rows"]))
    told_apart = are_many(worst["repeated_moments"], worst["points"]) and others
    check_multiple(multiple, source.on_multiple, str(source), source.rows_of if told_apart else None)
    return True
