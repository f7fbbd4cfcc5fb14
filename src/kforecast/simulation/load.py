"""The load inside the bins of a history, in steps of some seconds."""

from dataclasses import dataclass

import numpy as np

from kforecast.simulation.chance import normal

# Steps that a bin of the finest rows is reconstructed in.
STEPS = (15, 10)


@dataclass(frozen=True)
class Load:
    """Demand of every service on a grid of bins, and how it moves inside a bin.

    Attributes
    ----------
    values:
        Mean demand of each bin, float32 ``[series, bins]``; where unobserved, the newest observed one
        (:func:`held`).
    observed:
        Whether a bin has a value, bool ``[series, bins]``.
    start:
        Unix seconds of the first bin.
    width:
        Seconds per bin.
    variability:
        Standard deviation of the steps around the line through a bin, as a share of the bin's mean.
    seed:
        Seed of these movements.
    rows:
        A number for each series, int64 ``[series]``, which its movements depend on; so they do not depend on
        the other series.
    """

    values: np.ndarray
    observed: np.ndarray
    start: int
    width: int
    variability: float
    seed: int
    rows: np.ndarray

    @property
    def step(self) -> int:
        """Seconds per step: a bin has a whole number of them."""
        return step_of(self.width)

    @property
    def steps(self) -> int:
        """Number of steps."""
        return int(self.values.shape[1]) * (self.width // self.step)

    def of(self, chosen: np.ndarray) -> "Load":
        """The load of some series, given by row numbers."""
        return Load(
            self.values[chosen],
            self.observed[chosen],
            self.start,
            self.width,
            self.variability,
            self.seed,
            self.rows[chosen],
        )

    def between(self, begin: int, stop: int) -> "Load":
        """The load of the bins ``[begin, stop)``."""
        return Load(
            self.values[:, begin:stop],
            self.observed[:, begin:stop],
            self.start + begin * self.width,
            self.width,
            self.variability,
            self.seed,
            self.rows,
        )

    def demand(self, first: int, stop: int) -> np.ndarray:
        """Demand of the steps ``[first, stop)``, float64 ``[steps, series]``; both are multiples of a bin.

        The mean of a bin's steps is the bin's value. Inside the bin the demand follows a straight line
        towards the neighbouring bins, flat at a peak or a trough, and moves around it by chance.
        """
        per_bin = self.width // self.step
        begin, end = first // per_bin, stop // per_bin
        bins = np.clip(np.arange(begin - 1, end + 1), 0, self.values.shape[1] - 1)
        near = np.ascontiguousarray(self.values[:, bins].T, np.float64)
        middle = near[1:-1]
        if per_bin == 1:
            return middle
        rise, fall = np.diff(near, axis=0)[1:], np.diff(near, axis=0)[:-1]
        # The smaller of both slopes, none at a turning point: no step leaves the range of the neighbours.
        slope = np.where(rise * fall > 0, np.sign(rise) * np.minimum(np.abs(rise), np.abs(fall)), 0.0)
        place = (np.arange(per_bin) + 0.5) / per_bin - 0.5
        found = middle[:, None] + slope[:, None] * place[:, None]
        if self.variability > 0:
            # Moments depend on the time alone, so that any part of a history is reconstructed alike.
            moment = self.start // self.step + np.arange(first, stop)
            chance = normal(self.seed, self.rows[None], moment[:, None]).reshape(found.shape)
            chance -= chance.mean(axis=1, keepdims=True)
            found += self.variability * np.abs(middle)[:, None] * chance
        np.maximum(found, 0, out=found)
        mean = found.mean(axis=1)
        found *= np.divide(np.maximum(middle, 0), mean, out=np.zeros_like(mean), where=mean > 0)[:, None]
        return found.reshape(-1, found.shape[2])


def held(values: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Values with the newest observed one where there is none, else the first one after it, else 0.

    float32 ``[series, bins]``.
    """
    if observed.all():
        return values
    found = np.empty_like(values)
    for row, (some, known) in enumerate(zip(values, observed, strict=True)):
        newest = np.maximum.accumulate(np.where(known, np.arange(len(known)), -1))
        first = int(known.argmax())
        found[row] = some[np.where(newest >= 0, newest, first)] if known.any() else 0.0
    return found


def step_of(width: int) -> int:
    """Seconds per step in bins of a width: 15, or 10 where a bin has no whole number of 15 s.

    Raises
    ------
    ValueError
        When a bin has no whole number of either.
    """
    for step in STEPS:
        if width % step == 0:
            return step
    raise ValueError(f"bins of {width} s have no whole number of steps of {' or '.join(map(str, STEPS))} s")
