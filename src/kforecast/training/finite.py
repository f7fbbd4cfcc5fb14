"""Stop a training when a loss or gradient is not finite, and name the window that caused it."""

import lightning.pytorch as pl
import torch
from torch import Tensor

from kforecast.data.datamodule import ForecastDataModule
from kforecast.data.windows import WindowBatch
from kforecast.errors import TrainingError
from kforecast.training.gradients.automatic import Chunk


def check_step(
    module: pl.LightningModule, chunk: Chunk, batch: WindowBatch, sums: Tensor, losses: Tensor
) -> None:
    """Check the losses and gradients of several batches.

    Parameters
    ----------
    chunk, batch:
        The windows of all batches.
    sums, losses:
        Sum of the gradient, and loss, of each batch, float32 ``[batches]``.

    Raises
    ------
    TrainingError
        When one is not finite, naming step, epoch and window of the first.
    """
    finite = sums.isfinite() & losses.isfinite()
    if finite.all():
        return
    number = int((~finite).nonzero()[0])
    begin, stop = chunk.bounds[number]
    error = (chunk.error[begin:stop] * chunk.weight[begin:stop]).where(chunk.weight[begin:stop] > 0, 0.0)
    worst = begin + int(error.abs().nan_to_num(torch.inf, torch.inf).amax(dim=1).argmax())
    what = "gradient" if losses[number].isfinite() else "loss"
    step = module.trainer.global_step - len(losses) + number + 1
    raise TrainingError(
        f"the {what} of step {step} (epoch {module.current_epoch + 1}) is no number"
        f"{_title(module, batch, worst)}"
    )


def check_validation(module: pl.LightningModule, batch: WindowBatch, loss: Tensor) -> None:
    """Check the loss of a validation batch.

    Raises
    ------
    TrainingError
        When it is not finite, naming epoch and window.
    """
    if loss.isfinite():
        return
    worst = int((~module(batch).isfinite()).any(dim=1).int().argmax())
    where = _title(module, batch, worst)
    raise TrainingError(f"the validation loss of epoch {module.current_epoch + 1} is no number{where}")


def _title(module: pl.LightningModule, batch: WindowBatch, number: int) -> str:
    data = getattr(module.trainer, "datamodule", None)
    if batch.cell is None or not isinstance(data, ForecastDataModule):
        return ""
    return f"; first to blame: {data.title(int(batch.cell[number]))}"
