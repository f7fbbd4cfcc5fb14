"""Frequencies, durations and windows: the bins that a forecaster reads and those that it forecasts."""

import math
import re
from bisect import bisect
from dataclasses import dataclass
from datetime import UTC, datetime

# Rows of the embedding table of each calendar field (contract 5).
CALENDAR_TABLE_SIZES = {"minute": 60, "hour": 24, "day_of_week": 8, "day_of_month": 32}

_DAY = 86_400
_UNITS = (("D", _DAY), ("H", 3600), ("min", 60), ("s", 1))
_UNIT_SECONDS = {unit.lower(): seconds for unit, seconds in _UNITS}
_BIN_WIDTH = re.compile(r"([1-9][0-9]{0,8})?(s|min|H|h|D|d)")
_FINEST = 10


@dataclass(frozen=True)
class Frequency:
    """A bin width of the grid.

    Attributes
    ----------
    name:
        Canonical spelling, which artifacts store, in the largest unit: ``30s``, ``5min``, ``1H``, ``1D``.
    step:
        Bin width in seconds; it divides a day.
    calendar_fields:
        The calendar fields that Kapacity's network embeds, in the order of contract 5; none for a frequency
        that it does not know.
    """

    name: str
    step: int
    calendar_fields: tuple[str, ...]

    @property
    def day(self) -> int:
        """Bins per day."""
        return _DAY // self.step

    @property
    def week(self) -> int:
        """Bins per week."""
        return 7 * _DAY // self.step

    @property
    def season(self) -> int:
        """Bins per season, which errors are scaled by: a day, or a week where a bin is a day."""
        return self.day if self.day > 1 else self.week

    @classmethod
    def parse(cls, text: str) -> "Frequency":
        """Parse a bin width that divides a day, such as ``30s``, ``5min``, ``1H`` or ``1D``.

        Every spelling of contract 2 is accepted, and lower-case ``h`` and ``d``.

        Raises
        ------
        ValueError
            When the text is not a bin width, does not divide a day, or is finer than 10 seconds.
        """
        match = _BIN_WIDTH.fullmatch(text)
        if match is None:
            raise ValueError(
                f"unknown frequency {text!r}; write a bin width that divides a day, like 30s, 1min, 5min, "
                "10min, 1H or 1D"
            )
        unit = _UNIT_SECONDS[match[2].lower()]
        step = int(match[1] or 1) * unit
        if step < _FINEST:
            raise ValueError(f"bins of {text!r} are finer than {_FINEST} s; use {_FINEST}s or 1min")
        if _DAY % step:
            near = " or ".join(_spelling(width) for width in _near_widths(step, unit))
            raise ValueError(f"bins of {text!r} do not divide a day; use {near}")
        name = _spelling(step)
        return FREQUENCIES.get(name) or cls(name, step, ())


def _spelling(step: int) -> str:
    """The canonical spelling of a bin width: in the largest unit that divides it."""
    unit, seconds = next((unit, size) for unit, size in _UNITS if step % size == 0)
    return f"{step // seconds}{unit}"


def _near_widths(step: int, unit: int) -> list[int]:
    """The whole units that divide a day next below and above a width, in seconds; one if it exceeds a day."""
    widths = [width for width in range(unit, _DAY + 1, unit) if _DAY % width == 0 and width >= _FINEST]
    above = bisect(widths, step)
    return widths[above - 1 : above + 1]


# Those of contract 2, with the calendar fields of contract 5.
FREQUENCIES = {
    frequency.name: frequency
    for frequency in (
        Frequency("1min", 60, ("minute", "hour", "day_of_week")),
        Frequency("10min", 600, ("minute", "hour", "day_of_week", "day_of_month")),
        Frequency("1H", 3600, ("hour", "day_of_week", "day_of_month")),
        Frequency("1D", _DAY, ("day_of_week", "day_of_month")),
    )
}


def canonical_frequency(text: str) -> str:
    """The canonical spelling of a frequency; raises as :meth:`Frequency.parse` does."""
    return Frequency.parse(text).name


@dataclass(frozen=True, init=False)
class Window:
    """The shape of a forecast: the bins that it is made from and the bins that it predicts.

    An *origin* is the index of the first forecast bin: the context is ``[origin - context_length, origin)``
    and the horizon is ``[origin, origin + prediction_length)``.

    Parameters
    ----------
    freq:
        Bin width, such as ``30s``, ``5min``, ``1H`` or ``1D`` (:meth:`Frequency.parse`).
    context_length, prediction_length:
        Bins of the context and of the horizon.

    Raises
    ------
    ValueError
        When the frequency is unknown, or a length is not a positive integer.
    """

    frequency: Frequency
    context_length: int
    prediction_length: int

    def __init__(self, freq: Frequency | str, context_length: int, prediction_length: int) -> None:
        for name, length in (("context_length", context_length), ("prediction_length", prediction_length)):
            if isinstance(length, bool) or not isinstance(length, int) or length < 1:
                raise ValueError(f"{name} is {length!r}; use a positive integer")
        frequency = freq if isinstance(freq, Frequency) else Frequency.parse(freq)
        object.__setattr__(self, "frequency", frequency)
        object.__setattr__(self, "context_length", context_length)
        object.__setattr__(self, "prediction_length", prediction_length)

    @property
    def length(self) -> int:
        """Bins of context and horizon together."""
        return self.context_length + self.prediction_length

    def history_length(self, lookback: "Lookback | None") -> int:
        """Bins before an origin that a network with this lookback can use."""
        return max(self.context_length, 0 if lookback is None else lookback.length(self))

    def __str__(self) -> str:
        return f"context {self.context_length} + horizon {self.prediction_length} at {self.frequency.name}"


@dataclass(frozen=True)
class Lookback:
    """The history that a network reads in addition to a window's context.

    It reads the newest bins, and the bins around the horizon one season ago, two seasons ago and so on. A
    season is a day of local time, or a week where a bin is a day.

    Attributes
    ----------
    recent:
        Newest bins before the origin.
    seasons:
        Number of seasons.
    before, after:
        Bins of each season before the time of day of the origin, and after that of the end of the horizon.
    """

    recent: int
    seasons: int
    before: int
    after: int

    def width(self, window: Window) -> int:
        """Bins that are read of each season."""
        return self.before + window.prediction_length + self.after

    def length(self, window: Window) -> int:
        """Bins before the origin that a forecast can use; fewer are allowed."""
        # After clocks were set back, the same local time was an hour longer ago.
        hour = round(3600 / window.frequency.step)
        return max(self.recent, self.seasons * window.frequency.season + self.before + hour)


_DURATION = re.compile(r"([1-9][0-9]{0,8})(min|H|h|D|d)")
# Metrics older than 1970 do not exist; those older than 2000 are rare.
_LONGEST = 20_000 * _DAY


def parse_duration(text: str) -> int:
    """Parse a duration such as ``30min``, ``48H`` or ``7D`` (contract 2); returns seconds.

    Raises
    ------
    ValueError
        When the text is not a positive integer with a unit, or the duration exceeds 20,000 days.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write a positive integer and min, H or D, like 48H")
    seconds = int(match[1]) * _UNIT_SECONDS[match[2].lower()]
    if seconds > _LONGEST:
        raise ValueError(f"{text!r} is too long; at most {_LONGEST // _DAY}D")
    return seconds


def parse_instant(text: str | int | float) -> int:
    """Parse a moment, unix seconds or ISO 8601 (UTC if no zone is given); returns unix seconds.

    Raises
    ------
    ValueError
        When it is neither, or not between 1970 and 5138 (larger numbers are milliseconds).
    """
    try:
        seconds = float(text)
    except OverflowError:
        seconds = math.inf
    except ValueError:
        try:
            moment = datetime.fromisoformat(str(text))
        except ValueError as error:
            raise ValueError(
                f"{text!r} is not a time; write unix seconds or ISO 8601, like 2026-01-31T12:00:00Z"
            ) from error
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not 0 <= seconds < 1e11:
        raise ValueError(f"{text!r} is not in unix seconds")
    return int(seconds)
