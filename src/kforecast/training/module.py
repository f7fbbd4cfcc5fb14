"""ForecastModule: a network, its loss, the steps of Lightning's loops and an optimizer."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from kforecast.data.datamodule import ForecastDataModule
from kforecast.data.loader import share_of
from kforecast.data.windows import WindowBatch
from kforecast.following import never_below_zero
from kforecast.models import Network, rebuilt
from kforecast.predictor import first_below_zero, zero_after_zeros
from kforecast.training.finite import check_step, check_validation
from kforecast.training.gradients.automatic import Chunk, scaled
from kforecast.training.gradients.steps import Steps
from kforecast.training.resume.random_state import keep_random_state, load_random_state, set_random_state
from kforecast.training.schedule import Schedule, rate_of, steps_of
from kforecast.training.testing import scores_of_test

Optimizers = Callable[[Iterable[Parameter]], Optimizer]
_ADAM: Optimizers = partial(torch.optim.Adam, lr=0.003)
# Keys of a checkpoint.
_TRAINED, _LOSSES = "trained_weights", "epoch_losses"

TRAIN_LOSS, VALIDATION_LOSS, TEST_LOSS = "train/loss", "validation/loss", "test/loss"


class ForecastModule(pl.LightningModule):
    """Trains a network to forecast windows that are scaled by their own level.

    Parameters
    ----------
    net:
        The network, or its description in a checkpoint (:meth:`Network.description`).
    optimizer:
        Makes the optimizer of the network's parameters, which are given as one tensor.
    batch_size:
        Windows per training step, over all processes; None for that of the trainer's ForecastDataModule.
    gradient_clip_val, average_windows:
        See :class:`kforecast.training.gradients.steps.Steps`.
    schedule, schedule_epochs:
        See :mod:`kforecast.training.schedule`; without epochs it ends with the trainer's last one.
    """

    def __init__(
        self,
        net: Network | Mapping[str, Any],
        optimizer: Optimizers = _ADAM,
        batch_size: int | None = None,
        gradient_clip_val: float | None = None,
        average_windows: int | None = None,
        schedule: Schedule = "constant",
        schedule_epochs: int | None = None,
    ) -> None:
        super().__init__()
        self.net = net if isinstance(net, Network) else rebuilt(net)
        # Plain values only: weights_only=True cannot load a checkpoint that holds a callable.
        kept: dict[str, Any] = {"net": self.net.description(), "batch_size": batch_size}
        kept |= {"gradient_clip_val": gradient_clip_val, "average_windows": average_windows}
        kept |= {"schedule": schedule, "schedule_epochs": schedule_epochs}
        self.save_hyperparameters(kept, logger=False)
        self.automatic_optimization = False
        self._make_optimizer, self._schedule = optimizer, schedule
        self._seen_calendar: list[Tensor] = []
        self._losses: list[Tensor] = []  # of the epoch's batches
        self._tested: list[Tensor] = []  # forecasts of the test windows
        # From a checkpoint: the weights of the last step, and the state of the random generators.
        self._trained = torch.empty(0)
        self._random_state: dict[str, Any] = {}

    def forward(self, batch: WindowBatch) -> Tensor:
        """Forecast in the series' own units, float32 [B, P]; the batch may be on any device."""
        return self.net.forecast(batch.to(self.device)).values

    def loss(self, batch: WindowBatch) -> Tensor:
        """Mean loss of the scaled forecast over the observed targets."""
        inputs, target, counted = scaled(self.net, batch)
        lost = self.net.losses(self.net(*inputs), target)
        return lost.where(counted, 0.0).sum() / counted.sum().clamp_min(1)

    def configure_optimizers(self) -> Optimizer:
        """The optimizer of all parameters as one tensor; Lightning has moved the network to its device."""
        clip, average = self.hparams["gradient_clip_val"], self.hparams["average_windows"]
        self._steps = Steps(self.net, clip, average, self._trained)
        optimizer = self._make_optimizer([self._steps.parameters])
        self._base_rates = [group["lr"] for group in optimizer.param_groups]
        return optimizer

    def on_train_start(self) -> None:
        """Find the calendar values that the training part contains, and the number of steps."""
        if (data := self._data) is not None:
            self._seen_calendar = data.seen_calendar()
        if self._schedule != "constant":
            self._num_steps = steps_of(self.trainer, self.hparams["schedule_epochs"])

    def training_step(self, batch: WindowBatch, batch_idx: int) -> None:  # noqa: ARG002
        """Train on all batches of a loader's item; raises TrainingError when a number is not finite.

        An item holds the windows of several batches. For a small network, Lightning's loop, gathering and
        scaling take longer than a step on 64 windows; an item of some 8,000 windows pays for them once. The
        optimizer still takes one step per batch: order and results are those of one batch per item, bit for
        bit.
        """
        if self._random_state:
            set_random_state(self._random_state, self.device)
            self._random_state = {}
        data, trainer = self._data, self.trainer
        size = self.hparams["batch_size"] or (len(batch.series) if data is None else data.batch_size)
        chunk = Chunk(self.net, batch, share_of(size, trainer.global_rank, trainer.world_size))
        sums = self._steps.take(chunk, size, trainer.global_step, partial(self._step, self.optimizers()))
        if self._seen_calendar:
            self.net.settle(self._seen_calendar)
        losses = chunk.losses()
        check_step(self, chunk, batch, sums, losses)
        self._losses.append(losses)

    def _step(self, optimizer: Any, number: int) -> None:
        if self._schedule != "constant":
            rate = rate_of(number, self._num_steps, self._schedule)
            for group, base in zip(optimizer.param_groups, self._base_rates, strict=True):
                group["lr"] = base * rate
        optimizer.step()

    def on_train_epoch_end(self) -> None:
        """Log the epoch's loss: the plain mean of its batch losses, as in Kapacity's log."""
        # Lightning's own mean would omit the first part of a resumed epoch.
        self.log(TRAIN_LOSS, torch.cat([losses.to(self.device) for losses in self._losses]).mean())
        self._losses = []

    def validation_step(self, batch: WindowBatch, batch_idx: int) -> None:  # noqa: ARG002
        """Log the loss over all observed targets; raises TrainingError when it is not finite."""
        loss = self.loss(batch)
        check_validation(self, batch, loss)
        self.log(VALIDATION_LOSS, loss, batch_size=int(batch.observed.sum()), sync_dist=True)

    def test_step(self, batch: WindowBatch, batch_idx: int) -> None:  # noqa: ARG002
        """Log the loss, and keep the forecasts for the scores."""
        self.log(TEST_LOSS, self.loss(batch), batch_size=int(batch.observed.sum()))
        self._tested.append(self(batch).cpu())

    def on_test_epoch_end(self) -> None:
        """Log the scores of an evaluation of the test span: ``test/mae``, ``test/wape``, ..."""
        forecast, self._tested = torch.cat(self._tested).numpy(), []
        if (data := self._data) is not None:
            scores = scores_of_test(data, self.net, forecast)
            self.log_dict({f"test/{name}": value for name, value in scores.items()})

    def predict_step(self, batch: WindowBatch, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Forecasts in the series' own units, float32 [B, P]; at least 0 as those of the artifact."""
        forecast: Tensor = self(batch).cpu()
        if (data := self._data) is None:
            return forecast
        nonnegative = first_below_zero(data.panel) == data.panel.num_bins
        series = batch.series.cpu().numpy()
        values = never_below_zero(forecast.numpy(), nonnegative[series])
        return torch.from_numpy(zero_after_zeros(values, batch.peak().cpu().numpy()))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the weights of the last step, the epoch's losses and the state of the random generators."""
        checkpoint[_TRAINED] = self._steps.trained if hasattr(self, "_steps") else self._trained
        checkpoint[_LOSSES] = torch.cat([torch.empty(0), *(losses.cpu() for losses in self._losses)])
        keep_random_state(self.net, self.device, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore them."""
        self._trained = checkpoint[_TRAINED]
        self._losses = [losses] if len(losses := checkpoint[_LOSSES]) else []
        self._random_state = load_random_state(self.net, checkpoint)

    @property
    def _data(self) -> ForecastDataModule | None:
        data = getattr(self.trainer, "datamodule", None)
        return data if isinstance(data, ForecastDataModule) else None
