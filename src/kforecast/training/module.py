"""ForecastModule: a network, one loss, two steps and an optimizer."""

from collections.abc import Callable, Iterable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer

from kforecast.data.windows import WindowBatch, share_of
from kforecast.models.fcnet import Fcnet
from kforecast.training.fcnet_gradient import FcnetGradient
from kforecast.training.gradient import Chunk, FlatParameters, together

# How many steps it takes until an average may be longer than half of the steps there were.
_SOON = 10
_TRAINED = "trained_weights"

TRAIN_LOSS = "train/loss"
VALIDATION_LOSS = "validation/loss"


class ForecastModule(pl.LightningModule):
    """Trains a network to forecast windows that are divided by their own level.

    Parameters
    ----------
    net:
        The network.
    optimizer:
        Makes the optimizer from the network's parameters, which it gets as one tensor.
    batch_size:
        Windows a training step, over all processes.
    gradient_clip_val:
        Norm that a step's gradient is cut to; None for none.
    average_windows:
        Outside of a training step the network holds an average of the weights over the steps of about so many
        windows (Polyak averaging, exponentially weighted): what is validated, saved and served; None for the
        weights of the last step.
    """

    def __init__(
        self,
        net: Fcnet,
        optimizer: Callable[[Iterable[Parameter]], Optimizer],
        batch_size: int,
        gradient_clip_val: float | None = None,
        average_windows: int | None = None,
    ) -> None:
        super().__init__()
        # No save_hyperparameters(): with a callable in it a checkpoint cannot be loaded safely.
        self.net = net
        self.batch_size, self.gradient_clip_val = batch_size, gradient_clip_val
        self._share = None if average_windows is None else min(1.0, batch_size / average_windows)
        # The weights that training goes on with, flat; the network has them only while it trains.
        self._trained = torch.empty(0)
        self._make_optimizer = optimizer
        # One step of Lightning's loop takes several batches, a step of the optimizer for each.
        self.automatic_optimization = False

    def forward(self, batch: WindowBatch) -> Tensor:
        """Forecast in the series' own units, float32 [B, P]; the batch may lie on any device."""
        batch = WindowBatch(*(tensor.to(self.device) for tensor in batch))
        scale = self.net.scale(batch.context)
        forecast: Tensor = scale * self.net(batch.context / scale, batch.calendar, batch.series)
        return forecast

    def loss(self, batch: WindowBatch) -> Tensor:
        """Mean absolute error of the scaled forecast over the observed targets (contract 5).

        An unobserved target takes no part: neither in the mean nor in any gradient. Training takes the same
        gradient by :class:`kforecast.training.fcnet_gradient.FcnetGradient`.
        """
        scale = self.net.scale(batch.context)
        forecast = self.net(batch.context / scale, batch.calendar, batch.series)
        error = nn.functional.l1_loss(forecast, batch.target / scale, reduction="none")
        return error.where(batch.observed, 0.0).sum() / batch.observed.sum().clamp_min(1)

    def training_step(self, batch: WindowBatch, batch_idx: int) -> None:  # noqa: ARG002
        """Train on one batch after the other.

        The epoch's loss is the plain mean of its batch losses, as Kapacity's log has it.
        """
        trainer = self.trainer
        chunk = Chunk(batch, share_of(self.batch_size, trainer.global_rank, trainer.world_size))
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        weights, gradient = self._flat.values.detach(), self._flat.gradient
        # Between steps the network holds the average.
        average = weights.clone()
        weights.copy_(self._trained)
        self._gradient.begin(chunk)
        for begin, stop in chunk.bounds:
            gradient.zero_()
            self._gradient.add(begin, stop)
            together(gradient)
            if self.gradient_clip_val is not None:
                nn.utils.clip_grad_norm_([self._flat.values], self.gradient_clip_val)
            optimizer.step()
            if self._share is not None:
                # In the beginning the average is over what there is.
                average.lerp_(weights, max(self._share, _SOON / (_SOON + trainer.global_step)))
        self._trained.copy_(weights)
        if self._share is not None:
            weights.copy_(average)
        losses = chunk.losses()
        self.log(TRAIN_LOSS, losses.mean(), on_step=False, on_epoch=True, batch_size=len(losses))

    def validation_step(self, batch: WindowBatch, batch_idx: int) -> None:  # noqa: ARG002
        """The epoch's validation loss is the mean over all observed targets."""
        self.log(VALIDATION_LOSS, self.loss(batch), batch_size=int(batch.observed.sum()), sync_dist=True)

    def configure_optimizers(self) -> Optimizer:
        """The optimizer over all parameters."""
        # Here the network is where it will be trained.
        self._flat = FlatParameters(self.net)
        self._gradient = FcnetGradient(self.net, self._flat)
        weights = self._flat.values.detach()
        self._trained = self._trained.to(weights.device) if len(self._trained) else weights.clone()
        return self._make_optimizer([self._flat.values])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the weights that training goes on with beside those that are served."""
        checkpoint[_TRAINED] = self._trained

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with them."""
        self._trained = checkpoint[_TRAINED]
