"""Schedules of the learning rate.

``constant``, or ``cosine``: after a short linear warm-up the rate falls to zero along half a cosine
(Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983).
"""

import math
from typing import Literal

Schedule = Literal["constant", "cosine"]

# Steps of the warm-up.
_WARM_UP = 100


def rate_of(step: int, num_steps: int) -> float:
    """The share of the base learning rate at a step of the cosine schedule.

    Parameters
    ----------
    step:
        Counted from 0.
    num_steps:
        Steps after which the rate is zero.
    """
    rate = 0.5 + 0.5 * math.cos(math.pi * min(step / num_steps, 1.0))
    return rate * min(1.0, (step + 1) / _WARM_UP)
