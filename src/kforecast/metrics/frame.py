"""History that is already in memory, as a pandas frame made by the user."""

from typing import ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa

from kforecast.errors import DataError, few
from kforecast.metrics.moments import (
    MISSING,
    NotAMoment,
    check_zone,
    is_number,
    is_plain,
    numbers_of,
    read_series,
    shown,
)
from kforecast.metrics.multiple import (
    check_on_multiple,
    check_turns,
    labels_of,
    longest_series,
    one_row_a_moment,
)
from kforecast.metrics.source import COLUMNS, MetricSource, as_names, check_frame

_NO_ZONE = "give datetimes with a zone, like pandas.to_datetime(..., utc=True)"
_ANY_TIME = "kforecast.metrics.frame.FrameSource(frame, any_time=True)"


class FrameSource:
    """A long frame (contract 3) as a source.

    Columns other than the four of the contract only show whether rows of one moment are several series.

    Parameters
    ----------
    frame:
        ``timestamp`` in unix seconds, or as datetimes of any backend (UTC where they have no zone), or as
        ISO 8601; ``value``, ``workload`` and ``metric`` as in a file.
    name:
        How messages name the frame.
    timezone:
        The IANA name of the zone of datetimes and text without one.
    any_time:
        Whether moments before 2000 and after 2100 are right.
    on_multiple:
        How to treat several rows of one series at one moment:
        :func:`~kforecast.metrics.multiple.one_row_a_moment`.

    Raises
    ------
    ConfigError
        When there is no such time zone, or ``on_multiple`` is unknown.
    """

    repeatable: ClassVar[bool] = True

    def __init__(
        self,
        frame: pd.DataFrame,
        name: str = "the frame",
        *,
        timezone: str | None = None,
        any_time: bool = False,
        on_multiple: str | None = None,
    ) -> None:
        self._frame, self._name, self._any_time = frame, name, any_time
        self.timezone = check_zone(timezone, "timezone")
        self.on_multiple = check_on_multiple(on_multiple, "on_multiple")

    def __str__(self) -> str:
        return self._name

    def fetch(self) -> pd.DataFrame:
        """Check the four columns and return them in a new frame; messages count rows from 0.

        Raises
        ------
        DataError
            When the frame is not what contract 3 describes.
        """
        frame: object = self._frame
        wanted = f"a pandas DataFrame with the columns {', '.join(COLUMNS)} is expected"
        if not isinstance(frame, pd.DataFrame):
            raise DataError(f"{self._name} is of the type {type(frame).__name__}; {wanted}")
        if frame.columns.nlevels > 1:
            raise DataError(f"{self._name} has columns of {frame.columns.nlevels} levels; {wanted}")
        missing = [column for column in COLUMNS if column not in frame.columns]
        if missing:
            has = few([str(column) for column in frame.columns]) or "no columns"
            in_index = [name for name in missing if name in frame.index.names]
            hint = f" ({', '.join(in_index)} is its index: use reset_index())" if in_index else ""
            raise DataError(f"{self._name} has no column {', '.join(missing)}, but {has}{hint}; {wanted}")
        twice = [column for column in COLUMNS if not isinstance(frame[column], pd.Series)]
        if twice:
            raise DataError(f"{self._name} has more than one column {twice[0]}")
        rows = frame[list(COLUMNS)].reset_index(drop=True)
        names = {column: self._names(rows[column]) for column in ("workload", "metric")}
        try:
            moments = read_series(rows["timestamp"])
            codes = [names[column].cat.codes.to_numpy(np.int64) for column in names]
            series = codes[0] * (len(names["metric"].cat.categories) + 1) + codes[1]
            seconds = moments.in_utc(self.timezone, series, _NO_ZONE)
        except NotAMoment as error:
            raise DataError(f"{self._name}: {error.words(first_row=0)}") from error
        columns = {"timestamp": seconds, "value": self._values(rows["value"])} | names
        checked = check_frame(
            pd.DataFrame(columns), self._name, first_row=0, any_time=self._any_time, remedy=_ANY_TIME
        )
        others = [name for name in frame.columns if name not in COLUMNS]

        def of_series(workload: str, metric: str) -> pd.DataFrame:
            chosen = ((checked["workload"] == workload) & (checked["metric"] == metric)).to_numpy()
            unread = frame.loc[chosen, others].reset_index(drop=True)
            return pd.concat([checked[chosen].reset_index(drop=True), unread], axis=1)

        if labels_of(others):
            check_turns(of_series(*longest_series(checked)), self.on_multiple, self._name, "on_multiple")
        return one_row_a_moment(
            checked,
            self.on_multiple,
            self._name,
            of_series if others else None,
            lambda: frame[others].reset_index(drop=True),
            "on_multiple",
        )

    def _values(self, cells: pd.Series) -> np.ndarray:
        """Values as float64."""
        kind = cells.dtype
        if isinstance(kind, pd.CategoricalDtype):
            cells = cells.astype(kind.categories.dtype)
            kind = cells.dtype
        if isinstance(kind, pd.ArrowDtype):
            if is_number(kind.pyarrow_dtype):
                column = pa.array(cells).cast(pa.float64(), safe=False)
                return np.asarray(column.to_numpy(zero_copy_only=False))
            cells = cells.astype(object)
        if pd.api.types.is_numeric_dtype(kind) and kind.kind in "iuf":
            return cells.to_numpy(np.float64, na_value=np.nan)
        if kind.kind in "bcmM" or isinstance(kind, pd.PeriodDtype):
            raise DataError(f"{self._name}: value has the type {kind}; numbers are expected")
        cells = cells.astype(object)
        known = cells.notna().to_numpy()
        plain = np.array([is_plain(cell) for cell in cells], bool)
        text = np.array([isinstance(cell, str) and cell.strip() in MISSING for cell in cells], bool)
        known = known & ~text
        numbers = numbers_of(cells.where(plain & known, None))
        wrong = known & np.isnan(numbers)
        if wrong.any():
            row = int(wrong.argmax())
            raise DataError(f"{self._name}: value in row {row} is {shown(cells.iloc[row])}, not a number")
        return numbers

    def _names(self, names: pd.Series) -> pd.Series:
        """Names as a categorical column of trimmed text; missing names stay missing."""
        try:
            return as_names(names)
        except (TypeError, NotImplementedError, pa.ArrowException) as error:  # cells like lists
            raise DataError(f"{self._name}: {names.name} holds cells that are not text") from error


def source_of(history: pd.DataFrame | MetricSource) -> MetricSource:
    """A history given in Python as a source: a frame is checked, a source is taken as it is."""
    if isinstance(history, pd.DataFrame) or not hasattr(history, "fetch"):
        return FrameSource(history)  # type: ignore[arg-type]  # refuses anything but a frame
    return history
