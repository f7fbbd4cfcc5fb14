"""Filling unobserved bins of a context without looking past the origin."""

import numpy as np
import torch
from torch import Tensor

from kforecast.data.fill import FILLS, Fill
from kforecast.data.origins import Cells, blocks


class Gaps:
    """The gaps of a panel, and what stands in them for an origin that knows nothing after itself.

    Parameters
    ----------
    observed:
        bool ``[series, time]``.
    policy:
        ``interpolate`` (linear between the neighbours; the last value where a gap has not ended before
        the origin), ``ffill`` (the last value) or ``zero`` (as Kapacity's training and serving do). Before
        a series' first value the first two take that first value, zero takes 0.

    Raises
    ------
    ValueError
        For an unknown policy.
    """

    def __init__(self, observed: np.ndarray, policy: Fill) -> None:
        if policy not in FILLS:
            raise ValueError(f"unknown fill {policy!r}; use one of {', '.join(FILLS)}")
        self.policy, self.num_bins = policy, observed.shape[1]
        missing = Cells.joined(
            [Cells.of_flags(~rows, self.num_bins, first_series=first) for first, rows in blocks(observed)]
        )
        self.begin = torch.from_numpy(missing.begin)
        """Flat cell of each gap's first bin, int64 ``[gaps]``, ascending."""
        self.end = torch.from_numpy(missing.begin + missing.length)
        """Flat cell behind its last."""

    def __len__(self) -> int:
        return len(self.begin)

    def to(self, device: torch.device) -> None:
        """Move to ``device``, in place."""
        self.begin, self.end = self.begin.to(device), self.end.to(device)

    def fill(self, values: Tensor, cell: Tensor, origin: Tensor) -> Tensor:
        """What stands at unobserved cells.

        Parameters
        ----------
        values:
            float32 of every cell of the panel, flat; read only where observed.
        cell, origin:
            int64 ``[cells]``: unobserved cells, each before the origin (as a cell) it is filled for.

        Returns
        -------
        float32 ``[cells]``.
        """
        if self.policy == "zero":
            return torch.zeros(cell.shape, device=cell.device)
        gap = torch.searchsorted(self.begin, cell, right=True) - 1
        begin, end = self.begin[gap], self.end[gap]
        # Within its series: what ends right before the origin is not known to have ended.
        started, ended = begin % self.num_bins > 0, end < origin
        last = torch.where(started, values[(begin - 1).clamp_min(0)], 0.0)
        coming = torch.where(ended, values[end.clamp_max(len(values) - 1)], 0.0)
        filled = torch.where(started, last, coming)
        if self.policy == "interpolate":
            share = (cell - begin + 1) / (end - begin + 1)
            filled = torch.where(started & ended, last + (coming - last) * share, filled)
        return filled
