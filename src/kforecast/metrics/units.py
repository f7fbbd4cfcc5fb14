"""Units of numeric timestamps: unix seconds are the contract, every other unit is recognized by its size."""

from dataclasses import dataclass

import numpy as np

# The moments a history may have without further confirmation: 2000-01-01 to 2100-01-01, unix seconds.
EARLIEST, LATEST = 946_684_800, 4_102_444_800

EXPECTED = "unix seconds are expected"

# Share of the numbers that must be plausible moments in a unit.
_MOST = 0.9
# Numbers of ten digits are seconds, or dates up to the hour: only as many different dates are no coincidence.
_FEWEST_DATES = 3
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
        Number of digits of a date written as digits; 0 for other units.
    """

    name: str
    remedy: str
    length: float = 0.0
    epoch: float = 0.0
    digits: int = 0

    def words(self, example: float) -> str:
        """The finding, with one of the timestamps as an example."""
        return f"timestamps like {number_text(example)} look like {self.name}; {self.remedy} ({EXPECTED})"

    def seconds(self, numbers: np.ndarray) -> np.ndarray:
        """Unix seconds of numbers in this unit, float64; NaN for digits that are no date."""
        if self.digits:
            return _seconds_of_dates(numbers, self.digits)
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
_DATES = tuple(
    Unit(
        "years" if digits == 4 else f"dates written as digits ({_DATE_WORDS[:digits]})",
        "write ISO 8601 like 2024-01-31T10:00:00Z",
        digits=digits,
    )
    for digits in np.cumsum(_DATE_WIDTHS).tolist()
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
        if numbers[0] >= 2000 * scale and numbers[-1] < 2100 * scale and not (numbers % 1).any():
            enough = unit.digits != 10 or len(numbers) >= _FEWEST_DATES
            if enough and not np.isnan(unit.seconds(numbers)).any():
                return unit
    if _plausible(numbers):
        return None
    return next((unit for unit in _UNITS if _plausible(unit.seconds(numbers))), None)


def _plausible(seconds: np.ndarray) -> bool:
    return float(np.mean((seconds >= EARLIEST) & (seconds < LATEST))) >= _MOST


def _seconds_of_dates(numbers: np.ndarray, digits: int) -> np.ndarray:
    rest = np.asarray(numbers, np.int64)
    fields = []
    for width, end in zip(_DATE_WIDTHS, np.cumsum(_DATE_WIDTHS).tolist(), strict=True):
        if end > digits:
            break
        field, rest = np.divmod(rest, 10 ** (digits - end))
        fields.append(field)
    year, month, day, hour, minute, second, _ = [*fields, *[None] * 7][:7]
    return seconds_of_fields(year, month, day, hour, minute, second)


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
