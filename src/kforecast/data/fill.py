"""Filling unobserved bins of a context without looking past the origin."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

Fill = Literal["interpolate", "zero", "ffill"]
FILLS: tuple[Fill, ...] = get_args(Fill)


@dataclass(frozen=True)
class FilledValues:
    """Two fillings of a panel, from which a window takes what its origin allows.

    Attributes
    ----------
    inside:
        float32 ``[series, time]``: gaps filled for an origin that has seen both their ends.
    open:
        float32 ``[series, time]``: gaps filled for an origin that still is inside them.
    gap_age:
        int32 ``[series, time]``: bins since the last observed one, 0 where observed. A context that ends in
        a bin of age a takes its last a bins from ``open``, all others from ``inside``.
    """

    inside: np.ndarray
    open: np.ndarray
    gap_age: np.ndarray


def fill_gaps(values: np.ndarray, observed: np.ndarray, policy: Fill) -> FilledValues:
    """Fill what is not observed.

    Parameters
    ----------
    values, observed:
        ``[series, time]``.
    policy:
        ``interpolate`` (linear between the neighbours; the last value where a gap has not ended before
        the origin), ``ffill`` (the last value) or ``zero`` (as Kapacity's training and serving do). Before
        a series' first value the first two take that first value, zero takes 0.

    Raises
    ------
    ValueError
        For an unknown policy.
    """
    if policy not in FILLS:
        raise ValueError(f"unknown fill {policy!r}; use one of {', '.join(FILLS)}")
    num_bins = values.shape[1]
    time = np.arange(num_bins, dtype=np.int32)
    previous = np.maximum.accumulate(np.where(observed, time, np.int32(-1)), axis=1)
    # Before the first observation the age reaches back past the panel's start.
    gap_age = time - previous
    if policy == "zero":
        zeroed = np.where(observed, values, np.float32(0))
        return FilledValues(zeroed, zeroed, gap_age)

    backwards = np.where(observed, time, np.int32(num_bins))[:, ::-1]
    following = np.minimum.accumulate(backwards, axis=1)[:, ::-1]
    last = np.take_along_axis(values, np.maximum(previous, 0), axis=1)
    held = np.where(previous >= 0, last, np.float32(0))
    coming = np.take_along_axis(values, np.minimum(following, num_bins - 1), axis=1)
    started = previous >= 0
    inside = np.where(started, held, np.where(following < num_bins, coming, np.float32(0)))
    if policy == "interpolate":
        between = started & (following < num_bins) & ~observed
        share = np.divide(
            gap_age, following - previous, where=between, out=np.zeros(values.shape, np.float32)
        )
        inside = np.where(between, held + (coming - held) * share, inside).astype(np.float32)
    return FilledValues(inside, held, gap_age)
