"""ContextMLP: the part of SeasonalMLP that sees the context and the clock alone.

Shape suffixes: B windows, C context, F features, P horizon bins, Q quantiles.
"""

import numpy as np
import torch
from torch import Tensor, nn

# The least unit, as a share of the level: a flat window must not make the next small step look huge.
_LEAST_UNIT = 0.02
_LARGEST_RATIO = 50.0
# Places at which the long mask of dropout may be cut.
_MASK = 1 << 20


class LongMaskDropout(nn.Module):
    """Dropout, with a mask that is cut out of one long one: drawing it is what costs."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self._mask = torch.empty(0)

    @property
    def drawn(self) -> Tensor:
        """The mask as uint8, eight places in each: what a training that is gone on with must have kept."""
        return torch.from_numpy(np.packbits((self._mask > 0).cpu().numpy()))

    @drawn.setter
    def drawn(self, packed: Tensor) -> None:
        kept = torch.from_numpy(np.unpackbits(packed.numpy()))
        self._mask = kept.float() / (1 - self.share)

    def forward(self, h: Tensor) -> Tensor:
        """Leave out a share of the numbers, in training."""
        if not self.training or not self.share:
            return h
        if len(self._mask) < h.numel() + _MASK:
            kept = torch.rand(h.numel() + _MASK, device=h.device) >= self.share
            self._mask = kept.float() / (1 - self.share)
        self._mask = self._mask.to(h.device)
        begin = int(torch.randint(_MASK, ()))
        return h * self._mask[begin : begin + h.numel()].view_as(h)


class ContextMLP(nn.Module):
    """A residual perceptron that forecasts a window in units of its own movement.

    Knowing less it learns less by heart: on short or patchy histories it is as good as what sees past days
    and weeks, and wrong in other ways, so that both together are better than either (docs/models.md).

    Parameters
    ----------
    context_length:
        C.
    clock:
        Features of the local time.
    outputs:
        P x Q.
    hidden:
        Width of its two layers.
    dropped:
        Leaves out a share of a layer's outputs in training.
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
        # Training begins at the last value.
        for layer in (self.last, self.linear):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @staticmethod
    def prepare(context_BC: Tensor, center: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:  # noqa: N803
        """Features without weights [B, C + 1], and the window's unit as a multiple of ``scale`` [B, 1].

        Parameters
        ----------
        context_BC:
            With its gaps filled.
        center, scale:
            The last value, and what forecasts are divided by, [B, 1].
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
