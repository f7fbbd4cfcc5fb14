"""Windows as runs of consecutive origins: hundreds of millions of them in little memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Cells:
    """Windows as flat cells of a panel: ``series * num_bins + origin``, in ascending order.

    A long history without gaps has one run of windows a series, and each gap adds one; that is all that is
    kept. ``len()`` is the number of windows, ``np.asarray()`` writes them all out.

    Attributes
    ----------
    begin, length:
        First cell of each run and how many windows it has, int64 ``[runs]``.
    """

    begin: np.ndarray
    length: np.ndarray

    @classmethod
    def of_flags(
        cls, flags: np.ndarray, num_bins: int, *, first_series: int = 0, first_bin: int = 0
    ) -> "Cells":
        """Those that are flagged.

        Parameters
        ----------
        flags:
            bool ``[series, bins]``.
        num_bins:
            Bins of a series in the panel.
        first_series, first_bin:
            Where in the panel the first flag stands.
        """
        row, column = np.nonzero(np.diff(flags, axis=1, prepend=False, append=False))
        edge = (first_series + row.astype(np.int64)) * num_bins + first_bin + column
        return cls(edge[::2], edge[1::2] - edge[::2])

    @classmethod
    def joined(cls, parts: Sequence["Cells"]) -> "Cells":
        """Those of several, which lie behind each other."""
        return cls(np.concatenate([part.begin for part in parts]), np.concatenate([p.length for p in parts]))

    def __len__(self) -> int:
        return int(self._before[-1])

    def __getitem__(self, position: np.ndarray) -> np.ndarray:
        """The cells at some places in their order, int64 like ``position``."""
        run = np.searchsorted(self._before, position, side="right") - 1
        found: np.ndarray = self.begin[run] + (position - self._before[run])
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[np.arange(len(self), dtype=np.int64)].astype(dtype or np.int64)

    def spread(self, most: int) -> np.ndarray:
        """At most so many of them, spread evenly, int64."""
        return np.asarray(self) if len(self) <= most else self[middles(len(self), most)]

    def per_series(self, num_series: int, num_bins: int) -> np.ndarray:
        """How many each series has, int64 ``[series]``."""
        counts = np.bincount(self.begin // num_bins, weights=self.length, minlength=num_series)
        return counts.astype(np.int64)

    @cached_property
    def _before(self) -> np.ndarray:
        """Windows before each run, and of all, int64 ``[runs + 1]``."""
        return np.concatenate([[0], np.cumsum(self.length)])


def middles(total: int, count: int) -> np.ndarray:
    """So many places spread evenly over ``total`` ones, int64 ``[count]``."""
    place = np.arange(count, dtype=np.int64)
    return (2 * place + 1) * total // (2 * count)


def blocks(array: np.ndarray, most: int = 1 << 24) -> Iterator[tuple[int, np.ndarray]]:
    """Series by series of a panel's array, several at a time: what is made of them stays small.

    Parameters
    ----------
    array:
        ``[series, time]``.
    most:
        Cells of a block, unless one series has more.

    Yields
    ------
    The number of the block's first series, and its rows.
    """
    rows = max(1, most // max(1, array.shape[1]))
    for first in range(0, len(array), rows):
        yield first, array[first : first + rows]
