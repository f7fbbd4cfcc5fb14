"""Rows of several series, and the usual step of each."""

from typing import NamedTuple

import numpy as np

_MASK = (1 << 32) - 1


class Rows(NamedTuple):
    """Rows with a value, each column ``[rows]``: number of the series, unix seconds, value (float64).

    Series and seconds have any integer type that is large enough.
    """

    series: np.ndarray
    second: np.ndarray
    value: np.ndarray

    def at(self, chosen: np.ndarray | slice) -> "Rows":
        """The chosen rows, in the order of ``chosen``."""
        return Rows(self.series[chosen], self.second[chosen], self.value[chosen])


def usual_steps(rows: Rows, begin: int, num_series: int) -> np.ndarray:
    """Usual seconds between two rows of each series: the upper median of the gaps, float64 ``[series]``.

    Parameters
    ----------
    rows:
        Rows of the series ``begin`` to ``begin + num_series - 1``, sorted by series and time, each second
        of a series once.

    Returns
    -------
    NaN for series with less than three rows.
    """
    inside = rows.series[1:] == rows.series[:-1]
    gap = np.diff(rows.second.astype(np.int64))[inside]
    return medians_of(rows.series[1:][inside], gap, begin, num_series, fewest=2)


def medians_of(
    series: np.ndarray, number: np.ndarray, begin: int, num_series: int, fewest: int
) -> np.ndarray:
    """The upper median of the numbers (0 or more) of each series, float64; NaN for less than ``fewest``.

    ``series`` is ascending, from ``begin`` on.
    """
    bounds = np.flatnonzero(np.r_[np.ones(len(series[:1]), bool), series[1:] != series[:-1]])
    count = np.diff(np.r_[bounds, len(series)])
    middle = np.minimum.reduceat(number, bounds) if len(bounds) else number
    uneven = np.flatnonzero(middle != np.maximum.reduceat(number, bounds)) if len(bounds) else bounds
    if len(uneven):
        size = count[uneven]
        inside = np.repeat(np.isin(np.arange(len(bounds)), uneven), count)
        # One sort of whole numbers is much faster than one by two columns.
        key = np.repeat(np.arange(len(uneven)) << 32, size) | np.minimum(number[inside], _MASK)
        key.sort()
        middle[uneven] = key[np.cumsum(size) - size + size // 2] & _MASK
    found = np.full(num_series, np.nan)
    found[series[bounds].astype(np.int64) - begin] = np.where(count >= fewest, middle, np.nan)
    return found
