"""Calendar fields of a grid of bins."""

import numpy as np

from kforecast.window import Frequency


def calendar_fields(timestamps: np.ndarray, frequency: Frequency) -> np.ndarray:
    """Integer calendar fields in UTC, in the order the network embeds them (contract 5).

    Parameters
    ----------
    timestamps:
        Unix seconds ``[time]``.

    Returns
    -------
    int64 ``[time, field]``: minute 0..59, hour 0..23, day of week 0..6 (Monday is 0), day of month 1..31.
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
    return np.stack([fields[name] for name in frequency.calendar_fields], axis=-1)
