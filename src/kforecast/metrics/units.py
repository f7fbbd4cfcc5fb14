"""Units of numeric timestamps: unix seconds are the contract, every other unit is recognized by its size."""

from dataclasses import dataclass

import numpy as np

# The moments a history may have without further confirmation: 2000-01-01 to 2100-01-01, unix seconds.
EARLIEST, LATEST = 946_684_800, 4_102_444_800

EXPECTED = "unix seconds are expected"

# Share of the numbers that must be plausible moments in a unit.
_MOST = 0.9
# Numbers of ten digits are seconds, or dates up to the hour, or up to the minute with a year of two digits:
# only as many different dates are no coincidence.
_FEWEST_DATES, _FEWEST_SHORT = 3, 10
# Fewer rows are no evidence of lost digits; this share of repeated moments is.
_FEWEST_ROWS, _REPEATED = 10, 0.1
_DATE_WIDTHS = (4, 2, 2, 2, 2, 2, 3)
_DATE_WORDS = "YYYYMMDDhhmmssfff"


@dataclass(frozen=True)
class Unit:
    """A unit of timestamps other than unix seconds.

    Attributes
    ----------
    name:
        As messages name it: ``milliseconds``.
    remedy:
        How to get unix seconds: ``divide by 1000``.
    length:
        Seconds per unit; 0 for dates written as digits.
    epoch:
        Unix seconds of the unit's zero.
    digits:
        Number of digits of a date written as digits, with a year of four; 0 for other units.
    century:
        Added to such a date if its year has two digits.
    """

    name: str
    remedy: str
    length: float = 0.0
    epoch: float = 0.0
    digits: int = 0
    century: float = 0.0

    def words(self, example: float, row: int | None = None) -> str:
        """The finding, with one of the timestamps as an example, and its row."""
        where = "" if row is None else f"; first in row {row}"
        return (
            f"timestamps like {number_text(example)} look like {self.name}; {self.remedy} ({EXPECTED}{where})"
        )

    def seconds(self, numbers: np.ndarray) -> np.ndarray:
        """Unix seconds of numbers in this unit, float64; NaN for digits that are no date."""
        if self.digits:
            return _seconds_of_dates(numbers + self.century, self.digits)
        return np.asarray(numbers, np.float64) * self.length + self.epoch


def number_text(number: float) -> str:
    """A timestamp as in a file: without an exponent, and without a fraction where there is none."""
    return f"{number:.0f}" if number == np.floor(number) and abs(number) < 1e20 else f"{number:.15g}"


_DAY = 86_400
_UNITS = (
    Unit("nanoseconds", "divide by 1000000000", 1e-9),
    Unit("microseconds", "divide by 1000000", 1e-6),
    Unit("milliseconds", "divide by 1000", 1e-3),
    Unit(".NET ticks", "subtract 621355968000000000 and divide by 10000000", 1e-7, -62_135_596_800),
    Unit("Windows file times", "subtract 116444736000000000 and divide by 10000000", 1e-7, -11_644_473_600),
    Unit("minutes", "multiply by 60", 60),
    Unit("hours", "multiply by 3600", 3600),
    # Before days: the days of 2070 and later are the Excel serials of today.
    Unit("Excel serial dates", "subtract 25569 and multiply by 86400", _DAY, -25_569 * _DAY),
    Unit("days", "multiply by 86400", _DAY),
)
_WRITE_ISO = "write ISO 8601 like 2024-01-31T10:00:00Z"
_DATES = (
    *(
        Unit(
            "years" if digits == 4 else f"dates written as digits ({_DATE_WORDS[:digits]})",
            _WRITE_ISO,
            digits=digits,
        )
        for digits in np.cumsum(_DATE_WIDTHS).tolist()
    ),
    *(
        Unit(
            f"dates written as digits ({_DATE_WORDS[2:digits]})",
            _WRITE_ISO,
            digits=digits,
            century=20 * 10.0 ** (digits - 2),
        )
        for digits in (12, 14)
    ),
)


def guess_unit(timestamps: np.ndarray) -> Unit | None:
    """Guess the unit of timestamps from their size: the one in which they lie between 2000 and 2100.

    Parameters
    ----------
    timestamps:
        Numbers ``[rows]`` in any order; those that are not finite are ignored.

    Returns
    -------
    None for unix seconds, and when no unit fits.
    """
    numbers = np.asarray(timestamps, np.float64)
    numbers = np.unique(numbers[np.isfinite(numbers)])
    if not len(numbers):
        return None
    for unit in _DATES:
        # Whole numbers of so many digits that are all dates between 2000 and 2100.
        scale = 10.0 ** (unit.digits - 4)
        # A year of two digits that begins with 0 would be fewer digits.
        first = (2010 if unit.century else 2000) * scale - unit.century
        if numbers[0] >= first and numbers[-1] < 2100 * scale - unit.century and not (numbers % 1).any():
            fewest = _FEWEST_SHORT if unit.century else _FEWEST_DATES if unit.digits == 10 else 1
            if len(numbers) >= fewest and not np.isnan(unit.seconds(numbers)).any():
                return unit
    if _plausible(numbers):
        return None
    return next((unit for unit in _UNITS if _plausible(unit.seconds(numbers))), None)


def lost_digits(timestamps: np.ndarray, repeated: float) -> str | None:
    """Recognize timestamps that were rounded to a few digits, as by a spreadsheet (1.70407E+09) or float32.

    Rounded timestamps are all multiples of one power of ten, or of two, and their steps are irregular, or
    many rows have the same moment. A history that really has a row every 100 s is regular.

    Parameters
    ----------
    timestamps:
        Numbers ``[rows]`` of at least some series.
    repeated:
        Share of the rows whose series has another row with the same timestamp.

    Returns
    -------
    The finding in words, or None.
    """
    numbers = np.asarray(timestamps, np.float64)
    moments = np.unique(numbers[np.isfinite(numbers)])
    if len(numbers) < _FEWEST_ROWS or not len(moments) or not 1e8 <= moments[0] <= moments[-1] < 9e18:
        return None
    if (moments % 1).any():
        return None
    unit = guess_unit(moments)
    second = 1 if unit is None else round(1 / unit.length) if 0 < unit.length < 1 else 0
    whole = moments.astype(np.int64)
    steps, counts = np.unique(np.diff(whole), return_counts=True)
    common = int(np.gcd.reduce(whole)) if not len(steps) else int(np.gcd.reduce(steps))
    usual = int(steps[counts.argmax()]) if len(steps) else common
    irregular = (usual != common and len(moments) >= _FEWEST_ROWS) or repeated >= _REPEATED
    for base, least, enough in ((10, 100, 10_000), (2, 128, np.inf)):
        rounded = 1
        while np.gcd(int(whole[0]), common) % (rounded * base) == 0:
            rounded *= base
        alone = not len(steps) and repeated >= 0.5 and rounded >= enough * second
        if alone or (
            second
            and len(steps)
            and rounded == common >= least * second
            and (irregular or rounded >= enough * second)
        ):
            return (
                f"timestamps like {number_text(moments[0])} are all multiples of {rounded:,}, so their last "
                "digits are lost (float32, or 1.70407E+09 in a spreadsheet); export whole numbers, as int64 "
                "or float64"
            )
    return None


def _plausible(seconds: np.ndarray) -> bool:
    return float(np.mean((seconds >= EARLIEST) & (seconds < LATEST))) >= _MOST


def _seconds_of_dates(numbers: np.ndarray, digits: int) -> np.ndarray:
    rest = np.asarray(numbers, np.int64)
    fields = []
    for end in np.cumsum(_DATE_WIDTHS).tolist():
        if end <= digits:
            field, rest = np.divmod(rest, 10 ** (digits - end))
            fields.append(field)
    return seconds_of_fields(*fields[:6])


def seconds_of_fields(
    year: np.ndarray,
    month: np.ndarray | None = None,
    day: np.ndarray | None = None,
    hour: np.ndarray | None = None,
    minute: np.ndarray | None = None,
    second: np.ndarray | None = None,
) -> np.ndarray:
    """Seconds since 1970 of dates and times (integers ``[rows]``), float64; NaN where there is no such date.

    Absent fields are the first month, the first day, and midnight. ``24:00:00`` is the end of the day.
    """
    one, nothing = np.ones_like(year), np.zeros_like(year)
    month, day = one if month is None else month, one if day is None else day
    hour, minute, second = (nothing if field is None else field for field in (hour, minute, second))
    months = (year - 1970) * 12 + month - 1
    first = months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    beyond = (months + 1).astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    valid = (month >= 1) & (month <= 12) & (day >= 1) & (day <= beyond - first)
    valid &= (minute >= 0) & (minute < 60) & (second >= 0) & (second < 60)
    valid &= (hour >= 0) & ((hour < 24) | ((hour == 24) & (minute == 0) & (second == 0)))
    seconds = (first + day - 1) * 86_400 + hour * 3600 + minute * 60 + second
    return np.where(valid, seconds, np.nan)
