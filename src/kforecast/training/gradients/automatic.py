"""The loss of a network and its gradient, for batch after batch.

Shape suffixes: B windows, C context bins, P horizon bins, F calendar fields.
"""

from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kforecast.data.windows import WindowBatch
from kforecast.models import Network


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
    net:
        The network.
    batch:
        Windows of all batches.
    size:
        Windows of a batch; the last may have fewer.

    Attributes
    ----------
    inputs:
        What the network takes, each ``[B, ...]``.
    target:
        Less the center and divided by the scale of each window, float32 ``[B, P]``.
    weight:
        How much each error counts in the loss of its batch, float32 ``[B, P]``: one part of the number of
        observed targets there, 0 where not observed.
    error:
        What the network loses at each target, or the same with a sign, float32 ``[B, P]``; to be filled in.
    """

    def __init__(self, net: Network, batch: WindowBatch, size: int) -> None:
        prepared = net.prepare(batch)
        self.inputs = prepared.inputs
        self.target = (batch.target - prepared.center) / prepared.scale
        counted = batch.observed if prepared.alive is None else batch.observed & prepared.alive
        self.error = torch.empty_like(self.target)
        count = len(self.target)
        self.bounds = [(begin, min(begin + size, count)) for begin in range(0, count, size)]
        self._batch = torch.arange(count, device=self.target.device) // size
        observed = together(self._by_batch(counted.sum(dim=1, dtype=torch.float32)))
        self.weight = counted / observed.clamp_min(1)[self._batch, None]

    def losses(self) -> Tensor:
        """Loss of each batch over all processes, float32 ``[batches]``: mean absolute error (contract 5).

        An unobserved target takes no part: neither in the mean nor in any gradient.
        """
        counted = (self.error.abs() * self.weight).where(self.weight > 0, 0.0)
        return together(self._by_batch(counted.sum(dim=1)))

    def _by_batch(self, values: Tensor) -> Tensor:
        return values.new_zeros(len(self.bounds)).index_add_(0, self._batch, values)


class Gradient(Protocol):
    """Takes the gradient of a network's loss."""

    def begin(self, chunk: Chunk) -> None:
        """Turn to other batches."""

    def add(self, begin: int, stop: int) -> None:
        """Fill in the errors of the windows ``[begin, stop)``, one batch, and add their gradient."""


class AutomaticGradient:
    """The gradient of any network, by automatic differentiation.

    Parameters
    ----------
    net:
        The network, whose parameters have a gradient to add to (:class:`FlatParameters`).
    """

    def __init__(self, net: Network) -> None:
        self._net = net
        self._gradients = [(parameter, parameter.grad) for parameter in net.parameters()]

    def begin(self, chunk: Chunk) -> None:
        """See :class:`Gradient`."""
        self._chunk = chunk
        # Lightning takes gradients away when it begins; new ones would not lie in the flat tensor.
        for parameter, gradient in self._gradients:
            parameter.grad = gradient

    @torch.enable_grad()
    def add(self, begin: int, stop: int) -> None:
        """See :class:`Gradient`."""
        chunk, part = self._chunk, slice(begin, stop)
        lost = self._net.losses(self._net(*(tensor[part] for tensor in chunk.inputs)), chunk.target[part])
        chunk.error[part] = lost.detach()
        (lost * chunk.weight[part]).where(chunk.weight[part] > 0, 0.0).sum().backward()  # type: ignore[no-untyped-call]


def together(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes, in place."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(value)
    return value
