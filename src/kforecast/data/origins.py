"""Sets of origins, stored as runs of consecutive ones: hundreds of millions of windows in little memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Cells:
    """An ascending set of cells of a panel, stored as runs of consecutive cells.

    A cell is a bin of a series, numbered ``series * num_bins + bin``. A window is identified by the cell of
    its origin, the first bin of its horizon. The windows of a history without gaps are one run per series,
    and every gap adds one. ``len()`` is the number of cells, ``np.asarray()`` returns them all.

    Attributes
    ----------
    begin, length:
        First cell and number of cells of each run, int64 ``[runs]``.
    """

    begin: np.ndarray
    length: np.ndarray

    @classmethod
    def of_flags(
        cls, flags: np.ndarray, num_bins: int, *, first_series: int = 0, first_bin: int = 0
    ) -> "Cells":
        """The cells whose flag is true.

        Parameters
        ----------
        flags:
            bool ``[series, bins]``, for a rectangle of the panel.
        num_bins:
            Bins per series in the whole panel.
        first_series, first_bin:
            Position of the rectangle in the panel.
        """
        row, column = np.nonzero(np.diff(flags, axis=1, prepend=False, append=False))
        edge = (first_series + row.astype(np.int64)) * num_bins + first_bin + column
        return cls(edge[::2], edge[1::2] - edge[::2])

    @classmethod
    def joined(cls, parts: Sequence["Cells"]) -> "Cells":
        """The union of several sets, each of which lies after the one before it."""
        return cls(np.concatenate([part.begin for part in parts]), np.concatenate([p.length for p in parts]))

    def __len__(self) -> int:
        return int(self._before[-1])

    def __getitem__(self, position: np.ndarray) -> np.ndarray:
        """The cells at the given positions in the ascending order, int64 shaped like ``position``."""
        run = np.searchsorted(self._before, position, side="right") - 1
        found: np.ndarray = self.begin[run] + (position - self._before[run])
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[np.arange(len(self), dtype=np.int64)].astype(dtype or np.int64)

    def spread(self, most: int) -> np.ndarray:
        """At most ``most`` of the cells, evenly subsampled, int64."""
        return np.asarray(self) if len(self) <= most else self[middles(len(self), most)]

    def per_series(self, num_series: int, num_bins: int) -> np.ndarray:
        """Number of cells of each series, int64 ``[series]``."""
        counts = np.bincount(self.begin // num_bins, weights=self.length, minlength=num_series)
        return counts.astype(np.int64)

    @cached_property
    def _before(self) -> np.ndarray:
        """Number of cells before each run, and in total, int64 ``[runs + 1]``."""
        return np.concatenate([[0], np.cumsum(self.length)])


def middles(total: int, count: int) -> np.ndarray:
    """Evenly spaced indices: the middles of ``count`` equal parts of ``range(total)``, int64 ``[count]``."""
    place = np.arange(count, dtype=np.int64)
    return (2 * place + 1) * total // (2 * count)


def blocks(array: np.ndarray, most: int = 1 << 24) -> Iterator[tuple[int, np.ndarray]]:
    """Iterate over a panel's array in blocks of whole series, so that temporary arrays stay small.

    Parameters
    ----------
    array:
        ``[series, time]``.
    most:
        Maximum number of cells in a block; a longer series is a block of its own.

    Yields
    ------
    Number of the block's first series, and the rows of the block.
    """
    rows = max(1, most // max(1, array.shape[1]))
    for first in range(0, len(array), rows):
        yield first, array[first : first + rows]
