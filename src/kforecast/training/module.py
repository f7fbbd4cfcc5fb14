"""ForecastModule: a network, one loss, two steps and an optimizer."""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from kforecast.data.datamodule import ForecastDataModule
from kforecast.data.loader import BatchOrder, ResumableLoader, share_of
from kforecast.data.windows import WindowBatch
from kforecast.errors import TrainingError
from kforecast.models import Fcnet, Network
from kforecast.models.context_mlp import LongMaskDropout
from kforecast.training.gradients.automatic import (
    AutomaticGradient,
    Chunk,
    FlatParameters,
    Gradient,
    together,
)
from kforecast.training.gradients.fcnet import FcnetGradient

# How many steps it takes until an average may be longer than half of the steps there were.
_SOON = 10
# Keys of a checkpoint.
_TRAINED, _LOSSES, _RANDOM, _MASKS = "trained_weights", "epoch_losses", "random_state", "masks"
# Steps in which a schedule that ends at nothing begins gently.
_WARM_UP = 100

Schedule = Literal["constant", "cosine"]

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
    schedule:
        ``constant``, or ``cosine``: after a short warm-up the learning rate goes down to nothing along half a
        cosine (Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983).
    schedule_epochs:
        When it gets there; None: when the trainer ends at the latest.
    """

    def __init__(
        self,
        net: Network,
        optimizer: Callable[[Iterable[Parameter]], Optimizer],
        batch_size: int,
        gradient_clip_val: float | None = None,
        average_windows: int | None = None,
        schedule: Schedule = "constant",
        schedule_epochs: int | None = None,
    ) -> None:
        super().__init__()
        # No save_hyperparameters(): with a callable in it a checkpoint cannot be loaded safely.
        self.net = net
        self.batch_size, self.gradient_clip_val = batch_size, gradient_clip_val
        self._share = None if average_windows is None else min(1.0, batch_size / average_windows)
        # The weights that training goes on with, flat; the network has them only while it trains.
        self._trained = torch.empty(0)
        self._make_optimizer = optimizer
        self._seen: list[Tensor] = []
        self._losses: list[Tensor] = []
        self._random_state: dict[str, Any] = {}
        self._schedule, self.schedule_epochs = schedule, schedule_epochs
        # One step of Lightning's loop takes several batches, a step of the optimizer for each.
        self.automatic_optimization = False

    def forward(self, batch: WindowBatch) -> Tensor:
        """Forecast in the series' own units, float32 [B, P]; the batch may lie on any device."""
        return self.net.forecast(batch.to(self.device)).values

    def loss(self, batch: WindowBatch) -> Tensor:
        """Mean loss of the scaled forecast over the observed targets.

        An unobserved target takes no part: neither in the mean nor in any gradient. Training takes the same
        gradient batch by batch (:mod:`kforecast.training.gradients.automatic`).
        """
        prepared = self.net.prepare(batch)
        target = (batch.target - prepared.center) / prepared.scale
        lost = self.net.losses(self.net(*prepared.inputs), target)
        counted = batch.observed if prepared.alive is None else batch.observed & prepared.alive
        return lost.where(counted, 0.0).sum() / counted.sum().clamp_min(1)

    def training_step(self, batch: WindowBatch, batch_idx: int) -> None:  # noqa: ARG002
        """Train on one batch after the other.

        Raises
        ------
        TrainingError
            When a loss or a gradient is not a finite number.
        """
        trainer = self.trainer
        self._restore_random_state()
        chunk = Chunk(self.net, batch, share_of(self.batch_size, trainer.global_rank, trainer.world_size))
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        weights, gradient = self._flat.values.detach(), self._flat.gradient
        # Between steps the network holds the average.
        average = weights.clone()
        weights.copy_(self._trained)
        self._gradient.begin(chunk)
        sums = []
        for begin, stop in chunk.bounds:
            gradient.zero_()
            self._gradient.add(begin, stop)
            together(gradient)
            sums.append(gradient.sum())
            if self.gradient_clip_val is not None:
                nn.utils.clip_grad_norm_([self._flat.values], self.gradient_clip_val)
            self._set_rate(optimizer)
            optimizer.step()
            if self._share is not None:
                # In the beginning the average is over what there is.
                average.lerp_(weights, max(self._share, _SOON / (_SOON + trainer.global_step)))
        self._trained.copy_(weights)
        if self._share is not None:
            weights.copy_(average)
        if self._seen:
            self.net.settle(self._seen)
        losses = chunk.losses()
        self._check_finite(chunk, torch.stack(sums), losses)
        self._losses.append(losses)

    def on_train_epoch_end(self) -> None:
        """Log the epoch's loss: the plain mean of its batch losses, as Kapacity's log has it."""
        # Kept here and not by Lightning, which forgets the first part of an epoch that is gone on with.
        self.log(TRAIN_LOSS, torch.cat([losses.to(self.device) for losses in self._losses]).mean())
        self._losses = []

    def _check_finite(self, chunk: Chunk, sums: Tensor, losses: Tensor) -> None:
        """Find the first step whose loss or gradient is no finite number, and the window to blame."""
        finite = sums.isfinite() & losses.isfinite()
        if finite.all():
            return
        number = int((~finite).nonzero()[0])
        begin, stop = chunk.bounds[number]
        error = (chunk.error[begin:stop] * chunk.weight[begin:stop]).where(chunk.weight[begin:stop] > 0, 0.0)
        worst = begin + int(error.abs().nan_to_num(torch.inf, torch.inf).amax(dim=1).argmax())
        what = "gradient" if losses[number].isfinite() else "loss"
        step = self.trainer.global_step - len(losses) + number + 1
        loader = self.trainer.train_dataloader
        cells = None
        if isinstance(loader, ResumableLoader):
            cells = loader.sampler.nth(loader.state_dict()["handed_out"] - 1)
        where = self._title(cells, worst)
        raise TrainingError(f"the {what} of step {step} (epoch {self.current_epoch + 1}) is no number{where}")

    def _title(self, cells: Tensor | None, number: int) -> str:
        data = getattr(self.trainer, "datamodule", None)
        if cells is None or not isinstance(data, ForecastDataModule):
            return ""
        return f"; first to blame: {data.title(int(cells[number]))}"

    def _set_rate(self, optimizer: LightningOptimizer) -> None:
        if self._schedule == "constant":
            return
        step = self.trainer.global_step
        rate = 0.5 + 0.5 * math.cos(math.pi * min(step / self._num_steps, 1.0))
        for group, base in zip(optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = base * rate * min(1.0, (step + 1) / _WARM_UP)

    def on_train_start(self) -> None:
        """Find out what training sees, and how long a schedule is."""
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, ForecastDataModule):
            self._seen = data.seen_calendar()
        if self._schedule == "constant":
            return
        trainer = self.trainer
        assert isinstance(trainer.train_dataloader, DataLoader)
        order = trainer.train_dataloader.sampler
        assert isinstance(order, BatchOrder)
        # Without a limit a step of Lightning's loop takes several batches.
        limited = trainer.limit_train_batches != 1.0
        batches = trainer.num_training_batches if limited else order.num_batches
        self._num_steps = max(1, int(batches) * (self.schedule_epochs or trainer.max_epochs or 1))

    def validation_step(self, batch: WindowBatch, batch_idx: int) -> None:
        """The epoch's validation loss is the mean over all observed targets."""
        loss = self.loss(batch)
        if not loss.isfinite():
            forecast = self.net.forecast(batch).values
            worst = int((~forecast.isfinite()).any(dim=1).int().argmax())
            loader = self.trainer.val_dataloaders
            order = getattr(loader, "sampler", None)
            where = self._title(order.nth(batch_idx) if isinstance(order, BatchOrder) else None, worst)
            raise TrainingError(f"the validation loss of epoch {self.current_epoch + 1} is no number{where}")
        self.log(VALIDATION_LOSS, loss, batch_size=int(batch.observed.sum()), sync_dist=True)

    def configure_optimizers(self) -> Optimizer:
        """The optimizer over all parameters."""
        # Here the network is where it will be trained.
        self._flat = FlatParameters(self.net)
        self._gradient: Gradient = (
            FcnetGradient(self.net, self._flat)
            if isinstance(self.net, Fcnet)
            else AutomaticGradient(self.net)
        )
        weights = self._flat.values.detach()
        self._trained = self._trained.to(weights.device) if len(self._trained) else weights.clone()
        optimizer = self._make_optimizer([self._flat.values])
        self._base_rates = [group["lr"] for group in optimizer.param_groups]
        return optimizer

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what training goes on with beside the weights that are served."""
        checkpoint[_TRAINED] = self._trained
        checkpoint[_LOSSES] = torch.cat([torch.empty(0), *(losses.cpu() for losses in self._losses)])
        checkpoint[_RANDOM] = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            checkpoint[_RANDOM]["cuda"] = torch.cuda.get_rng_state(self.device)
        checkpoint[_MASKS] = {name: module.drawn for name, module in self._with_masks()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with it."""
        self._trained = checkpoint[_TRAINED]
        self._losses = [losses] if len(losses := checkpoint[_LOSSES]) else []
        self._random_state = dict(checkpoint[_RANDOM])
        for name, module in self._with_masks():
            module.drawn = checkpoint[_MASKS][name]

    def _with_masks(self) -> list[tuple[str, LongMaskDropout]]:
        return [
            (name, module) for name, module in self.net.named_modules() if isinstance(module, LongMaskDropout)
        ]

    def _restore_random_state(self) -> None:
        """Draw what the interrupted run would have drawn next."""
        if self._random_state:
            torch.set_rng_state(self._random_state["cpu"])
            if self.device.type == "cuda" and "cuda" in self._random_state:
                torch.cuda.set_rng_state(self._random_state["cuda"], self.device)
            self._random_state = {}
