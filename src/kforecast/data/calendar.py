"""Calendar fields of bins, in UTC and in the local time of each series."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from kforecast.localtime import check_time_zone, utc_offsets
from kforecast.window import Frequency

_DAY = 86_400
# The key in a mapping of time zones for all workloads that it does not name.
_DEFAULT = "default"


def calendar_fields(timestamps: np.ndarray, frequency: Frequency) -> np.ndarray:
    """Integer calendar fields in UTC, in the order in which the network embeds them (contract 5).

    Parameters
    ----------
    timestamps:
        Unix seconds ``[time]``.

    Returns
    -------
    int64 ``[time, field]``, only the fields that the frequency uses: minute 0..59, hour 0..23, day of week
    0..6 (Monday is 0), day of month 1..31.
    """
    seconds = np.asarray(timestamps, dtype=np.int64)
    days = seconds // 86_400
    date = days.astype("datetime64[D]")
    fields = {
        "minute": seconds // 60 % 60,
        "hour": seconds // 3600 % 24,
        "day_of_week": (days + 3) % 7,  # 1970-01-01 was a Thursday
        "day_of_month": (date - date.astype("datetime64[M]")).astype(np.int64) + 1,
    }
    made = np.empty((len(seconds), len(frequency.calendar_fields)), np.int64)
    for column, name in enumerate(frequency.calendar_fields):
        made[:, column] = fields[name]
    return made


class LocalTime(NamedTuple):
    """Local time and public holidays; one row per time zone."""

    offset: np.ndarray
    """int32 ``[zone, time]``: seconds that the zone is ahead of UTC."""
    second_of_day: np.ndarray
    """int32 ``[zone, time]``: local time of day, 0..86399."""
    day_of_week: np.ndarray
    """int8 ``[zone, time]``: 0..6, Monday is 0."""
    holiday: np.ndarray
    """bool ``[zone, time]``: whether the local date is a public holiday."""


@dataclass(frozen=True)
class Calendar:
    """Local time and public holidays of the series of a panel.

    Attributes
    ----------
    zones:
        Unique IANA names. The first is the zone of every workload that ``zone_of`` does not name.
    zone_of:
        Index in ``zones`` for each named workload.
    holidays:
        ISO 3166 code of a country, or of a part of it (``DE``, ``DE-BY``); None for no holidays.

    Raises
    ------
    ValueError
        When a zone or country is unknown, or the ``holidays`` package is not installed.
    """

    zones: tuple[str, ...] = ("UTC",)
    zone_of: Mapping[str, int] = field(default_factory=dict)
    holidays: str | None = None

    def __post_init__(self) -> None:
        for zone in self.zones:
            check_time_zone(zone)
        if self.holidays is not None:
            _check_country(self.holidays)

    @classmethod
    def of(cls, timezone: str | Mapping[str, str], holidays: str | None = None) -> "Calendar":
        """Build the calendar from ``data.timezone`` and ``data.holidays``.

        Parameters
        ----------
        timezone:
            The zone of all series, or a mapping from workload to zone; its key ``default`` is the zone of all
            other workloads (UTC if absent).
        holidays:
            See the attribute.

        Raises
        ------
        ValueError
            As the class, and when ``timezone`` is neither a name nor a mapping of names.
        """
        if not isinstance(timezone, Mapping):
            return cls((timezone,), holidays=holidays)
        for workload, zone in timezone.items():
            if not isinstance(workload, str):
                raise ValueError(f"{workload!r} is not the name of a workload; write it in quotes")
            try:
                check_time_zone(zone)
            except ValueError as error:
                raise ValueError(f"{workload}: {error}") from error
        default = timezone.get(_DEFAULT, "UTC")
        zones = (default, *sorted({*timezone.values()} - {default}))
        named = sorted({*timezone} - {_DEFAULT})
        return cls(zones, {workload: zones.index(timezone[workload]) for workload in named}, holidays)

    @classmethod
    def from_dict(cls, content: Any) -> "Calendar":
        """Rebuild a calendar from :meth:`as_dict`, read from an untrusted file.

        Raises
        ------
        ValueError
            As :meth:`of`, and when the content has any other shape.
        """
        if not isinstance(content, dict) or set(content) != {"timezone", "holidays"}:
            raise ValueError("a calendar is a mapping of timezone and holidays, nothing else")
        return cls.of(content["timezone"], content["holidays"])

    def as_dict(self) -> dict[str, Any]:
        """The calendar as plain values: ``timezone`` and ``holidays`` as in a configuration."""
        timezone: str | dict[str, str] = self.zones[0]
        if self.zone_of:
            timezone = {_DEFAULT: self.zones[0]}
            timezone |= {workload: self.zones[number] for workload, number in self.zone_of.items()}
        return {"timezone": timezone, "holidays": self.holidays}

    def zone_numbers(self, series: Sequence[tuple[str, str]]) -> np.ndarray:
        """Index of the zone of each ``(workload, metric)``, int64 ``[series]``: its row in :meth:`local`."""
        return np.array([self.zone_of.get(workload, 0) for workload, _ in series], dtype=np.int64)

    def local(self, timestamps: np.ndarray) -> LocalTime:
        """Local time in every zone at the given unix seconds, ``[time]`` in any order."""
        seconds = np.asarray(timestamps, dtype=np.int64)
        shape = (len(self.zones), *seconds.shape)
        made = LocalTime(*(np.zeros(shape, dtype) for dtype in (np.int32, np.int32, np.int8, np.bool_)))
        for number, zone in enumerate(self.zones):
            offset = utc_offsets(zone, seconds)
            day, second_of_day = np.divmod(seconds + offset, _DAY)
            made.offset[number], made.second_of_day[number] = offset, second_of_day
            made.day_of_week[number] = (day + 3) % 7  # 1970-01-01 was a Thursday
            if self.holidays is not None and day.size:
                made.holiday[number] = _are_holidays(self.holidays, day)
        return made


def _are_holidays(country: str, days: np.ndarray) -> np.ndarray:
    """Which days (numbered from 1970-01-01) are public holidays; bool ``[time]``."""
    first, last = int(days.min()), int(days.max())
    years = np.array([first, last], dtype="datetime64[D]").astype("datetime64[Y]").astype(int) + 1970
    known = [_days_of_year(country, year) for year in range(years[0], years[1] + 1)]
    return np.isin(days, np.concatenate(known))


@lru_cache(maxsize=1024)
def _days_of_year(country: str, year: int) -> np.ndarray:
    """The public holidays of a year, as days since 1970-01-01; int64 ``[holiday]``."""
    from holidays import country_holidays

    code, _, part = country.partition("-")
    dates = list(country_holidays(code, subdiv=part or None, years=year))
    return np.array(dates, dtype="datetime64[D]").astype(np.int64)


def _check_country(country: object) -> None:
    found = re.fullmatch(r"([A-Z]{2})(?:-(\w+))?", country) if isinstance(country, str) else None
    # The example NO is quoted, because YAML reads a bare NO as false.
    unknown = f"{country!r} is not a country with known holidays; use an ISO code like DE, DE-BY or 'NO'"
    if found is None:
        raise ValueError(unknown)
    try:
        from holidays import country_holidays
    except ImportError as error:
        raise ValueError(f"holidays ({country}) need a package: pip install 'kforecast[holidays]'") from error
    try:
        parts = country_holidays(found[1]).subdivisions
    except NotImplementedError as error:
        raise ValueError(unknown) from error
    if found[2] and found[2] not in parts:
        known = f"; write {found[1]} or one of {', '.join(parts)}" if parts else f"; write {found[1]}"
        raise ValueError(f"{country!r}: {found[1]} has no part {found[2]!r}{known}")
