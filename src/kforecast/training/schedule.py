"""Schedules of the learning rate.

``constant``; ``cosine``: after a short linear warm-up the rate falls to zero along half a cosine (Loshchilov
& Hutter 2017, https://arxiv.org/abs/1608.03983); ``linear``: it falls in a straight line from the first step.
Trained weights need no warm-up. A constant rate followed by a linear one ends as well as a cosine, without
knowing the number of steps in advance (Hägele et al. 2024, https://arxiv.org/abs/2405.18392).
"""

import math
from typing import Literal

import lightning.pytorch as pl

from kforecast.data.loader import ResumableLoader

Schedule = Literal["constant", "cosine", "linear"]

_WARM_UP_STEPS = 100


def rate_of(step: int, num_steps: int, schedule: Schedule = "cosine") -> float:
    """The share of the base learning rate at a step of a schedule.

    Parameters
    ----------
    step:
        Counted from 0.
    num_steps:
        Steps after which the rate is zero.
    """
    if schedule == "constant":
        return 1.0
    done = min(step / num_steps, 1.0)
    if schedule == "linear":
        return 1.0 - done
    rate = 0.5 + 0.5 * math.cos(math.pi * done)
    return rate * min(1.0, (step + 1) / _WARM_UP_STEPS)


def steps_of(trainer: pl.Trainer, epochs: int | None) -> int:
    """Steps of the optimizer, one per batch, in ``epochs`` epochs; None for all epochs of the trainer."""
    batches, loader = trainer.num_training_batches, trainer.train_dataloader
    if isinstance(loader, ResumableLoader) and trainer.limit_train_batches == 1.0:
        batches = loader.sampler.num_batches  # the trainer counts items, which hold several batches
    return max(1, int(batches) * (epochs or trainer.max_epochs or 1))
