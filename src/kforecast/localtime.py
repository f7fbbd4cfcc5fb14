"""Time zones: how far clocks are ahead of UTC, for many instants at once."""

import re
from bisect import bisect_left
from datetime import datetime
from zoneinfo import ZoneInfo, available_timezones

import numpy as np

from kforecast.validation import nearest

# Between two looks at the clock it is changed at most once: no zone has ever kept an offset for less than six
# days since 1970. A change may come at any second (until 2011 one minute past midnight in Newfoundland).
_LOOK = 86_400
# In the database, but no zones: whatever this machine's is, and those whose clocks count leap seconds.
_NO_ZONES = re.compile("localtime|posixrules|Factory|right/.*|posix/.*")


def check_time_zone(name: object) -> str:
    """The name of a time zone as it was given.

    Raises
    ------
    ValueError
        When no zone has that name; the message says one that is close.
    """
    _zone(name)
    return str(name)


def utc_offsets(zone: str, timestamps: np.ndarray) -> np.ndarray:
    """Seconds that a zone's clocks are ahead of UTC (those in the east) at each instant.

    Parameters
    ----------
    zone:
        IANA name.
    timestamps:
        Unix seconds ``[time]``, in any order.

    Returns
    -------
    int32 ``[time]``.
    """
    seconds = np.asarray(timestamps, dtype=np.int64)
    if not seconds.size:
        return np.zeros(seconds.shape, dtype=np.int32)
    clock = _zone(zone)

    looks = range(int(seconds.min()), int(seconds.max()) + _LOOK, _LOOK)
    seen = [_offset(clock, second) for second in looks]
    changes, offsets = [], seen[:1]
    for look, before, after in zip(looks, seen, seen[1:], strict=False):
        if before != after:
            changes.append(_change(clock, look, before))
            offsets.append(after)
    which = np.searchsorted(np.array(changes, dtype=np.int64), seconds, side="right")
    return np.array(offsets, dtype=np.int32)[which]


def _offset(clock: ZoneInfo, second: int) -> int:
    ahead = datetime.fromtimestamp(second, clock).utcoffset()
    assert ahead is not None
    return int(ahead.total_seconds())


def _change(clock: ZoneInfo, look: int, before: int) -> int:
    """The first second after a look that has another offset than ``before``."""

    def changed(second: int) -> bool:
        return _offset(clock, second) != before

    return look + bisect_left(range(look, look + _LOOK), True, key=changed)


def _zone(name: object) -> ZoneInfo:
    if isinstance(name, str) and name and not _NO_ZONES.fullmatch(name):
        try:
            return ZoneInfo(name)
        except (KeyError, ValueError, OSError):  # unknown, no relative path, a folder such as Europe
            pass
    remedy = nearest(str(name), available_timezones()) or "; write an IANA name like Europe/Berlin"
    raise ValueError(f"{name!r} is not a time zone{remedy}")
