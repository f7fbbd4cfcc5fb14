"""The parts of a network and naive forecasts together: none is trusted further than it has shown.

Shape suffixes of comments: n windows, K forecasters, P horizon bins.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kforecast.models.naive import NAIVE

# Steps and rate of the search; more change the weights by less than a percent.
_STEPS, _RATE = 300, 0.5
# With more windows than that the weights are no better known.
_MOST_WINDOWS = 20_000
# No naive forecast takes part where the network's error is at most so many times that of the best of them.
_TOLERANCE = 1.02
# A weight below that is noise.
_LEAST_WEIGHT = 0.01


@dataclass(frozen=True)
class Combination:
    """A weighted mean of forecasts, with weights of its own for each step of the horizon.

    Attributes
    ----------
    weights:
        By forecaster, those of the network (:attr:`kforecast.models.network.Network.parts`) first: float64
        ``[horizon]``, none below 0; over the forecasters they add up to 1.
    """

    weights: Mapping[str, np.ndarray]

    def of(self, forecasts: Mapping[str, np.ndarray]) -> np.ndarray:
        """The combined forecast, float32 ``[windows, horizon]``."""
        total = sum(weight * forecasts[name] for name, weight in self.weights.items() if weight.any())
        return np.asarray(total, dtype=np.float32)

    @property
    def naive(self) -> list[str]:
        """The naive forecasts that take part."""
        return [name for name, weight in self.weights.items() if name in NAIVE and weight.any()]

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
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError("its weights are not lists of numbers") from error
        if any(values.shape != (horizon,) for values in weights.values()):
            raise ValueError(f"its weights are not one for each of the {horizon} steps")
        total = np.sum(list(weights.values()), axis=0)
        whole = np.isfinite(total).all() and (np.abs(total - 1) < 1e-3).all()
        if not whole or any((values < 0).any() for values in weights.values()):
            raise ValueError("its weights are not shares that add up to 1 at each step")
        return cls({name: values / total for name, values in weights.items()})


def fitted(
    parts: Mapping[str, np.ndarray], naive: Mapping[str, np.ndarray], actual: np.ndarray, level: np.ndarray
) -> Combination:
    """The weights with the least mean absolute error.

    At a step where no naive forecast alone beats the network by more than 2 % none of them takes part:
    weights that are fitted to a short span cost more there than they gain (docs/models.md).

    Parameters
    ----------
    parts:
        What the network is made of, each float ``[windows, horizon]``.
    naive:
        Naive forecasts, each ``[windows, horizon]``.
    actual:
        What came, ``[windows, horizon]``, NaN where it was not observed.
    level:
        What errors of a window are divided by, so that no series drowns the others, ``[windows]``.
    """
    chosen = np.linspace(0, len(actual) - 1, min(len(actual), _MOST_WINDOWS)).astype(np.int64)
    scale = np.where(level[chosen] > 0, level[chosen], np.inf)[:, None]

    def of(forecasts: Mapping[str, np.ndarray]) -> np.ndarray:
        made = [forecast[chosen] / scale for forecast in forecasts.values()]
        return np.stack(made) if made else np.empty((0, *actual[chosen].shape))

    errors = _Errors(actual[chosen] / scale)
    network = errors.least(of(parts))
    everything = errors.least(of(dict(parts) | dict(naive)))
    alone = [errors.of(forecast) for forecast in of(naive)]
    beaten = np.min([*alone, np.full(actual.shape[1], np.inf)], axis=0) * _TOLERANCE
    only_network = np.concatenate([network, np.zeros((len(naive), actual.shape[1]))])
    weights = np.where(errors.of_mean(network, of(parts)) <= beaten, only_network, everything)
    return Combination(dict(zip([*parts, *naive], weights, strict=True)))


class _Errors:
    """Mean absolute errors of each step of the horizon, and the weights with the least of them."""

    def __init__(self, truth: np.ndarray) -> None:
        self._known = np.isfinite(truth)
        self._count = np.maximum(self._known.sum(axis=0), 1)
        self._truth = np.where(self._known, truth, 0.0)

    def of(self, forecast: np.ndarray) -> np.ndarray:
        """Of one forecast ``[n, P]``: ``[P]``."""
        error = np.where(self._known, forecast - self._truth, 0.0)
        found: np.ndarray = np.abs(error).sum(axis=0) / self._count
        return found

    def of_mean(self, weights: np.ndarray, made: np.ndarray) -> np.ndarray:
        """Of the mean of forecasts ``[K, n, P]`` with weights ``[K, P]``."""
        return self.of(np.einsum("kp,knp->np", weights, made))

    def least(self, made: np.ndarray) -> np.ndarray:
        """Weights ``[K, P]`` for forecasts ``[K, n, P]``, by exponentiated gradients.

        Kivinen & Warmuth 1997, "Exponentiated gradient versus gradient descent for linear predictors". They
        are never worse than the best forecast alone.
        """
        size, _, horizon = made.shape
        alone = np.eye(size)[:, :, None].repeat(horizon, axis=2)  # [K, K, P]
        errors = np.stack([self.of(forecast) for forecast in made])  # [K, P]
        best_alone = alone[np.argmin(errors, axis=0), :, np.arange(horizon)].T
        best, least = best_alone, errors.min(axis=0)
        limit, unit = least, np.maximum(least, 1e-12)
        weights = np.full((size, horizon), 1 / size)
        for step in range(_STEPS):
            error = np.einsum("kp,knp->np", weights, made) - self._truth
            sign = np.where(self._known, np.sign(error), 0.0)
            slope = np.einsum("np,knp->kp", sign, made) / self._count / unit
            slope -= slope.mean(axis=0)
            weights = weights * np.exp(-_RATE / np.sqrt(step + 1) * np.clip(slope, -20, 20))
            weights /= weights.sum(axis=0)
            now = self.of_mean(weights, made)
            better = now < least
            best, least = np.where(better, weights, best), np.where(better, now, least)
        best = np.where(best < _LEAST_WEIGHT, 0.0, best)
        best /= best.sum(axis=0)
        # Without the smallest weights it must still be no worse than the best alone.
        return np.where(self.of_mean(best, made) <= limit * (1 + 1e-9), best, best_alone)
