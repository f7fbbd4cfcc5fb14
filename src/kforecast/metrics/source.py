"""The MetricSource protocol, and the checks that the frame of every source must pass."""

from typing import ClassVar, NamedTuple, Protocol

import numpy as np
import pandas as pd

from kforecast.errors import DataError
from kforecast.metrics.names import trimmed
from kforecast.metrics.units import EARLIEST, EXPECTED, LATEST, guess_unit, lost_digits, number_text

COLUMNS = ("timestamp", "value", "workload", "metric")

# Beyond the year 5138 in seconds, so it is in a finer unit.
_LATEST_IN_SECONDS = 1e11
# Rows whose timestamps are examined for lost digits and dates written as digits.
_SAMPLE = 100_000

# A thousandth of the largest float32, so that sums over a context stay finite.
_LARGEST = 1e35
# The largest integers of 64 bits, which stand for an unknown value.
_SENTINELS = (2.0**63, 2.0**64, -(2.0**63))


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
    any_time:
        Whether moments before 2000 and after 2100 are right; otherwise they are refused, because they are
        nearly always in another unit.
    remedy:
        How messages name the setting ``any_time``.
    """

    def __init__(
        self, name: str, first_row: int = 1, any_time: bool = False, remedy: str = "source.any_time=true"
    ) -> None:
        self._name, self._remedy = name, remedy
        self._limits = (0.0, _LATEST_IN_SECONDS) if any_time else (float(EARLIEST), float(LATEST))
        self._first_row = self._row = first_row
        self._seen_number = False
        self._sample: list[np.ndarray] = []  # timestamps of the first rows
        self._sampled = self._repeated = 0
        self._elsewhere: list[np.ndarray] = []  # timestamps outside the limits
        # By kind of problem: the number of bad rows, the first of them and its content.
        self._bad: dict[str, tuple[int, int, float]] = {}

    @property
    def good(self) -> bool:
        """Whether all rows so far are free of problems."""
        return not self._bad

    def add(self, batch: RowBatch) -> None:
        """Check the next rows."""
        timestamp, value = batch.timestamp, batch.value
        if not len(timestamp):
            return
        # Minimum and maximum suffice when all is well; NaN compares as false.
        earliest, latest = self._limits
        if not (timestamp.min() >= earliest and timestamp.max() < latest):
            finite = np.isfinite(timestamp)
            self._note("no timestamp", ~finite, timestamp)
            self._note("negative", finite & (timestamp < 0), timestamp)
            elsewhere = finite & (timestamp >= 0) & ((timestamp < earliest) | (timestamp >= latest))
            self._note("elsewhere", elsewhere, timestamp)
            if sum(map(len, self._elsewhere)) < _SAMPLE:
                self._elsewhere.append(timestamp[elsewhere][:_SAMPLE])
        if self._sampled < _SAMPLE:
            self._take_sample(batch)
        low, high = np.fmin.reduce(value), np.fmax.reduce(value)
        self._seen_number |= not np.isnan(low)
        if high >= 2.0**63 or low <= -(2.0**63):
            self._note("sentinel", np.isin(value, _SENTINELS), value)
        if low < -_LARGEST or high > _LARGEST:
            self._note("infinite", np.isinf(value), value)
            self._note("too large", np.abs(value) > _LARGEST, value)
        for column, names in (("workload", batch.workload), ("metric", batch.metric)):
            # The names suffice to tell that all rows have one.
            nameless = np.flatnonzero([name is None or name == "" for name in names.names])
            if len(nameless):
                self._note(column, np.isin(names.codes, nameless), value)
        self._row += len(timestamp)

    def finish(self) -> None:
        """Report the problems found.

        Raises
        ------
        DataError
            When there are no rows, or any problem was found; one message has them all.
        """
        if self._row == self._first_row:
            raise DataError(f"{self._name}: no rows")
        problems = []
        if "no timestamp" in self._bad:
            count, row, _ = self._bad["no timestamp"]
            problems.append(f"timestamp is missing in {count:,} rows, first in row {row}")
        elif "negative" in self._bad:
            _, row, timestamp = self._bad["negative"]
            problems.append(f"timestamp {timestamp:.15g} in row {row} is negative")
        elif found := self._timestamp_problem():
            problems.append(found)
        if "infinite" in self._bad:
            count, row, _ = self._bad["infinite"]
            problems.append(f"value is infinite in {count:,} rows, first in row {row}")
        elif "too large" in self._bad:
            _, row, value = self._bad["too large"]
            problems.append(f"value {value:g} in row {row} is too large to be traffic")
        if "sentinel" in self._bad:
            count, row, value = self._bad["sentinel"]
            problems.append(
                f"value {value:.0f} in {count:,} rows, first in row {row}, is a limit of 64-bit integers, "
                "not traffic; leave the cell empty if the value is unknown"
            )
        if not self._seen_number:
            problems.append("value holds no number at all, only missing values")
        for column in ("workload", "metric"):
            if column in self._bad:
                count, row, _ = self._bad[column]
                problems.append(f"{column} is empty in {count:,} rows, first in row {row}")
        if problems:
            raise DataError(f"{self._name}: " + "; ".join(problems))

    def _take_sample(self, batch: RowBatch) -> None:
        rows = slice(0, _SAMPLE - self._sampled)
        timestamp = batch.timestamp[rows]
        self._sample.append(timestamp)
        self._sampled += len(timestamp)
        keys = (timestamp, batch.workload.codes[rows], batch.metric.codes[rows])
        order = np.lexsort(keys)
        again = np.logical_and.reduce([key[order][1:] == key[order][:-1] for key in keys])
        self._repeated += int(np.count_nonzero(again))

    def _timestamp_problem(self) -> str | None:
        """What is wrong with timestamps that are finite and not negative, in words."""
        sample, rows = np.concatenate(self._sample), self._row - self._first_row
        if lost := lost_digits(sample, self._repeated / len(sample)):
            return lost
        if "elsewhere" not in self._bad:
            # Dates of ten digits look like seconds.
            unit = guess_unit(sample)
            return None if unit is None else unit.words(sample[0], self._first_row)
        count, row, timestamp = self._bad["elsewhere"]
        said = f"timestamp {number_text(timestamp)} in row {row}"
        unit = guess_unit(np.concatenate(self._elsewhere))
        if unit is not None and count == rows:
            return unit.words(timestamp, row)
        if unit := unit or guess_unit(np.array([timestamp])):
            return (
                f"{said} looks like {unit.name}, unlike other rows ({count:,} of {rows:,} are not in unix "
                f"seconds); {unit.remedy} there ({EXPECTED})"
            )
        if timestamp >= _LATEST_IN_SECONDS:
            return f"{said} is not a valid time; {EXPECTED}"
        moment = np.datetime_as_string(np.datetime64(int(timestamp), "s")).replace("T", " ")
        when = "before 2000" if timestamp < EARLIEST else "after 2100"
        more = f", one of {count:,} such rows" if count > 1 else ""
        return f"{said} is {moment} UTC, {when}{more}; {EXPECTED}; if it is right, give {self._remedy}"

    def _note(self, kind: str, bad: np.ndarray, content: np.ndarray) -> None:
        count = int(np.count_nonzero(bad))
        if count:
            before, row, said = self._bad.get(kind, (0, 0, 0.0))
            if not before:
                first = int(bad.argmax())
                row, said = self._row + first, float(content[first])
            self._bad[kind] = (before + count, row, said)


def check_frame(
    frame: pd.DataFrame,
    name: str,
    first_row: int = 1,
    any_time: bool = False,
    remedy: str = "source.any_time=true",
) -> pd.DataFrame:
    """Check the guarantees of every source, and return the frame.

    Parameters
    ----------
    frame:
        Has the columns :data:`COLUMNS`; timestamps and values are numeric.
    name, first_row, any_time, remedy:
        As of :class:`RowCheck`.

    Raises
    ------
    DataError
        When there are no rows, or any problem was found; one message has them all.
    """
    check = RowCheck(name, first_row, any_time, remedy)
    timestamp, value = (frame[column].to_numpy(dtype=float) for column in ("timestamp", "value"))
    check.add(RowBatch(timestamp, value, _names_of(frame["workload"]), _names_of(frame["metric"])))
    check.finish()
    return frame


def _names_of(column: pd.Series) -> Names:
    encoded = column.astype("category").cat
    names, codes = encoded.categories.to_numpy(object), encoded.codes.to_numpy()
    missing = codes < 0
    if missing.any():
        return Names(np.where(missing, len(names), codes), np.append(names, [None]))
    return Names(codes, names)
