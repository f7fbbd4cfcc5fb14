"""ContextMLP: the part of SeasonalMLP that sees only the context and the local time.

Shape suffixes: B windows, C context, F features, P horizon bins, Q quantiles.
"""

import numpy as np
import torch
from torch import Tensor, nn

# Smallest unit as a share of the level: after a flat window, a small step must not look huge.
_LEAST_UNIT = 0.02
_LARGEST_RATIO = 50.0
# Number of positions at which the long dropout mask can be cut.
_MASK = 1 << 20


class LongMaskDropout(nn.Module):
    """Dropout whose masks are cut from one long mask, because drawing a mask is expensive."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self._mask = torch.empty(0)

    @property
    def drawn(self) -> Tensor:
        """The long mask packed into uint8, eight entries each; a resumed training needs it."""
        return torch.from_numpy(np.packbits((self._mask > 0).cpu().numpy()))

    @drawn.setter
    def drawn(self, packed: Tensor) -> None:
        kept = torch.from_numpy(np.unpackbits(packed.numpy()))
        self._mask = kept.float() / (1 - self.share)

    def forward(self, h: Tensor) -> Tensor:
        """Zero a share of the values and rescale the others; in training only."""
        if not self.training or not self.share:
            return h
        if len(self._mask) < h.numel() + _MASK:
            kept = torch.rand(h.numel() + _MASK, device=h.device) >= self.share
            self._mask = kept.float() / (1 - self.share)
        self._mask = self._mask.to(h.device)
        begin = int(torch.randint(_MASK, ()))
        return h * self._mask[begin : begin + h.numel()].view_as(h)


class ContextMLP(nn.Module):
    """A residual MLP that forecasts a window in units of the window's own movement.

    It sees less and therefore memorises less. On short or patchy histories it is as good as the networks that
    see past days and weeks, but its errors differ, so that both together are better than either alone
    (docs/models.md).

    Parameters
    ----------
    context_length:
        C.
    clock:
        Number of features of the local time.
    outputs:
        P x Q.
    hidden:
        Width of its two layers.
    dropped:
        The dropout of layer outputs.
    """

    def __init__(
        self, context_length: int, clock: int, outputs: int, hidden: int, dropped: LongMaskDropout
    ) -> None:
        super().__init__()
        inputs = context_length + 1 + clock
        self.first = nn.Linear(inputs, hidden)
        self.layers = nn.ModuleList([nn.Linear(hidden, hidden) for _ in range(2)])
        self.last, self.linear = nn.Linear(hidden, outputs), nn.Linear(inputs, outputs)
        self.dropped = dropped
        # With zeros, training starts from the last-value forecast.
        for layer in (self.last, self.linear):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @staticmethod
    def prepare(context_BC: Tensor, center: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:  # noqa: N803
        """The features [B, C + 1], and the window's unit as a multiple of ``scale`` [B, 1]; no weights.

        Parameters
        ----------
        context_BC:
            The context with its gaps filled.
        center, scale:
            The last value, and the divisor of forecasts, [B, 1].
        """
        difference = context_BC - center
        level = context_BC.abs().mean(dim=1, keepdim=True)
        unit = difference.abs().mean(dim=1, keepdim=True) + _LEAST_UNIT * level
        alive = unit > 0
        shape = (difference / unit.where(alive, 1.0)).where(alive, 0.0)
        steepness = (unit / level.clamp_min(1e-30)).clamp(1e-3, _LARGEST_RATIO).log()
        return torch.cat([shape, steepness], dim=1), (unit / scale).clamp_max(_LARGEST_RATIO)

    def forward(self, features_BF: Tensor) -> Tensor:  # noqa: N803
        """Quantiles of the correction in the window's own unit, float32 [B, P x Q]."""
        h = self.dropped(self.first(features_BF).relu())
        for layer in self.layers:
            h = h + self.dropped(layer(h).relu())
        made: Tensor = self.last(h) + self.linear(features_BF)
        return made
