"""A network and naive forecasts together: none of them is trusted further than it has shown.

Shape suffixes of comments: n windows, K forecasters, P horizon bins.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

NETWORK = "network"

# Steps and rate of the search; more change the weights by less than a percent.
_STEPS, _RATE = 300, 0.5
# With more windows than that the weights are no better known.
_MOST_WINDOWS = 20_000
# The network is left alone where its error is at most so many times that of the best naive forecast.
_TOLERANCE = 1.02
# A weight below that is noise.
_LEAST_WEIGHT = 0.01


@dataclass(frozen=True)
class Combination:
    """A weighted mean of forecasts, with weights of its own for each step of the horizon.

    Attributes
    ----------
    weights:
        By forecaster, the network (:data:`NETWORK`) first: float64 ``[horizon]``, none below 0; over the
        forecasters they add up to 1.
    """

    weights: Mapping[str, np.ndarray]

    def of(self, forecasts: Mapping[str, np.ndarray]) -> np.ndarray:
        """The combined forecast, float32 ``[windows, horizon]``."""
        total = sum(weight * forecasts[name] for name, weight in self.weights.items() if weight.any())
        return np.asarray(total, dtype=np.float32)

    @property
    def naive(self) -> list[str]:
        """The naive forecasts that take part."""
        return [name for name, weight in self.weights.items() if name != NETWORK and weight.any()]

    def as_dict(self) -> dict[str, list[float]]:
        """The weights of those that take part, in plain values."""
        return {
            name: [round(float(share), 6) for share in weight]
            for name, weight in self.weights.items()
            if weight.any()
        }

    @classmethod
    def from_dict(cls, content: Any, horizon: int) -> "Combination":
        """Read what :meth:`as_dict` made, from a file that may be anyone's.

        Raises
        ------
        ValueError
            When it is something else.
        """
        if not isinstance(content, dict) or not content:
            raise ValueError("a combination is a mapping from forecasters to weights")
        try:
            weights = {str(name): np.array(values, dtype=np.float64) for name, values in content.items()}
        except (TypeError, ValueError) as error:
            raise ValueError("its weights are not lists of numbers") from error
        if any(values.shape != (horizon,) for values in weights.values()):
            raise ValueError(f"its weights are not one for each of the {horizon} steps")
        total = np.sum(list(weights.values()), axis=0)
        whole = np.isfinite(total).all() and (np.abs(total - 1) < 1e-3).all()
        if not whole or any((values < 0).any() for values in weights.values()):
            raise ValueError("its weights are not shares that add up to 1 at each step")
        return cls({name: values / total for name, values in weights.items()})


def fitted(forecasts: Mapping[str, np.ndarray], actual: np.ndarray, level: np.ndarray) -> Combination:
    """The weights with the least mean absolute error, by exponentiated gradients.

    Kivinen & Warmuth 1997, "Exponentiated gradient versus gradient descent for linear predictors". At a step
    where no naive forecast alone beats the network alone by more than 2 % the network is left alone: weights
    that are fitted to a short span cost more there than they gain (docs/models.md).

    Parameters
    ----------
    forecasts:
        By forecaster, float ``[windows, horizon]``; the network first.
    actual:
        What came, ``[windows, horizon]``, NaN where it was not observed.
    level:
        What errors of a window are divided by, so that no series drowns the others, ``[windows]``.
    """
    chosen = np.linspace(0, len(actual) - 1, min(len(actual), _MOST_WINDOWS)).astype(np.int64)
    scale = np.where(level[chosen] > 0, level[chosen], np.inf)[:, None]
    made = np.stack([forecast[chosen] / scale for forecast in forecasts.values()])  # [K, n, P]
    truth = actual[chosen] / scale
    known = np.isfinite(truth)
    count = np.maximum(known.sum(axis=0), 1)
    truth = np.where(known, truth, 0.0)

    def loss(weights: np.ndarray) -> np.ndarray:
        """Mean absolute error of each step, ``[P]``."""
        error = np.where(known, np.einsum("kp,knp->np", weights, made) - truth, 0.0)
        found: np.ndarray = np.abs(error).sum(axis=0) / count
        return found

    size, horizon = made.shape[0], made.shape[2]
    weights = np.full((size, horizon), 0.2 / max(size - 1, 1))
    weights[0] = 0.8 if size > 1 else 1.0
    alone = np.eye(size)[:, :, None].repeat(horizon, axis=2)  # [K, K, P]
    errors = np.stack([loss(single) for single in alone])  # [K, P]
    best_alone = alone[np.argmin(errors, axis=0), :, np.arange(horizon)].T
    best, least = best_alone, errors.min(axis=0)
    unit = np.maximum(least, 1e-12)
    for step in range(_STEPS):
        error = np.einsum("kp,knp->np", weights, made) - truth
        slope = np.einsum("np,knp->kp", np.where(known, np.sign(error), 0.0), made) / count / unit
        slope -= slope.mean(axis=0)
        weights = weights * np.exp(-_RATE / np.sqrt(step + 1) * np.clip(slope, -20, 20))
        weights /= weights.sum(axis=0)
        now = loss(weights)
        better = now < least
        best, least = np.where(better, weights, best), np.where(better, now, least)
    best = np.where(errors[0] <= _TOLERANCE * errors.min(axis=0), alone[0], best)
    best = np.where(best < _LEAST_WEIGHT, 0.0, best)
    best /= best.sum(axis=0)
    # Without the smallest weights it must still be no worse than what it replaces.
    limit = np.where(best[0] == 1, errors[0], errors.min(axis=0))
    best = np.where(loss(best) <= limit * (1 + 1e-9), best, best_alone)
    return Combination(dict(zip(forecasts, best, strict=True)))
