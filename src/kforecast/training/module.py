"""ForecastModule: a network, one loss, two steps and an optimizer."""

from collections.abc import Callable, Iterable

import lightning.pytorch as pl
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer

from kforecast.data.windows import WindowBatch
from kforecast.models.fcnet import Fcnet

TRAIN_LOSS = "train/loss"
VALIDATION_LOSS = "validation/loss"


class ForecastModule(pl.LightningModule):
    """Trains a network to forecast windows that are divided by their own level.

    Parameters
    ----------
    net:
        The network.
    optimizer:
        Makes the optimizer from the network's parameters.
    """

    def __init__(self, net: Fcnet, optimizer: Callable[[Iterable[Parameter]], Optimizer]) -> None:
        super().__init__()
        # No save_hyperparameters(): with a callable in it a checkpoint cannot be loaded safely.
        self.net = net
        self._make_optimizer = optimizer

    def forward(self, batch: WindowBatch) -> Tensor:
        """Forecast in the series' own units, float32 [B, P]; the batch may lie on any device."""
        batch = WindowBatch(*(tensor.to(self.device) for tensor in batch))
        scale = self.net.scale(batch.context)
        forecast: Tensor = scale * self.net(batch.context / scale, batch.calendar, batch.series)
        return forecast

    def loss(self, batch: WindowBatch) -> Tensor:
        """Mean absolute error of the scaled forecast over the observed targets (contract 5).

        An unobserved target takes no part: neither in the mean nor in any gradient.
        """
        scale = self.net.scale(batch.context)
        forecast = self.net(batch.context / scale, batch.calendar, batch.series)
        error = nn.functional.l1_loss(forecast, batch.target / scale, reduction="none")
        return error.where(batch.observed, 0.0).sum() / batch.observed.sum()

    def training_step(self, batch: WindowBatch, batch_idx: int) -> Tensor:  # noqa: ARG002
        """One step; the epoch's loss is the plain mean of its batch losses, as Kapacity's log has it."""
        loss = self.loss(batch)
        self.log(TRAIN_LOSS, loss, on_step=False, on_epoch=True, batch_size=1)
        return loss

    def validation_step(self, batch: WindowBatch, batch_idx: int) -> None:  # noqa: ARG002
        """The epoch's validation loss is the mean over all observed targets."""
        self.log(VALIDATION_LOSS, self.loss(batch), batch_size=int(batch.observed.sum()))

    def configure_optimizers(self) -> Optimizer:
        """The optimizer over all parameters."""
        return self._make_optimizer(self.parameters())
