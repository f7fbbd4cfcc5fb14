"""The loss of a network and its gradient, for batch after batch.

Shape suffixes: B windows, C context bins, P horizon bins, F calendar fields.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kforecast.data.windows import WindowBatch
from kforecast.models.fcnet import Fcnet


class FlatParameters:
    """One tensor behind all parameters of a network, and one behind their gradients.

    An optimizer then has one tensor to update instead of a dozen, and processes one gradient to exchange.
    Where the network is moved to another device afterwards it goes its own way.

    Attributes
    ----------
    values:
        float32 ``[parameters]``, in the order of ``net.parameters()``, of which the network's are views.
    """

    def __init__(self, net: nn.Module) -> None:
        parameters = list(net.parameters())
        self.values = nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in parameters]))
        self.values.grad = torch.zeros_like(self.values)
        sizes = [parameter.numel() for parameter in parameters]
        parts = zip(torch.split(self.values.detach(), sizes), torch.split(self.gradient, sizes), strict=True)
        for parameter, (value, gradient) in zip(parameters, parts, strict=True):
            parameter.data, parameter.grad = value.view_as(parameter), gradient.view_as(parameter)

    @property
    def gradient(self) -> Tensor:
        """Gradient of all parameters, float32 ``[parameters]``."""
        assert self.values.grad is not None
        return self.values.grad


class Chunk:
    """Several batches of windows, one behind the other, made ready for a network at once.

    Parameters
    ----------
    batch:
        Windows of all batches.
    size:
        Windows of a batch; the last may have fewer.

    Attributes
    ----------
    context, target:
        Divided by each window's level, float32 ``[B, C]`` and ``[B, P]``.
    calendar, series:
        As in the batch.
    weight:
        How much each error counts in the loss of its batch, float32 ``[B, P]``: one part of the number of
        observed targets there, 0 where not observed.
    error:
        Forecast less target, both divided by the level, float32 ``[B, P]``; to be filled in.
    """

    def __init__(self, batch: WindowBatch, size: int) -> None:
        level = Fcnet.scale(batch.context)
        self.context, self.target = batch.context / level, batch.target / level
        self.calendar, self.series = batch.calendar, batch.series
        self.error = torch.empty_like(self.target)
        count = len(batch.context)
        self.bounds = [(begin, min(begin + size, count)) for begin in range(0, count, size)]
        self._batch = torch.arange(count, device=level.device) // size
        observed = together(self._by_batch(batch.observed.sum(dim=1, dtype=torch.float32)))
        self.weight = batch.observed / observed.clamp_min(1)[self._batch, None]

    def losses(self) -> Tensor:
        """Loss of each batch over all processes, float32 ``[batches]``: mean absolute error (contract 5).

        An unobserved target takes no part: neither in the mean nor in any gradient.
        """
        counted = (self.error.abs() * self.weight).where(self.weight > 0, 0.0)
        return together(self._by_batch(counted.sum(dim=1)))

    def _by_batch(self, values: Tensor) -> Tensor:
        return values.new_zeros(len(self.bounds)).index_add_(0, self._batch, values)


def together(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes, in place."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(value)
    return value
