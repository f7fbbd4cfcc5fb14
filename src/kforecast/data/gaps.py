"""Fills the unobserved bins of a context without looking past the origin."""

import numpy as np
import torch
from torch import Tensor

from kforecast.data.fill import FILLS, Fill
from kforecast.data.origins import Cells, blocks


class Gaps:
    """The gaps of a panel, and the values that fill them as seen from an origin.

    A cell is a bin of a series, numbered ``series * num_bins + bin``. A gap is a run of unobserved cells of
    one series. Its fill values depend on the origin, because only values before the origin may be used.

    Parameters
    ----------
    observed:
        bool ``[series, time]``.
    policy:
        ``interpolate`` (linear between the neighbours, but the last value while the gap lasts up to the
        origin), ``ffill`` (the last value) or ``zero`` (as in Kapacity's training and serving). Before the
        first value of a series, the first two policies use that first value.
    hold_newest:
        Under ``zero`` too, fill a gap that lasts up to the origin with the last value, and one that begins
        at or before the context as ``interpolate`` does.

    Raises
    ------
    ValueError
        For an unknown policy.
    """

    def __init__(self, observed: np.ndarray, policy: Fill, hold_newest: bool = False) -> None:
        if policy not in FILLS:
            raise ValueError(f"unknown fill {policy!r}; use one of {', '.join(FILLS)}")
        self.policy, self.hold_newest, self.num_bins = policy, hold_newest, observed.shape[1]
        missing = Cells.joined(
            [Cells.of_flags(~rows, self.num_bins, first_series=first) for first, rows in blocks(observed)]
        )
        self.begin = torch.from_numpy(missing.begin)
        """First cell of each gap, int64 ``[gaps]``, ascending."""
        self.end = torch.from_numpy(missing.begin + missing.length)
        """The cell after the last one of each gap, int64 ``[gaps]``."""

    def __len__(self) -> int:
        return len(self.begin)

    def to(self, device: torch.device) -> None:
        """Move to ``device``, in place."""
        self.begin, self.end = self.begin.to(device), self.end.to(device)

    def fill(self, values: Tensor, cell: Tensor, origin: Tensor, first: Tensor) -> Tensor:
        """Fill unobserved cells.

        Parameters
        ----------
        values:
            float32 ``[series * time]``, the flat values of the panel; read only where observed.
        cell, origin, first:
            int64 ``[cells]``: the unobserved cells, and for each one the cell of the origin that it is filled
            for, and the first cell of its context; the origin comes after it in the same series.

        Returns
        -------
        float32 ``[cells]``.
        """
        if self.policy == "zero" and not self.hold_newest:
            return torch.zeros(cell.shape, device=cell.device)
        gap = torch.searchsorted(self.begin, cell, right=True) - 1
        begin, end = self.begin[gap], self.end[gap]
        # Both within the series. A gap that reaches up to the origin counts as not yet ended.
        started, ended = begin % self.num_bins > 0, end < origin
        last = torch.where(started, values[(begin - 1).clamp_min(0)], 0.0)
        coming = torch.where(ended, values[end.clamp_max(len(values) - 1)], 0.0)
        filled = torch.where(started, last, coming)
        if self.policy != "ffill":
            share = (cell - begin + 1) / (end - begin + 1)
            filled = torch.where(started & ended, last + (coming - last) * share, filled)
        if self.policy == "zero":
            filled = torch.where(ended & (begin > first), 0.0, filled)
        return filled
