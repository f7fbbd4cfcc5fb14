"""Weighted combination of a network's parts and naive forecasts, fitted to held-out data.

Shape suffixes of comments: n windows, K forecasters, P horizon bins.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kforecast.models.naive import NAIVE

# Steps and rate of the search; more steps change the weights by less than a percent.
_STEPS, _RATE = 300, 0.5
# More windows do not make the weights more accurate.
_MOST_WINDOWS = 20_000
# Naive forecasts get weights only if the network's error exceeds this multiple of that of the best of them.
_TOLERANCE = 1.02
# Weights below this are noise.
_LEAST_WEIGHT = 0.01


@dataclass(frozen=True)
class Combination:
    """A weighted mean of forecasts, with separate weights for each step of the horizon.

    Attributes
    ----------
    weights:
        By forecast, first the parts of the network (:attr:`kforecast.models.network.Network.parts`), then
        naive forecasts: float64 ``[horizon]``, at least 0. At each step the weights of all forecasts sum to
        1.
    """

    weights: Mapping[str, np.ndarray]

    def of(self, forecasts: Mapping[str, np.ndarray]) -> np.ndarray:
        """The combined forecast, float32 ``[windows, horizon]``."""
        total = sum(weight * forecasts[name] for name, weight in self.weights.items() if weight.any())
        return np.asarray(total, dtype=np.float32)

    def towards_equal(self, parts: Sequence[str], share: float) -> "Combination":
        """The weights of the network's parts drawn towards equal ones by a share, from 0 to 1.

        The weight of all parts together does not change.
        """
        mean = np.mean([self.weights[name] for name in parts], axis=0)
        drawn = {name: (1 - share) * self.weights[name] + share * mean for name in parts}
        return Combination({**self.weights, **drawn})

    @property
    def naive(self) -> list[str]:
        """Names of the naive forecasts with a weight above 0."""
        return [name for name, weight in self.weights.items() if name in NAIVE and weight.any()]

    def as_dict(self) -> dict[str, list[float]]:
        """The weights as plain values, without forecasts whose weights are all 0."""
        return {
            name: [round(float(share), 6) for share in weight]
            for name, weight in self.weights.items()
            if weight.any()
        }

    @classmethod
    def from_dict(cls, content: Any, horizon: int) -> "Combination":
        """Read the values of :meth:`as_dict` from an untrusted file.

        Raises
        ------
        ValueError
            When the values are no such weights.
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
    """The combination with the smallest mean absolute error.

    Naive forecasts have no weight at a step where none of them alone beats the network by more than 2 %:
    there, weights fitted to a short span cost more than they gain (docs/models.md).

    Parameters
    ----------
    parts:
        The parts of the network's forecast, each float ``[windows, horizon]``.
    naive:
        Naive forecasts, each ``[windows, horizon]``.
    actual:
        Actual values, ``[windows, horizon]``; NaN where not observed.
    level:
        Divisor of each window's errors, ``[windows]``, so that no series dominates the others.
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
    """Mean absolute errors at each step of the horizon, and the weights that minimise them."""

    def __init__(self, truth: np.ndarray) -> None:
        self._known = np.isfinite(truth)
        self._count = np.maximum(self._known.sum(axis=0), 1)
        self._truth = np.where(self._known, truth, 0.0)

    def of(self, forecast: np.ndarray) -> np.ndarray:
        """Errors ``[P]`` of one forecast ``[n, P]``."""
        error = np.where(self._known, forecast - self._truth, 0.0)
        found: np.ndarray = np.abs(error).sum(axis=0) / self._count
        return found

    def of_mean(self, weights: np.ndarray, made: np.ndarray) -> np.ndarray:
        """Errors ``[P]`` of the mean of forecasts ``[K, n, P]`` with weights ``[K, P]``."""
        return self.of(np.einsum("kp,knp->np", weights, made))

    def least(self, made: np.ndarray) -> np.ndarray:
        """The best weights ``[K, P]`` for forecasts ``[K, n, P]``, by exponentiated gradients.

        See Kivinen & Warmuth 1997, "Exponentiated gradient versus gradient descent for linear predictors".
        The weighted mean is never worse than the best single forecast.
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
        # Without the smallest weights, the mean must still not be worse than the best single forecast.
        return np.where(self.of_mean(best, made) <= limit * (1 + 1e-9), best, best_alone)
