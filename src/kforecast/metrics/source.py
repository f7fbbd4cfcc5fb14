"""The MetricSource protocol and the checks every source's frame passes."""

from typing import ClassVar, Protocol

import numpy as np
import pandas as pd

from kforecast.errors import DataError

COLUMNS = ("timestamp", "value", "workload", "metric")

# Later than the year 5000 in seconds: no one's history, but today in milliseconds and finer units.
_UNITS = (
    (1e17, "nanoseconds", 1_000_000_000),
    (1e14, "microseconds", 1_000_000),
    (1e11, "milliseconds", 1000),
)

# A thousandth of what float32 holds, so that sums over a context are finite too.
_LARGEST = 1e35


class MetricSource(Protocol):
    """Something that answers with history."""

    repeatable: ClassVar[bool]
    """Whether fetching again gives the same; history that cannot be had again is kept with the run."""

    def fetch(self) -> pd.DataFrame:
        """Return the history as a long frame.

        Returns
        -------
        DataFrame with the columns of contract 3: ``timestamp`` (unix seconds, UTC), ``value`` (NaN
        where unknown), ``workload`` and ``metric``; rows in any order.
        """
        ...


def check_frame(frame: pd.DataFrame, name: str, first_row: int = 1) -> pd.DataFrame:
    """Check what every source must guarantee; return the frame.

    Parameters
    ----------
    frame:
        Columns of :data:`COLUMNS`, numbers already numbers.
    name:
        How messages call the source, for instance its file name.
    first_row:
        What to call the frame's first row in messages.

    Raises
    ------
    DataError
        All problems found, in one message.
    """
    if frame.empty:
        raise DataError(f"{name}: no rows")
    problems = []
    timestamp = frame["timestamp"].to_numpy(dtype=float)
    if (bad := np.flatnonzero(~np.isfinite(timestamp))).size:
        problems.append(f"timestamp is missing in {bad.size:,} rows, first in row {bad[0] + first_row}")
    elif (bad := np.flatnonzero(timestamp < 0)).size:
        problems.append(f"timestamp {timestamp[bad[0]]:.0f} in row {bad[0] + first_row} is negative")
    else:
        largest = int(timestamp.argmax())
        for limit, unit, per_second in _UNITS:
            if timestamp[largest] > limit:
                problems.append(
                    f"timestamp {timestamp[largest]:.0f} in row {largest + first_row} looks like {unit}; "
                    f"unix seconds are expected: divide by {per_second}"
                )
                break
    value = frame["value"].to_numpy(dtype=float)
    if (bad := np.flatnonzero(np.isinf(value))).size:
        problems.append(f"value is infinite in {bad.size:,} rows, first in row {bad[0] + first_row}")
    elif (bad := np.flatnonzero(np.abs(value) > _LARGEST)).size:
        problems.append(f"value {value[bad[0]]:g} in row {bad[0] + first_row} is too large to be traffic")
    if np.isnan(value).all():
        problems.append("value holds no number at all, only missing values")
    for column in ("workload", "metric"):
        # isin on the categories: the column may have millions of rows, its names are few.
        empty = frame[column].isna() | frame[column].isin([""])
        if empty.any():
            problems.append(
                f"{column} is empty in {int(empty.sum()):,} rows, first in row "
                f"{int(empty.to_numpy().argmax()) + first_row}"
            )
    if problems:
        raise DataError(f"{name}: " + "; ".join(problems))
    return frame
