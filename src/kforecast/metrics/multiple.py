"""Several rows of one series at one moment: two copies of a row, or the parts of a whole, like its pods."""

import logging
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

from kforecast.errors import ConfigError, DataError
from kforecast.metrics.source import COLUMNS
from kforecast.metrics.timerange import utc

log = logging.getLogger(__name__)

ON_MULTIPLE = ("sum", "mean", "error")
KEY = "source.on_multiple"
_MOMENT = ["workload", "metric", "timestamp"]
# Up to this many moments with several rows are an accident, unless they are half of all moments.
_FEW_MOMENTS = 10

# Labels of the parts of a workload, in Kubernetes and Prometheus.
_LABELS = (
    *("pod", "pod_name", "podname", "kubernetes_pod_name", "instance", "exported_instance", "exported_pod"),
    *("host", "hostname", "node", "nodename", "server", "replica", "container", "container_id", "task"),
)

# Columns that hold the time of day, beside one of dates.
_TIMES_OF_DAY = (
    "time",
    "hour",
    "minute",
    "hh",
    "hh:mm",
    "time of day",
    "uhrzeit",
    "stunde",
    "zeit",
    "heure",
    "hora",
)

OfSeries = Callable[[str, str], pd.DataFrame]
"""Returns the rows of a series, by workload and metric, with all columns of the source."""


class Multiple(NamedTuple):
    """The series with the most moments that have several rows."""

    workload: str
    metric: str
    second: float
    """The first of these moments, unix seconds."""
    rows: int
    """Rows at that moment."""

    def __str__(self) -> str:
        at = utc(self.second).removesuffix(":00")
        return f"{self.rows:,} rows of {self.workload} {self.metric} at {at}"


def check_on_multiple(value: object, key: str) -> str | None:
    """Check the setting; None chooses by the data.

    Raises
    ------
    ConfigError
        When it is unknown; the message names ``key``.
    """
    if value is None or value in ON_MULTIPLE:
        return value
    raise ConfigError(f"{key}: {value!r} is wrong; use sum, mean or error, or null")


def are_many(moments: int, of: int) -> bool:
    """Whether so many moments with several rows, of all moments of a series, are no accident."""
    return moments > _FEW_MOMENTS or (moments > 1 and 2 * moments >= of)


def one_row_a_moment(
    frame: pd.DataFrame,
    on_multiple: str | None,
    name: str,
    of_series: OfSeries | None,
    others: Callable[[], pd.DataFrame] | None = None,
    key: str = KEY,
) -> pd.DataFrame:
    """Combine several rows of a series at one moment (a second) into one.

    A copy of a row never counts twice where another column tells the parts of a whole: two exports in one
    file have such rows.

    Parameters
    ----------
    frame:
        The columns of contract 3, checked.
    on_multiple:
        ``sum``, ``mean`` or ``error``. With None the rows stay, to be averaged later, unless another column
        tells them apart.
    name:
        How messages name the source.
    of_series:
        Returns the rows of a series with all columns; None when there are no others.
    others:
        Returns the other columns of all rows, in the order of ``frame``; None when there are none.
    key:
        How messages name the setting.

    Raises
    ------
    DataError
        For several rows with ``error``, or with None where another column tells them apart.
    """
    if on_multiple is None and of_series is None:
        return frame
    frame = frame.assign(timestamp=np.floor(frame["timestamp"]))
    known = frame[frame["value"].notna()]
    again = known.duplicated(_MOMENT)
    if not again.any():
        return frame
    if on_multiple == "sum":
        copies = _copies(frame, of_series, others, name)
        frame = frame[~copies]
    if on_multiple in ("sum", "mean"):
        by_moment = frame.groupby(_MOMENT, observed=True, sort=False)["value"]
        combined = by_moment.sum(min_count=1) if on_multiple == "sum" else by_moment.mean()
        found: pd.DataFrame = combined.reset_index()[list(COLUMNS)]
        return found
    moments = known[again].drop_duplicates(_MOMENT)
    workload, metric = longest_series(moments)
    count = int(((moments["workload"] == workload) & (moments["metric"] == metric)).sum())
    second = known.loc[(known["workload"] == workload) & (known["metric"] == metric), "timestamp"]
    at = float(second[second.duplicated()].iloc[0])
    multiple = Multiple(workload, metric, at, int((second == at).sum()))
    many = are_many(count, second.nunique())
    check_multiple(multiple, on_multiple, name, of_series if many else None, key)
    return frame


def has_copies(rows: pd.DataFrame) -> bool:
    """Whether rows of a series are equal in all columns, of which one tells the parts of a whole apart."""
    return bool((labels_of(rows.columns) or telling_column(rows)) and rows.duplicated().any())


def _copies(
    frame: pd.DataFrame, of_series: OfSeries | None, others: Callable[[], pd.DataFrame] | None, name: str
) -> np.ndarray:
    """The rows that a sum must not count, bool ``[rows]``; says how many."""
    repeated = frame["value"].notna() & frame.duplicated(_MOMENT)
    copies = np.zeros(len(frame), bool)
    if of_series is None or others is None or not has_copies(of_series(*longest_series(frame[repeated]))):
        return copies
    copies = pd.concat([frame, others()], axis=1).duplicated().to_numpy()
    log.warning("%s: %s copies of rows, equal in all columns, count once", name, f"{copies.sum():,}")
    return copies


def check_multiple(
    multiple: Multiple, on_multiple: str | None, name: str, of_series: OfSeries | None, key: str = KEY
) -> None:
    """Refuse several rows at a moment with ``error``, or where an unread column tells them apart.

    Raises
    ------
    DataError
        Naming the series, a moment and the column.
    """
    remedy = f"sum adds them up (as the servers do), mean averages them{_place(key)}"
    if on_multiple == "error":
        raise DataError(f"{name}: {multiple}, and {key}=error allows one; {remedy}")
    if of_series is None:
        return
    column = telling_column(of_series(multiple.workload, multiple.metric))
    if column is not None and column.strip().casefold() in _TIMES_OF_DAY:
        raise DataError(
            f"{name}: {multiple}: column {column} holds their time; join it to the date in one column, like "
            "2024-01-31 10:00"
        )
    if column is not None:
        raise DataError(f"{name}: {multiple}: column {column} tells them apart; {key}={remedy}")


def check_turns(series: pd.DataFrame, on_multiple: str | None, name: str, key: str = KEY) -> None:
    """Refuse rows of several pods that come in turn, each pod at moments of its own.

    Bins would hold the mean of the pods, even with ``sum``, which adds up rows of one moment.

    Parameters
    ----------
    series:
        The rows of one series, with the columns of :func:`labels_of`.

    Raises
    ------
    DataError
        Naming the column.
    """
    if on_multiple == "mean" or series["timestamp"].duplicated(keep=False).mean() >= 0.5:
        return
    ordered = series.sort_values("timestamp", kind="stable")
    for column in labels_of(series.columns):
        label = ordered[column].astype(str).to_numpy()
        if len(label) >= 4 and 2 * np.count_nonzero(label[1:] != label[:-1]) > len(label):
            workload, metric = ordered["workload"].iloc[0], ordered["metric"].iloc[0]
            raise DataError(
                f"{name}: the rows of {workload} {metric} come in turn from several values of the column "
                f"{column}, each at moments of its own; add them up at common moments first (in PromQL: "
                f"sum), or average them: {key}=mean{_place(key)}"
            )


def _place(key: str) -> str:
    """Where the key belongs, of a frame in Python."""
    return "" if key == KEY else f"; {key} is an argument of kforecast.metrics.frame.FrameSource"


def longest_series(frame: pd.DataFrame) -> tuple[str, str]:
    """Workload and metric with the most rows."""
    sizes = frame.groupby(["workload", "metric"], observed=True).size()
    workload, metric = sizes.index[int(sizes.to_numpy().argmax())]
    return str(workload), str(metric)


def labels_of(columns: Iterable[object]) -> list[str]:
    """The columns with the name of a label that tells series apart."""
    return [column for column in columns if isinstance(column, str) and column.casefold() in _LABELS]


def telling_column(series: pd.DataFrame) -> str | None:
    """The column whose value differs among the rows of most moments that have several; None without one.

    A column of numbers with a fraction is another measurement, and one that hardly repeats a value counts
    rows.
    """
    several = series[series["timestamp"].duplicated(keep=False)]
    moment = several["timestamp"]
    sizes = moment.groupby(moment).size()
    found: list[tuple[float, int, str]] = []
    for place, column in enumerate(series.columns):
        if column in COLUMNS:
            continue
        cells = series.iloc[:, place].astype(str)
        distinct = cells.nunique()
        number = pd.to_numeric(cells, errors="coerce")
        if 2 * distinct > len(cells) or (number % 1 > 0).any():
            continue
        differs = cells[moment.index].groupby(moment).nunique()
        if (differs > 1).mean() > 0.5:
            found.append((-float((differs == sizes).mean()), distinct, str(column)))
    return min(found)[2] if found else None
