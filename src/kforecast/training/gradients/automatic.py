"""The loss of a network and its gradient, for several batches at once.

Shape suffixes: B windows, C context bins, P horizon bins, F calendar fields.
"""

from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kforecast.data.windows import WindowBatch
from kforecast.models import Network


class FlatParameters:
    """One tensor for all parameters of a network, and one for their gradients.

    The optimizer then updates one tensor instead of a dozen, and processes exchange one gradient. Moving the
    network to another device afterwards breaks the connection.

    Attributes
    ----------
    values:
        float32 ``[parameters]``, in the order of ``net.parameters()``; the network's parameters are views of
        it.
    """

    def __init__(self, net: nn.Module) -> None:
        parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
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


def scaled(net: Network, batch: WindowBatch) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
    """Prepare windows for a network.

    Returns
    -------
    The network's inputs, each ``[B, ...]``; the scaled targets, float32 ``[B, P]``; which of them count in
    the loss, bool ``[B, P]``.
    """
    prepared = net.prepare(batch)
    target = (batch.target - prepared.center) / prepared.scale
    counted = batch.observed if prepared.alive is None else batch.observed & prepared.alive
    return prepared.inputs, target, counted


class Chunk:
    """Several batches of windows, prepared for a network together.

    Parameters
    ----------
    net:
        The network.
    batch:
        The windows of all batches.
    size:
        Windows per batch; the last batch may have fewer.

    Attributes
    ----------
    inputs, target:
        See :func:`scaled`.
    weight:
        Weight of each error in the loss of its batch, float32 ``[B, P]``: one divided by the number of
        counted targets of the batch; 0 where not counted.
    error:
        The network's loss at each target, possibly with a sign, float32 ``[B, P]``; filled in by a
        :class:`Gradient`.
    """

    def __init__(self, net: Network, batch: WindowBatch, size: int) -> None:
        self.inputs, self.target, counted = scaled(net, batch)
        self.error = torch.empty_like(self.target)
        count = len(self.target)
        self.bounds = [(begin, min(begin + size, count)) for begin in range(0, count, size)]
        self._batch = torch.arange(count, device=self.target.device) // size
        observed = together(self._by_batch(counted.sum(dim=1, dtype=torch.float32)))
        self.weight = counted / observed.clamp_min(1)[self._batch, None]

    def losses(self) -> Tensor:
        """Loss of each batch over all processes, float32 ``[batches]``: mean absolute error (contract 5)."""
        counted = (self.error.abs() * self.weight).where(self.weight > 0, 0.0)
        return together(self._by_batch(counted.sum(dim=1)))

    def _by_batch(self, values: Tensor) -> Tensor:
        return values.new_zeros(len(self.bounds)).index_add_(0, self._batch, values)


class Gradient(Protocol):
    """Computes the gradient of a network's loss."""

    def begin(self, chunk: Chunk) -> None:
        """Select the batches."""

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
        # Lightning sets gradients to None when training begins; new ones would not be in the flat tensor.
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
