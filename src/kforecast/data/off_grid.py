"""Finds histories with one row a bin whose rows stand off the grid, such as days of another time zone."""

import logging
from collections import Counter
from collections.abc import Sequence

import numpy as np

from kforecast.data.grid import Grid
from kforecast.data.rows import Rows, usual_steps
from kforecast.errors import DataError, few
from kforecast.window import Frequency

log = logging.getLogger(__name__)

_DAY = 86_400
# Offsets of time zones are whole quarters of an hour, and clocks change by an hour.
_QUARTER, _CHANGE = 900, 3600
# Nearly all rows of a series stand alike. Rows off the grid are not a few strays.
_NEARLY_ALL, _SOME = 0.95, 0.02
# Rows of a series that are enough to recognise its time zone: more than a year of days.
_MOST = 2000
# The examples that are tried for a remedy.
_ZONES = (
    *("Europe/Berlin", "Europe/London", "Europe/Athens", "Europe/Moscow", "Asia/Kolkata", "America/New_York"),
    *("America/Chicago", "America/Denver", "America/Los_Angeles", "America/Halifax", "America/Sao_Paulo"),
    *("America/St_Johns", "America/Anchorage", "Asia/Kathmandu", "Asia/Shanghai"),
    *("Asia/Tokyo", "Asia/Dubai", "Asia/Karachi", "Asia/Dhaka", "Asia/Yangon", "Asia/Bangkok"),
    *("Asia/Tehran", "Australia/Sydney", "Australia/Adelaide", "Australia/Brisbane", "Australia/Darwin"),
    *("Australia/Lord_Howe", "Pacific/Auckland", "Pacific/Honolulu", "Africa/Cairo", "Africa/Casablanca"),
    *("Africa/Lagos", "Africa/Johannesburg", "America/Bogota", "America/Phoenix"),
)


class OffGrid:
    """Collects series with one row a bin, nearly all at the same time after their bins begin.

    Attributes
    ----------
    local:
        Series numbers whose rows are whole quarters of an hour off: another time zone's days or hours.
    late:
        Series numbers with any other time, and that time in seconds.
    """

    def __init__(self) -> None:
        self.local: list[int] = []
        self.late: dict[int, int] = {}
        self._seconds = np.zeros(0, np.int64)

    def look_at(self, rows: Rows, number: np.ndarray, begin: int, step: np.ndarray, grid: Grid) -> None:
        """Look at rows that are sorted by series and time.

        Parameters
        ----------
        number:
            The bin of each row.
        begin, step:
            Number of the first series, and the usual step of each series from it on.
        """
        once = np.abs(step - grid.step) <= grid.step / 100
        if grid.step < _QUARTER or not once.any():
            return
        series = rows.series.astype(np.int64) - begin
        chosen = once[series]
        series, second = series[chosen], rows.second[chosen].astype(np.int64)
        late = second - grid.seconds(number[chosen])
        count = np.bincount(series, minlength=len(step))
        usual = np.zeros(len(step), np.int64)
        usual[once] = late[(np.cumsum(count) - count + count // 2)[once]]
        apart = np.abs(late - usual[series])
        apart = np.minimum(apart, grid.step - apart)
        alike = (apart == 0) | ((apart == _CHANGE) & (grid.step > _CHANGE))

        def share(rows_with: np.ndarray) -> np.ndarray:
            return np.bincount(series, rows_with, len(step)) / np.maximum(count, 1)

        off = (share(late > 0) >= _SOME) & once
        local = off & (share(alike & (late % _QUARTER == 0)) >= _NEARLY_ALL)
        same = off & ~local & (usual > 0) & (share(apart == 0) >= _NEARLY_ALL)
        found = np.flatnonzero(local)
        if len(found) and not self.local:
            self._seconds = second[series == found[0]][-_MOST:]
        self.local += (found + begin).tolist()
        self.late |= {int(each) + begin: int(usual[each]) for each in np.flatnonzero(same)}

    def report(self, series: Sequence[tuple[str, str]], frequency: Frequency, grid: Grid) -> None:
        """Refuse a history of another time zone's days or hours; warn about other times.

        Parameters
        ----------
        series:
            ``(workload, metric)`` by number.

        Raises
        ------
        DataError
            Naming the series, the time and the remedy.
        """
        if self.local:
            names = few([" ".join(series[number]) for number in self.local])
            raise DataError(f"{names}: {_explained(self._seconds, frequency, grid)}")
        if self.late:
            late = next(iter(self.late.values()))
            log.warning(
                "%s: %s",
                few([" ".join(series[number]) for number in self.late]),
                _late_words(late, frequency),
            )


def off_grid_words(rows: Rows, frequency: Frequency, grid: Grid, begin: int, stop: int) -> dict[int, str]:
    """What is wrong with series whose rows stand off the grid, by number.

    Parameters
    ----------
    rows:
        Rows of the series ``begin`` to ``stop - 1``, sorted by series and time, each second of a series once.
    """
    found = OffGrid()
    found.look_at(rows, grid.bins(rows.second), begin, usual_steps(rows, begin, stop - begin), grid)
    words = {number: _late_words(late, frequency) for number, late in found.late.items()}
    # Series share their moments, so that a time zone is looked for once.
    explained: dict[bytes, str] = {}
    for number in found.local:
        of_series = slice(*np.searchsorted(rows.series, [number, number + 1]))
        seconds = rows.second[of_series].astype(np.int64)[-_MOST:]
        key = seconds.tobytes()
        if key not in explained:
            explained[key] = _explained(seconds, frequency, grid)
        words[number] = explained[key]
    return words


def _late_words(late: int, frequency: Frequency) -> str:
    return (
        f"rows come {_clock_time(late)} after bins of {frequency.name} begin; each counts in the bin that "
        "holds it"
    )


def _explained(seconds: np.ndarray, frequency: Frequency, grid: Grid) -> str:
    """Where the rows of a series stand, and the remedy."""
    daily = grid.step == _DAY
    what = "days" if daily else "bins"
    if not grid.is_utc and np.mean(seconds % grid.step == 0) >= _NEARLY_ALL:
        return (
            f"rows come where bins of {frequency.name} begin in UTC, but those of {grid.zone} begin at other "
            f"moments; leave out data.timezone, or give rows of local {what}, or finer ones"
        )
    times = Counter((seconds % grid.step).tolist()).most_common(2)
    # A second time that is rare is a stray, not the other half of a year.
    shown = [time for time, count in times if count >= _SOME * len(seconds)]
    places = " and ".join(_clock_time(time) for time in sorted(shown))
    bins = f"bins of {frequency.name}" + ("" if grid.is_utc else f" in {grid.zone}")
    if daily:
        begins = sorted({int(time) for time in grid.seconds(grid.bins(seconds)) % _DAY})
        seen = f"rows come at {places} UTC, but {bins} begin at "
        seen += " and ".join(_clock_time(time) for time in begins) + " UTC"
    else:
        seen = f"rows come {places} after whole {frequency.name} in UTC, where {bins} do not begin"
    what, zone = ("days" if daily else "hours"), _fitting_zone(seconds, grid.step)
    remedy = f"data.timezone={zone} (an IANA name)" if zone else "data.timezone=... (an IANA name)"
    return (
        f"{seen}; are these local {what}? Train with {remedy} and model=auto; if not, give each row the time "
        "at which its bin begins"
    )


def _fitting_zone(seconds: np.ndarray, step: int) -> str | None:
    """A time zone whose bins begin at these moments."""
    for zone in _ZONES:
        grid = Grid(step, zone)
        if np.mean(grid.seconds(grid.bins(seconds)) == seconds) >= _NEARLY_ALL:
            return zone
    return None


def _clock_time(seconds: int) -> str:
    minutes, second = divmod(seconds, 60)
    return f"{minutes // 60:02}:{minutes % 60:02}" + (f":{second:02}" if second else "")
