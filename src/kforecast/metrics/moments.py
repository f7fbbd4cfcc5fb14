"""Moments of any representation as unix seconds: datetimes of every backend, dates, periods, ISO 8601.

A column is read in two steps: :func:`read_arrow` or :func:`read_series` to :class:`Moments`, whose rows
without a zone are still local; then :meth:`Moments.in_utc`, which needs the series of each row to tell the
two passes of an hour that clocks show twice.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pandas.tseries.api import guess_datetime_format

from kforecast.errors import ConfigError
from kforecast.localtime import check_time_zone
from kforecast.metrics.units import seconds_of_fields

# Words for a missing value in text.
MISSING = ("", "NaN", "nan", "NA", "N/A", "null", "NULL", "None", "NaT")

_DAY = 86_400
_HUGE = 10**300
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_TIME = r"(?P<h>\d{1,2}):(?P<mi>\d{2})(?::(?P<s>\d{2})(?:[.,]\d+)?)?"
# An offset may be followed by the abbreviation that Go prints: +0200 CEST.
_ZONE = r"(?P<zone>Z|z|UTC|GMT|[+-]\d{2}(?::?\d{2})?(?: [A-Z]{3,5})?)?"
_YEAR_FIRST = (
    r"^(?P<y>\d{4})-(?P<m>\d{1,2})-(?P<d>\d{1,2})",
    r"^(?P<y>\d{4})/(?P<m>\d{1,2})/(?P<d>\d{1,2})",
    r"^(?P<y>\d{4})\.(?P<m>\d{1,2})\.(?P<d>\d{1,2})",
)
_ISO = tuple(rf"{date}(?:(?:[Tt]|,? +){_TIME})? *{_ZONE}$" for date in _YEAR_FIRST)
_BASIC = (
    r"^(?P<y>\d{4})(?P<m>\d{2})(?P<d>\d{2})T(?P<h>\d{2})(?P<mi>\d{2})(?:(?P<s>\d{2})(?:[.,]\d+)?)?"
    rf"{_ZONE}$"
)
# Day and month, in an order that the file must tell.
_YEAR_LAST = (
    rf"^(?P<a>\d{{1,2}})(?P<dot>[/.-])(?P<b>\d{{1,2}})[/.-](?P<y>\d{{4}})"
    rf"(?:(?:T|,? +){_TIME}(?: ?(?P<half>[AaPp])\.?[Mm]\.?)?)? *{_ZONE}$"
)
_MONTH_NAMES = re.compile(r"\b(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)", re.IGNORECASE)
_UNREADABLE = "not a number or a date"
_GIVE_OFFSETS = "give times with an offset, or in UTC"
_WRITE_ISO = "write ISO 8601 like 2024-01-31T10:00:00Z"


class NotAMoment(ValueError):  # noqa: N818
    """A cell, or a whole column, that is no moment.

    Attributes
    ----------
    row:
        Number of the row from 0; None when the column as a whole is refused.
    reason:
        The problem and its remedy; follows "timestamp in row 7 " or "timestamp ".
    """

    def __init__(self, reason: str, row: int | None = None) -> None:
        super().__init__(reason)
        self.reason, self.row = reason, row

    def words(self, first_row: int) -> str:
        """The problem for a message, given the number of the first row."""
        where = "" if self.row is None else f" in row {first_row + self.row}"
        return f"timestamp{where} {self.reason}"


@dataclass(frozen=True)
class Moments:
    """A column of moments.

    Attributes
    ----------
    seconds:
        float64 ``[rows]``: unix seconds, or seconds since 1970 on a local clock; NaN where missing.
    local:
        bool ``[rows]``: whose clock is local; None when no row's is.
    is_text:
        Whether they were text, which must not be taken for UTC without being told.
    """

    seconds: np.ndarray
    local: np.ndarray | None = None
    is_text: bool = False

    def in_utc(self, zone: str | None, series: np.ndarray | None = None, remedy: str = "") -> np.ndarray:
        """Unix seconds, float64 ``[rows]``.

        Parameters
        ----------
        zone:
            The time zone of local clocks; None for UTC, which text must name itself.
        series:
            The series of each row, as integers ``[rows]``; None when all rows are of one series.
        remedy:
            How a message names the setting of the zone.

        Raises
        ------
        NotAMoment
            When a local time has no zone, does not exist, or exists twice.
        """
        if self.local is None:
            return self.seconds
        if zone is None:
            if self.is_text:
                row = int(self.local.argmax())
                moment = np.datetime64(int(self.seconds[row]), "s").item()
                raise NotAMoment(f"is {moment}, without a time zone; {remedy}", row)
            return self.seconds
        rows = np.flatnonzero(self.local)
        found = self.seconds.copy()
        codes = np.zeros(len(rows), np.int64) if series is None else np.asarray(series)[rows]
        try:
            found[rows] = _localized(self.seconds[rows], codes, zone)
        except NotAMoment as error:
            raise NotAMoment(error.reason, int(rows[error.row or 0])) from None
        return found


def check_zone(zone: object, key: str) -> str | None:
    """Check the name of a time zone that a setting has; None stays None.

    Raises
    ------
    ConfigError
        When there is no such zone; the message names the setting, ``key``.
    """
    try:
        return None if zone is None else check_time_zone(zone)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from error


def is_text(kind: pa.DataType) -> bool:
    """Whether a type of Arrow is text, also encoded as a dictionary."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_number(kind: pa.DataType) -> bool:
    """Whether a type of Arrow is a number."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def read_arrow(column: pa.ChunkedArray | pa.Array, field: pa.Field | None = None) -> Moments:
    """Read a column of Arrow or Parquet.

    Parameters
    ----------
    field:
        The column's field, whose metadata tells a pandas Period from an integer.

    Raises
    ------
    NotAMoment
        When its type, or a cell, is no moment.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if _is_period(field, kind):
        return _of_arrow_periods(column, field)
    if pa.types.is_null(kind):
        return Moments(np.full(len(column), np.nan))
    if pa.types.is_float32(kind) or pa.types.is_float16(kind):
        raise NotAMoment(_narrow("float32" if pa.types.is_float32(kind) else "float16"))
    if is_number(kind):
        return Moments(_floats(column))
    if pa.types.is_timestamp(kind):
        return _counted(column, _PER_SECOND[kind.unit], local=kind.tz is None)
    if pa.types.is_date(kind):
        return _counted(column.cast(pa.timestamp("s")), 1, local=True)
    if is_text(kind):
        return _of_text(column)
    raise NotAMoment(_other_type(kind))


def read_series(column: pd.Series) -> Moments:
    """Read a column of a pandas frame, of any backend.

    Raises
    ------
    NotAMoment
        When its type, or a cell, is no moment.
    """
    kind = column.dtype
    if isinstance(kind, pd.CategoricalDtype):
        column = column.astype(kind.categories.dtype)
        kind = column.dtype
    if isinstance(kind, pd.PeriodDtype):
        return _of_periods(column)
    if pd.api.types.is_datetime64_any_dtype(kind) and not isinstance(kind, pd.ArrowDtype):
        return _of_datetimes(column)
    if isinstance(kind, pd.ArrowDtype):
        return read_arrow(pa.array(column))
    if pd.api.types.is_bool_dtype(kind) or pd.api.types.is_timedelta64_dtype(kind) or kind.kind == "c":
        raise NotAMoment(_other_type(kind))
    if pd.api.types.is_numeric_dtype(kind):
        if pd.api.types.is_float_dtype(kind) and getattr(kind, "itemsize", 8) < 8:
            raise NotAMoment(_narrow(str(kind).lower()))
        return Moments(column.to_numpy(np.float64, na_value=np.nan))
    return _of_objects(column)


def _narrow(kind: str) -> str:
    return f"is {kind}, which is exact to 128 s only; give int64 or float64"


def _other_type(kind: object) -> str:
    return f"has the type {shown(kind, str)}; unix seconds or datetimes are expected"


def _floats(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    found: np.ndarray = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return found


def _is_period(field: pa.Field | None, kind: pa.DataType) -> bool:
    """Whether a column of Parquet is a pandas Period, which Arrow may take for an integer."""
    if isinstance(kind, pa.BaseExtensionType):
        return bool(kind.extension_name == "pandas.period")
    about = (field.metadata or {}) if field is not None else {}
    return bool(about.get(b"ARROW:extension:name") == b"pandas.period")


def _of_arrow_periods(column: pa.ChunkedArray | pa.Array, field: pa.Field | None) -> Moments:
    try:
        kind = column.type
        if isinstance(kind, pa.BaseExtensionType):
            freq = str(kind.freq)
        else:
            assert field is not None
            freq = str(json.loads(field.metadata[b"ARROW:extension:metadata"])["freq"])
        missing = column.is_null().to_numpy(zero_copy_only=False)
        numbers = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
        periods = pd.PeriodIndex.from_ordinals(numbers, freq=freq)  # type: ignore[attr-defined]
        return _of_periods(pd.Series(periods).mask(missing))
    except (ValueError, KeyError, TypeError) as error:
        raise NotAMoment(_other_type(column.type)) from error


def _of_periods(column: pd.Series) -> Moments:
    """Periods of pandas count from their start."""
    try:
        return _of_datetimes(column.dt.start_time)
    except pd.errors.OutOfBoundsDatetime as error:
        raise NotAMoment(f"holds a period that is no moment: {error}") from error


def _counted(column: pa.ChunkedArray | pa.Array, per_second: int, local: bool) -> Moments:
    """Timestamps of Arrow; fractions of a second are floored."""
    missing = column.is_null().to_numpy(zero_copy_only=False)
    counts = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    seconds = np.where(missing, np.nan, np.floor_divide(counts, per_second))
    return Moments(seconds, ~missing if local and not missing.all() else None)


def _of_datetimes(column: pd.Series) -> Moments:
    """Datetimes of numpy; fractions of a second are floored."""
    local = column.dt.tz is None
    moments = (column if local else column.dt.tz_convert("UTC").dt.tz_localize(None)).to_numpy()
    missing = np.isnat(moments)
    # Towards zero would round moments before 1970 up, but datetime64 floors.
    seconds = np.where(missing, np.nan, moments.astype("datetime64[s]").astype(np.int64))
    return Moments(seconds, ~missing if local and not missing.all() else None)


def _of_objects(column: pd.Series) -> Moments:
    """A column of Python objects, or of pandas' text."""
    kind = pd.api.types.infer_dtype(column, skipna=True)
    if kind in ("datetime64", "datetime", "date", "period"):
        return _of_python_datetimes(column, kind)
    if kind in ("integer", "floating", "mixed-integer-float", "decimal", "empty"):
        return Moments(_checked(column))
    if kind == "string":
        return _of_text(pa.array(column.astype(object).where(column.notna(), None), pa.large_string()))
    known = column.notna().to_numpy()
    plain = np.array([is_plain(cell) for cell in column], bool)
    if (known & ~plain).any():
        raise _not_a_moment(column, known & ~plain)
    return Moments(_checked(column))


def is_plain(cell: object) -> bool:
    """Whether an object is a number, or text that may be one."""
    return isinstance(cell, str | Real | Decimal) and not isinstance(cell, bool | np.bool_)


def numbers_of(cells: pd.Series) -> np.ndarray:
    """Python numbers, or text, as float64; NaN where a cell is no number."""
    try:
        return pd.to_numeric(cells, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    except OverflowError:  # an integer beyond float64
        huge = cells.map(lambda cell: isinstance(cell, int) and abs(cell) > _HUGE, na_action="ignore")
        return numbers_of(cells.mask(huge == True, np.inf))  # noqa: E712


def _checked(column: pd.Series) -> np.ndarray:
    numbers = numbers_of(column)
    wrong = np.isnan(numbers) & column.notna().to_numpy()
    if wrong.any():
        raise _not_a_moment(column, wrong)
    return numbers


def _not_a_moment(column: pd.Series, wrong: np.ndarray) -> NotAMoment:
    row = int(wrong.argmax())
    return NotAMoment(f"is {shown(column.iloc[row])}, {_UNREADABLE}", row)


def _of_python_datetimes(column: pd.Series, kind: str) -> Moments:
    try:
        if kind == "period":
            return _of_periods(pd.Series(pd.PeriodIndex(column)))
        return _of_datetimes(pd.to_datetime(column))
    except (ValueError, TypeError, OverflowError, pd.errors.OutOfBoundsDatetime):
        pass
    # Several zones in one column, which pandas keeps as objects.
    known = column.notna().to_numpy()
    naive = np.array([getattr(cell, "tzinfo", None) is None for cell in column], bool) & known
    if naive.any() and not naive[known].all():
        row = int(naive.argmax())
        raise NotAMoment(f"is {shown(column.iloc[row])}, without a time zone, unlike other rows", row)
    try:
        return _of_datetimes(pd.to_datetime(column, utc=True))
    except (ValueError, TypeError, OverflowError) as error:
        raise NotAMoment(f"cannot be read as datetimes: {str(error).splitlines()[0]}") from error


def shown(cell: object, text: Callable[[object], str] = repr) -> str:
    """A cell in a message, shortened."""
    found = text(cell)
    return found if len(found) <= 80 else found[:77] + "..."


def _of_text(column: pa.ChunkedArray | pa.Array) -> Moments:
    """Text: unix seconds, ISO 8601, or another form that cannot be misread."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    # Series share their moments, so that each text is parsed once.
    encoded = column.dictionary_encode()
    texts = pc.utf8_trim_whitespace(encoded.dictionary.cast(pa.large_string()))
    codes = encoded.indices.fill_null(len(texts)).to_numpy(zero_copy_only=False)
    seconds, local, reason = _parsed(texts)
    wrong = np.append(reason != "", False)[codes]
    if wrong.any():
        row = int(wrong.argmax())
        raise NotAMoment(f"is {shown(texts[codes[row]].as_py())}, {reason[codes[row]]}", row)
    seconds, local = np.append(seconds, np.nan)[codes], np.append(local, False)[codes]
    return Moments(seconds, local if local.any() else None, is_text=True)


def _parsed(texts: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Seconds, whether they are local, and why a text is refused ("" where it is not), each ``[texts]``."""
    count = len(texts)
    seconds, local = np.full(count, np.nan), np.zeros(count, bool)
    reason = np.full(count, "", dtype=object)
    missing = pc.is_in(texts, pa.array(MISSING, pa.large_string())).to_numpy(zero_copy_only=False)
    numbers = pd.to_numeric(pd.Series(texts.to_numpy(zero_copy_only=False)), errors="coerce").to_numpy(float)
    numeric = ~missing & ~np.isnan(numbers)
    seconds[numeric] = numbers[numeric]
    left = np.flatnonzero(~numeric & ~missing)
    if len(left):
        found, zoned, reason[left] = _dates(texts.take(pa.array(left)))
        if not np.isnan(found).all():
            reason[numeric] = "a number among dates"
        seconds[left], local[left] = found, ~zoned & ~np.isnan(found)
    return seconds, local, reason


def _dates(texts: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Parse dates as text.

    Returns
    -------
    Seconds (NaN for a text that is no date), whether a zone is given, and the reason for each NaN ("" for the
    others), each ``[texts]``.
    """
    seconds, zoned = np.full(len(texts), np.nan), np.zeros(len(texts), bool)
    reason = np.full(len(texts), f"{_UNREADABLE}; {_WRITE_ISO}, or unix seconds", dtype=object)
    left = np.ones(len(texts), bool)
    for pattern in (*_ISO, _BASIC, _YEAR_LAST):
        fields = pc.extract_regex(texts, pattern)
        here = fields.is_valid().to_numpy(zero_copy_only=False) & left
        if not here.any():
            continue
        left &= ~here
        parts = _Parts(fields.filter(pa.array(here)))
        hour, offset = parts.number("h"), parts.offset()
        day, month = parts.number("d"), parts.number("m")
        if pattern == _YEAR_LAST:
            order = _day_and_month(parts)
            if order is None:
                reason[here] = f"day or month first? {_WRITE_ISO}"
                continue
            day, month = order
            hour = _of_24_hours(hour, parts.text("half"))
        found = seconds_of_fields(parts.number("y"), month, day, hour, parts.number("mi"), parts.number("s"))
        zoned[here] = ~np.isnan(offset)
        seconds[here] = np.where(np.isinf(offset), np.nan, found - np.where(np.isnan(offset), 0, offset))
        reason[here] = f"a date that does not exist; {_WRITE_ISO}"
    if left.all():
        _read_month_names(texts, seconds, zoned)
    reason[~np.isnan(seconds)] = ""
    return seconds, zoned, reason


def _day_and_month(parts: "_Parts") -> tuple[np.ndarray, np.ndarray] | None:
    """Day and month of dates like 31/01/2024; None when nothing tells their order."""
    first, second = parts.number("a"), parts.number("b")
    day_first = first.max() > 12 or bool((parts.text("dot") == ".").all())
    if day_first == (second.max() > 12):
        return None
    return (first, second) if day_first else (second, first)


def _of_24_hours(hour: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Hours of a day, given "a" or "p" where they are of half a day; 99 where there is no such hour."""
    half = np.char.lower(half.astype(str))
    of_half = (half == "a") | (half == "p")
    return np.where(of_half, np.where((hour >= 1) & (hour <= 12), hour % 12 + 12 * (half == "p"), 99), hour)


def _read_month_names(texts: pa.Array, seconds: np.ndarray, zoned: np.ndarray) -> None:
    """Read texts with the name of a month, if all have one form, into the arrays."""
    cells = pd.Series(texts.to_numpy(zero_copy_only=False))
    form = guess_datetime_format(cells.iloc[0]) if _MONTH_NAMES.search(cells.iloc[0]) else None
    if form is None or "%Y" not in form:
        return
    has_zone = "%z" in form or "%Z" in form
    try:
        found = pd.to_datetime(cells, format=form, utc=has_zone)
    except (ValueError, TypeError, OverflowError):
        return
    seconds[:], zoned[:] = _of_datetimes(found).seconds, has_zone


class _Parts:
    """The groups of a pattern, each ``[texts]``."""

    def __init__(self, fields: pa.StructArray) -> None:
        self._fields = fields
        self._names = {field.name for field in fields.type}

    def text(self, name: str) -> np.ndarray:
        column = pc.struct_field(self._fields, name)
        found: np.ndarray = column.to_numpy(zero_copy_only=False)
        return found

    def number(self, name: str) -> np.ndarray:
        """A group as integers; 0 where it is absent."""
        if name not in self._names:
            return np.zeros(len(self._fields), np.int64)
        column = pc.struct_field(self._fields, name)
        filled = pc.if_else(pc.equal(column, ""), "0", column)
        found: np.ndarray = filled.cast(pa.int64()).to_numpy(zero_copy_only=False)
        return found

    def offset(self) -> np.ndarray:
        """Seconds of the zone, east of UTC; NaN where there is none, infinite where there is no such one."""
        column = pc.struct_field(self._fields, "zone")
        digits = pc.extract_regex(column, r"^(?P<sign>[+-])(?P<h>\d{2}):?(?P<m>\d{2})?")
        numeric = digits.is_valid().to_numpy(zero_copy_only=False)
        given = ~np.isin(self.text("zone"), [""])
        offset = np.where(given, 0.0, np.nan)
        if numeric.any():
            parts = _Parts(digits.filter(pa.array(numeric)))
            hours, minutes = parts.number("h"), parts.number("m")
            sign = np.where(parts.text("sign") == "-", -1, 1)
            east = sign * (3600 * hours + 60 * minutes)
            offset[numeric] = np.where((hours < 24) & (minutes < 60), east, np.inf)
        return offset


def _localized(seconds: np.ndarray, series: np.ndarray, zone: str) -> np.ndarray:
    """Local times as unix seconds; the order of rows tells the two passes of an hour shown twice."""
    clock = pd.DatetimeIndex(np.floor(seconds).astype(np.int64).astype("datetime64[s]"))
    early = clock.tz_localize(zone, ambiguous=np.ones(len(clock), bool), nonexistent="NaT")
    if early.isna().any():
        row = int(early.isna().argmax())
        raise NotAMoment(f"is {clock[row]}, which the clocks of {zone} skipped; {_GIVE_OFFSETS}", row)
    late = clock.tz_localize(zone, ambiguous=np.zeros(len(clock), bool), nonexistent="NaT")
    first, second = early.as_unit("s").asi8, late.as_unit("s").asi8
    found = first.astype(np.float64)
    twice = np.flatnonzero(first != second)
    if not len(twice):
        return found
    # From the last row to the first in series whose newest row comes first.
    _, series = np.unique(series, return_inverse=True)
    order = np.argsort(series, kind="stable")
    begin = np.flatnonzero(np.r_[True, np.diff(series[order]) != 0])
    end = np.r_[begin[1:], len(order)] - 1
    falls = np.zeros(int(series.max()) + 1, bool)
    falls[series[order[begin]]] = first[order[begin]] > first[order[end]]
    position = np.arange(len(series))
    position = np.where(falls[series], -position, position)
    rows = twice[np.lexsort((position[twice], series[twice]))]
    # One group for each series and change of its clocks. In its rows the clock must go back exactly once.
    gap = np.diff(first[rows])
    same = (np.diff(series[rows]) == 0) & (np.abs(gap) < _DAY)
    back = same & (gap <= 0)
    group = np.r_[0, np.cumsum(~same)]
    times = np.bincount(group[1:], weights=back, minlength=group[-1] + 1)
    if (times != 1).any():
        row = int(rows[(times != 1)[group]].min())
        raise NotAMoment(f"is {clock[row]}, which the clocks of {zone} showed twice; {_GIVE_OFFSETS}", row)
    gone_back = np.r_[0, np.cumsum(back)]
    is_second = gone_back > gone_back[np.flatnonzero(np.r_[True, ~same])][group]
    found[rows] = np.where(is_second, second[rows], first[rows])
    return found
