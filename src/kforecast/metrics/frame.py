"""History that is already in memory, as a pandas frame made by the user."""

from typing import ClassVar

import pandas as pd

from kforecast.errors import DataError, few
from kforecast.metrics.multiple import (
    check_on_multiple,
    check_turns,
    labels_of,
    longest_series,
    one_row_a_moment,
)
from kforecast.metrics.source import COLUMNS, as_names, check_frame


class FrameSource:
    """A long frame (contract 3) as a source.

    Columns other than the four of the contract only show whether rows of one moment are several series.

    Parameters
    ----------
    frame:
        ``timestamp`` in unix seconds, or as datetimes (UTC where they have no zone); ``value``, ``workload``
        and ``metric`` as in a file.
    name:
        How messages name the frame.
    on_multiple:
        How to treat several rows of one series at one moment:
        :func:`~kforecast.metrics.multiple.one_row_a_moment`.
    """

    repeatable: ClassVar[bool] = True

    def __init__(self, frame: pd.DataFrame, name: str = "the frame", on_multiple: str | None = None) -> None:
        self._frame, self._name = frame, name
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
        missing = [column for column in COLUMNS if column not in frame.columns]
        if missing:
            has = few([str(column) for column in frame.columns]) or "no columns"
            raise DataError(f"{self._name} has no column {', '.join(missing)}, but {has}; {wanted}")
        twice = [column for column in COLUMNS if not isinstance(frame[column], pd.Series)]
        if twice:
            raise DataError(f"{self._name} has more than one column {twice[0]}")
        rows = frame[list(COLUMNS)].reset_index(drop=True)
        columns = {
            "timestamp": self._numbers("timestamp", _seconds(rows["timestamp"])),
            "value": self._numbers("value", rows["value"]),
            "workload": as_names(rows["workload"]),
            "metric": as_names(rows["metric"]),
        }
        checked = check_frame(pd.DataFrame(columns), self._name, first_row=0)
        others = [name for name in frame.columns if name not in COLUMNS]

        def of_series(workload: str, metric: str) -> pd.DataFrame:
            chosen = ((checked["workload"] == workload) & (checked["metric"] == metric)).to_numpy()
            unread = frame.loc[chosen, others].reset_index(drop=True)
            return pd.concat([checked[chosen].reset_index(drop=True), unread], axis=1)

        if labels_of(others):
            check_turns(of_series(*longest_series(checked)), self.on_multiple, self._name, "on_multiple")
        return one_row_a_moment(
            checked, self.on_multiple, self._name, of_series if others else None, "on_multiple"
        )

    def _numbers(self, column: str, cells: pd.Series) -> pd.Series:
        if pd.api.types.is_numeric_dtype(cells.dtype):
            return cells if cells.dtype.kind in "iuf" and not cells.hasnans else cells.astype("float64")
        numbers = pd.to_numeric(cells, errors="coerce")
        wrong = (numbers.isna() & cells.notna()).to_numpy()
        if wrong.any():
            row = int(wrong.argmax())
            hint = "; give unix seconds, or pandas.to_datetime(...)" if column == "timestamp" else ""
            raise DataError(f"{self._name}: {column} in row {row} is {cells.iloc[row]!r}, not a number{hint}")
        return numbers.astype("float64")


def _seconds(moments: pd.Series) -> pd.Series:
    """Datetimes as unix seconds; anything else unchanged."""
    if not pd.api.types.is_datetime64_any_dtype(moments.dtype):
        return moments
    in_utc = moments.dt.tz_localize("UTC") if moments.dt.tz is None else moments.dt.tz_convert("UTC")
    seconds: pd.Series = (in_utc - pd.Timestamp(0, tz="UTC")).dt.total_seconds()
    return seconds
