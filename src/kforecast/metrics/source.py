"""The MetricSource protocol, and the checks that the frame of every source must pass."""

from typing import ClassVar, NamedTuple, Protocol

import numpy as np
import pandas as pd

from kforecast.errors import DataError
from kforecast.metrics.names import trimmed

COLUMNS = ("timestamp", "value", "workload", "metric")

# Above these limits a timestamp is beyond the year 5000 in seconds, so it is today in a finer unit.
_UNITS = (
    (1e17, "nanoseconds", 1_000_000_000),
    (1e14, "microseconds", 1_000_000),
    (1e11, "milliseconds", 1000),
)
# Beyond the year 5000 even in nanoseconds.
_LATEST = 1e20

# A thousandth of the largest float32, so that sums over a context stay finite.
_LARGEST = 1e35


class MetricSource(Protocol):
    """Something that returns history."""

    repeatable: ClassVar[bool]
    """Whether fetching again returns the same rows; if not, the run keeps a copy of them."""

    def fetch(self) -> pd.DataFrame:
        """Fetch the history as a long frame.

        Returns
        -------
        DataFrame with the columns of contract 3: ``timestamp`` (unix seconds, UTC), ``value`` (NaN
        where unknown), ``workload`` and ``metric``; rows in any order.
        """
        ...


class Names(NamedTuple):
    """A dictionary-encoded column: ``codes`` (``[rows]``) index ``names``, where None is a missing name.

    Names are trimmed; several codes may have the same name.
    """

    codes: np.ndarray
    names: np.ndarray


def as_names(column: pd.Series) -> pd.Series:
    """A column of names as a categorical column of trimmed text; missing names stay missing."""
    found = column.astype("category")
    names = found.cat.categories
    text = [trimmed(str(name)) for name in names]
    if all(isinstance(name, str) for name in names) and text == [*names]:
        return found
    number = {name: code for code, name in enumerate(sorted({*text}))}
    code = np.array([*(number[name] for name in text), -1], np.int64)[found.cat.codes]
    made = pd.Categorical.from_codes(code, categories=pd.Index([*number], dtype=object))
    return pd.Series(made, index=found.index, name=found.name)


class RowBatch(NamedTuple):
    """Some rows of a history (contract 3), numbers as float64; the codes are valid within this batch only."""

    timestamp: np.ndarray
    value: np.ndarray
    workload: Names
    metric: Names


class RowCheck:
    """Checks the guarantees of every source, batch by batch; :meth:`finish` reports all problems.

    Parameters
    ----------
    name:
        How messages name the source, for instance its file name.
    first_row:
        Number of the first row in messages.
    """

    def __init__(self, name: str, first_row: int = 1) -> None:
        self._name = name
        self._row = first_row
        self._seen_rows = False
        self._seen_number = False
        self._latest = (-1.0, 0)  # timestamp and row
        # By kind of problem: the number of bad rows, the first of them and its content.
        self._bad: dict[str, tuple[int, int, float]] = {}

    @property
    def good(self) -> bool:
        """Whether all rows so far are free of problems."""
        return not self._bad and self._latest[0] <= min(limit for limit, _, _ in _UNITS)

    def add(self, timestamp: np.ndarray, value: np.ndarray, *names: tuple[str, np.ndarray]) -> None:
        """Check the next rows; ``names`` are columns with bool ``[rows]``, true where empty."""
        if not len(timestamp):
            return
        self._seen_rows = True
        # Minimum and maximum suffice when all is well; NaN compares as false.
        if not (timestamp.min() >= 0 and timestamp.max() < np.inf):
            self._note("no timestamp", ~np.isfinite(timestamp), timestamp)
            self._note("negative", timestamp < 0, timestamp)
        largest = int(timestamp.argmax())
        if timestamp[largest] > self._latest[0]:
            self._latest = (float(timestamp[largest]), self._row + largest)
        low, high = np.fmin.reduce(value), np.fmax.reduce(value)
        self._seen_number |= not np.isnan(low)
        if low < -_LARGEST or high > _LARGEST:
            self._note("infinite", np.isinf(value), value)
            self._note("too large", np.abs(value) > _LARGEST, value)
        for column, empty in names:
            self._note(column, empty, value)
        self._row += len(timestamp)

    def finish(self) -> None:
        """Report the problems found.

        Raises
        ------
        DataError
            When there are no rows, or any problem was found; one message has them all.
        """
        if not self._seen_rows:
            raise DataError(f"{self._name}: no rows")
        problems = []
        latest, latest_row = self._latest
        unit = next((found for found in _UNITS if latest > found[0]), None)
        if "no timestamp" in self._bad:
            count, row, _ = self._bad["no timestamp"]
            problems.append(f"timestamp is missing in {count:,} rows, first in row {row}")
        elif "negative" in self._bad:
            _, row, timestamp = self._bad["negative"]
            problems.append(f"timestamp {timestamp:.15g} in row {row} is negative")
        elif latest > _LATEST:
            problems.append(
                f"timestamp {latest:g} in row {latest_row} is not a valid time; unix seconds are expected"
            )
        elif unit is not None:
            problems.append(
                f"timestamp {latest:.0f} in row {latest_row} looks like {unit[1]}; "
                f"unix seconds are expected: divide by {unit[2]}"
            )
        if "infinite" in self._bad:
            count, row, _ = self._bad["infinite"]
            problems.append(f"value is infinite in {count:,} rows, first in row {row}")
        elif "too large" in self._bad:
            _, row, value = self._bad["too large"]
            problems.append(f"value {value:g} in row {row} is too large to be traffic")
        if not self._seen_number:
            problems.append("value holds no number at all, only missing values")
        for column in ("workload", "metric"):
            if column in self._bad:
                count, row, _ = self._bad[column]
                problems.append(f"{column} is empty in {count:,} rows, first in row {row}")
        if problems:
            raise DataError(f"{self._name}: " + "; ".join(problems))

    def _note(self, kind: str, bad: np.ndarray, content: np.ndarray) -> None:
        count = int(np.count_nonzero(bad))
        if count:
            before, row, said = self._bad.get(kind, (0, 0, 0.0))
            if not before:
                first = int(bad.argmax())
                row, said = self._row + first, float(content[first])
            self._bad[kind] = (before + count, row, said)


def check_frame(frame: pd.DataFrame, name: str, first_row: int = 1) -> pd.DataFrame:
    """Check the guarantees of every source, and return the frame.

    Parameters
    ----------
    frame:
        Has the columns :data:`COLUMNS`; timestamps and values are numeric.
    name:
        How messages name the source, for instance its file name.
    first_row:
        Number of the frame's first row in messages.

    Raises
    ------
    DataError
        When there are no rows, or any problem was found; one message has them all.
    """
    check = RowCheck(name, first_row)
    # isin works on the categories, of which there are few, instead of millions of rows.
    empty = {column: frame[column].isna() | frame[column].isin([""]) for column in ("workload", "metric")}
    check.add(
        frame["timestamp"].to_numpy(dtype=float),
        frame["value"].to_numpy(dtype=float),
        *((column, rows.to_numpy()) for column, rows in empty.items()),
    )
    check.finish()
    return frame
