"""Time zones: offsets of local clocks from UTC, for many instants at once."""

import re
from zoneinfo import ZoneInfo, available_timezones

import numpy as np
import pandas as pd

from kforecast.validation import nearest

# Entries of the database that are not zones: the machine's own setting, and clocks that count leap seconds.
_NOT_ZONES = re.compile("localtime|posixrules|Factory|right/.*|posix/.*")
# Dates end with the year 9999, and begin with the year 1; moments beyond have the offset of the last ones.
_FIRST, _LAST = (int(np.datetime64(day, "s").astype(np.int64)) for day in ("0001-01-03", "9999-12-29"))


def check_time_zone(name: object) -> str:
    """Return the name of a time zone unchanged.

    Raises
    ------
    ValueError
        When no zone has that name; the message suggests a similar one.
    """
    _zone(name)
    return str(name)


def utc_offsets(zone: str, timestamps: np.ndarray) -> np.ndarray:
    """Offset of a zone's clocks from UTC at each instant, positive in the east.

    Parameters
    ----------
    zone:
        IANA name.
    timestamps:
        Unix seconds ``[time]``, in any order.

    Returns
    -------
    Seconds, int32 ``[time]``.
    """
    seconds = np.clip(np.asarray(timestamps, dtype=np.int64), _FIRST, _LAST)
    instants = pd.DatetimeIndex(seconds.astype("datetime64[s]"), tz="UTC")
    local = instants.tz_convert(_zone(zone)).tz_localize(None)
    return np.asarray(local.asi8 - instants.asi8, dtype=np.int32)


def _zone(name: object) -> ZoneInfo:
    if isinstance(name, str) and name and not _NOT_ZONES.fullmatch(name):
        try:
            return ZoneInfo(name)
        except (KeyError, ValueError, OSError):  # unknown, an absolute path, a folder such as Europe
            pass
    remedy = nearest(str(name), available_timezones()) or "; write an IANA name like Europe/Berlin"
    raise ValueError(f"{name!r} is not a time zone{remedy}")
