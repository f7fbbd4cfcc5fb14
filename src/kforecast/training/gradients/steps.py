"""Steps of the optimizer over several batches, and the average of their weights."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kforecast.models import Fcnet, Network
from kforecast.training.gradients.automatic import (
    AutomaticGradient,
    Chunk,
    FlatParameters,
    Gradient,
    together,
)
from kforecast.training.gradients.fcnet import FcnetGradient

# Until about this step the average covers half of the steps so far or less.
_SOON = 10


class Steps:
    """Takes a step for each batch of a chunk; the network then holds the average of the weights.

    Parameters
    ----------
    net:
        The network, on the device of the training.
    clip:
        Norm that gradients are clipped to; None for no clipping.
    average_windows:
        The average covers the steps of about this many windows (Polyak averaging, exponentially weighted);
        None keeps the weights of the last step.
    trained:
        Weights of the last step of an interrupted training; empty to begin with those of the network.

    Attributes
    ----------
    parameters:
        All parameters of the network as one tensor, for the optimizer.
    trained:
        The weights of the last step, float32 ``[parameters]``.
    """

    def __init__(
        self, net: Network, clip: float | None, average_windows: int | None, trained: Tensor
    ) -> None:
        self._flat = FlatParameters(net)
        self.parameters = self._flat.values
        self._gradient: Gradient = (
            FcnetGradient(net, self._flat) if isinstance(net, Fcnet) else AutomaticGradient(net)
        )
        weights = self.parameters.detach()
        self.trained = trained.to(weights.device) if len(trained) else weights.clone()
        self._clip, self._average_windows = clip, average_windows

    def take(self, chunk: Chunk, size: int, before: int, step: Callable[[int], object]) -> Tensor:
        """Take the steps.

        Parameters
        ----------
        size:
            Windows per batch, over all processes.
        before:
            Steps before this chunk.
        step:
            Takes a step with the optimizer; called with the number of steps before it.

        Returns
        -------
        The sum of each batch's gradient, float32 ``[batches]``, which is finite only if the gradient is.
        """
        share = None if self._average_windows is None else min(1.0, size / self._average_windows)
        weights, gradient = self.parameters.detach(), self._flat.gradient
        average = weights.clone()
        weights.copy_(self.trained)
        self._gradient.begin(chunk)
        sums = []
        for number, (begin, stop) in enumerate(chunk.bounds, start=before):
            gradient.zero_()
            self._gradient.add(begin, stop)
            together(gradient)
            sums.append(gradient.sum())
            if self._clip is not None:
                nn.utils.clip_grad_norm_([self.parameters], self._clip)
            step(number)
            if share is not None:
                # The first averages cover the few steps so far.
                average.lerp_(weights, max(share, _SOON / (_SOON + number + 1)))
        self.trained.copy_(weights)
        if share is not None:
            weights.copy_(average)
        return torch.stack(sums)
