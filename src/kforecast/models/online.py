"""Online: weights of forecasts and widths of intervals that follow the errors at the newest origins.

Everything is computed from the errors at a fixed number of origins before a forecast. A single forecast, a
backtest and a process that saw the bins one by one therefore give the same numbers.

Shape suffixes of comments: K forecasts, S series, T origins (one a bin), P horizon bins.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from kforecast.data.panel import Panel
from kforecast.data.split import running_sum

# Newest origins that count, and how many origins it takes until an error counts e times less: for weights,
# and for widths, which depend on few errors.
ORIGINS, WEIGHTS_MEMORY, WIDTHS_MEMORY = 288, 48, 96
# How fast weights follow errors: a forecast whose mean error has been 10 % larger over the whole memory of 48
# origins has 0.4 times the weight that it would have otherwise.
RATE = 0.2
# Weight without any errors: of each part of the network, and of all naive forecasts together.
_PART, _NAIVE = 0.05, 0.1
# Weight of the last value after a jump.
_LAST_VALUE = 0.7
# Tails of the 90 % interval, and the widths that are tried, as multiples of the calibrated one.
TAIL = 0.05
_WIDTHS = np.geomspace(0.5, 16.0, 16)
# The calibrated width counts like this many origins at which it was right.
_CALIBRATED = 20.0
# A jump: so many newest bins, by so large a factor, so many times as unlike the same time of other days as
# any before; and the memory of weights after one.
_JUMP_BINS, _JUMP, _JUMP_UNUSUAL, _JUMP_MEMORY = 3, 4.0, 1.25, 6
# Limits of the ratio of two values a day apart.
_MOST_RATIO = 5.0
# Limits for damaged or hostile artifacts.
_MOST_ORIGINS = 100_000


@dataclass(frozen=True)
class Online:
    """How a forecaster follows its errors at the newest origins.

    Weights are those of the exponentially weighted average forecaster with discounted losses (Cesa-Bianchi &
    Lugosi 2006, "Prediction, Learning, and Games", sections 2.2 and 2.11, with bounds of the regret), per
    series and step. A forecast that was unknown at an origin neither gains nor loses there (Freund et al.
    1997, "Using and combining predictors that specialize").

    Widths are adaptive conformal intervals (Gibbs & Candes 2021, "Adaptive conformal inference under
    distribution shift") in the form that needs no state: weights of the errors decay with age (Barber et al.
    2023, "Conformal prediction beyond exchangeability"). Each tail has a width of its own, per series and
    step.

    Attributes
    ----------
    trained_until:
        Unix seconds at which the training data of the network ends.
    optimism:
        Held-out error of the network divided by its error on data that it was trained on, by step, float64
        ``[P]``: its errors before ``trained_until`` are multiplied by it. NaN leaves such errors out.
    rate:
        How fast weights follow errors; 0 for a forecaster without a combination.
    origins:
        Newest origins that count.
    weights_memory, widths_memory:
        Origins until an error counts e times less.
    """

    trained_until: int
    optimism: np.ndarray = field(compare=False)
    rate: float = 0.0
    origins: int = ORIGINS
    weights_memory: int = WEIGHTS_MEMORY
    widths_memory: int = WIDTHS_MEMORY

    def reach(self, horizon: int) -> int:
        """Bins before the first bin of a forecast at which origins can count."""
        # Intervals follow the errors of combined forecasts, whose weights follow earlier errors.
        return (self.origins + horizon) * (2 if self.rate else 1)

    def weights(
        self,
        forecasts: np.ndarray,
        loss: np.ndarray,
        before: np.ndarray,
        after: np.ndarray,
        jumped: np.ndarray,
        ages: np.ndarray | None = None,
    ) -> np.ndarray:
        """Weights of forecasts at each origin, from what is known there.

        Parameters
        ----------
        forecasts:
            float ``[K, S, T, P]``; NaN where unknown. The others are compared with the first one.
        loss:
            Their absolute errors, ``[K, S, T, P]``; NaN where unknown, or no evidence.
        before:
            Their weights without any errors, ``[K]``.
        after:
            Those after a jump.
        jumped:
            Whether the level has just jumped (:func:`jumps`), bool ``[S, T]``. Only the newest origins count
            then.
        ages:
            Bins since the target of each error was known, int64 ``[N, P]``. The errors may then be of any
            origins ``[K, S, N, P]``, and the weights are those at one origin, T = 1. None: the errors are of
            consecutive origins, those of the weights.

        Returns
        -------
        float64 ``[K, S, T, P]``; sums to 1 over the forecasts, and is 0 where a forecast is unknown.
        """
        found = self._logarithms(loss, np.log(before), self.weights_memory, ages)
        if jumped.any():
            afresh = self._logarithms(loss, np.log(after), _JUMP_MEMORY, ages)
            found = np.where(jumped[..., None], afresh, found)
        found[~np.isfinite(forecasts)] = -np.inf
        most = found.max(axis=0)
        found = np.exp(found - np.where(np.isfinite(most), most, 0.0))
        found[0] += ~np.isfinite(most)  # nothing is known: the first one says so
        weights: np.ndarray = found / found.sum(axis=0)
        return weights

    def _logarithms(
        self, loss: np.ndarray, before: np.ndarray, memory: int, ages: np.ndarray | None
    ) -> np.ndarray:
        """Logarithms of weights up to a constant, ``[K, S, T, P]``."""

        def sums(of_origin: np.ndarray) -> np.ndarray:
            total: np.ndarray = self._sums(of_origin, memory, ages) + _of_newest(of_origin, ages)
            return total

        known = np.isfinite(loss[0])
        first = np.where(known, loss[0], 0.0)
        mean = sums(first) / np.maximum(sums(known), 1e-9)
        unit = np.where(mean > 0, mean, np.inf)
        found = np.empty((len(loss), *unit.shape))
        for number in range(len(loss)):
            more = np.where(np.isfinite(loss[number]) & known, loss[number] - loss[0], 0.0)
            found[number] = before[number] - self.rate * sums(more) / unit
        return found

    def widths(self, beyond: np.ndarray, ages: np.ndarray | None = None) -> np.ndarray:
        """The width of one tail of the interval at each origin, as a multiple of the calibrated one.

        Parameters
        ----------
        beyond:
            Errors in the tail's direction at each origin, divided by the calibrated width, ``[S, T, P]``; NaN
            where unknown.
        ages:
            As of :meth:`weights`.

        Returns
        -------
        float64 ``[S, T, P]``, within 0.5 and 16; 1 without errors.
        """
        sums = partial(self._sums, memory=self.widths_memory, ages=ages)
        known = np.isfinite(beyond)
        # As for other conformal quantiles, the next error counts as one beyond.
        total = sums(known) + _CALIBRATED + 1
        # Tails are taken to fall exponentially where no errors tell.
        shares = np.stack(
            [(sums(known & (beyond > width)) + _CALIBRATED * TAIL**width + 1) / total for width in _WIDTHS]
        )
        shares = np.minimum.accumulate(shares, axis=0)
        enough = shares <= TAIL
        above = np.where(enough.any(axis=0), enough.argmax(axis=0), len(_WIDTHS) - 1)
        below = np.maximum(above - 1, 0)
        high, low = (np.take_along_axis(shares, at[None], axis=0)[0] for at in (below, above))
        steep = np.log(high / np.maximum(low, 1e-300))
        part = np.where(steep > 0, np.log(high / TAIL) / np.where(steep > 0, steep, 1.0), 1.0).clip(0, 1)
        found: np.ndarray = np.exp(np.log(_WIDTHS[below]) * (1 - part) + np.log(_WIDTHS[above]) * part)
        return found

    def _sums(self, of_origin: np.ndarray, memory: int, ages: np.ndarray | None) -> np.ndarray:
        """Discounted sums ``[S, T, P]``, at each origin over the newest origins whose targets are known."""
        if ages is not None:
            counts = (ages >= 0) & (ages < self.origins)
            discounts = np.where(counts, np.exp(-ages / memory), 0.0)
            total: np.ndarray = np.einsum("snp,np->sp", of_origin, discounts)[:, None]
            return total
        series, length, horizon = of_origin.shape
        count = min(self.origins, length)
        blocks = -(-length // count)
        # The target of step h is known h + 1 bins after its origin.
        known = np.zeros((blocks * count, series, horizon))
        for step in range(min(horizon, length - 1)):
            known[step + 1 : length, :, step] = of_origin[:, : length - step - 1, step].T
        # A window of `count` origins is the end of one block and the beginning of the next, so that nothing
        # is subtracted: a huge error leaves no trace in later sums.
        known = known.reshape(blocks, count, series, horizon).swapaxes(0, 1)
        decay = np.exp(-1.0 / memory)
        ahead = known.copy()
        for at in range(1, count):
            ahead[at] += decay * ahead[at - 1]
        behind = known
        ages = decay ** np.arange(count - 1, -1, -1.0)
        behind *= ages[:, None, None, None]
        for at in range(count - 2, -1, -1):
            behind[at] += behind[at + 1]
        for at in range(count - 1):
            ahead[at, 1:] += decay ** (at + 1) * behind[at + 1, :-1]
        found: np.ndarray = ahead.swapaxes(0, 1).reshape(blocks * count, series, horizon)[:length]
        return found.swapaxes(0, 1)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for ``estimator_config.yaml``."""
        optimism = [round(float(one), 6) for one in self.optimism] if np.isfinite(self.optimism).all() else []
        return {
            "trained_until": self.trained_until,
            "optimism": optimism,
            "rate": self.rate,
            "origins": self.origins,
            "weights_memory": self.weights_memory,
            "widths_memory": self.widths_memory,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], horizon: int) -> "Online":
        """Read the values of :meth:`as_dict` from an untrusted file.

        Raises
        ------
        ValueError
            When the values are no such settings.
        """
        try:
            until, rate = int(content["trained_until"]), float(content["rate"])
            names = ("origins", "weights_memory", "widths_memory")
            counts = [int(content[name]) for name in names]
            optimism = np.array(content["optimism"] or [np.nan] * horizon, dtype=np.float64)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"it has an unexpected structure ({type(error).__name__}: {error})") from error
        if optimism.shape != (horizon,) or (optimism <= 0).any() or np.isinf(optimism).any():
            raise ValueError(f"its optimism is not one number above 0 for each of the {horizon} steps")
        if not 0 <= rate <= 100 or not all(1 <= count <= _MOST_ORIGINS for count in counts):
            raise ValueError("its rate, origins or memory is out of range")
        return cls(until, optimism, rate, *counts)


def _of_newest(of_origin: np.ndarray, ages: np.ndarray | None) -> np.ndarray:
    """Sums ``[S, T, P]`` over the origins whose target at this step is not known yet, at their newest target.

    After a jump they tell long before the errors of the last steps are known.
    """
    length, horizon = of_origin.shape[1:]
    if ages is not None:
        newest = np.einsum("snp,np->sp", of_origin, (ages == 0).astype(np.float64))
        before: np.ndarray = (np.cumsum(newest, axis=1) - newest)[:, None]
        return before
    found = np.zeros(of_origin.shape)
    for step in range(min(horizon - 1, length - 1)):
        found[:, step + 1 :, step + 1 :] += of_origin[:, : length - step - 1, step, None]
    return found


def jumps(panel: Panel, first: int, stop: int) -> np.ndarray:
    """Whether the level of each series has just jumped, at the origins ``[first, stop)``, bool ``[S, T]``.

    The newest three bins are all above, or all below, the median of the same time on the last seven days, by
    at least a factor of 4, and by more than any three bins were in the week before. Bursts that recur are
    therefore no jump. A jump is over after half a day.
    """
    found = np.zeros((panel.num_series, stop - first), bool)
    newest, _ = _departures(panel, first, stop)
    # Most series have no candidate, and need no look at the week before.
    rows = np.flatnonzero((newest > np.log(_JUMP)).any(axis=1))
    if not len(rows):
        return found
    season = panel.frequency.season
    begin = first - 7 * season
    some, known = _departures(panel.rows(rows.tolist()), begin, stop)
    at = np.arange(first, stop) - begin
    end, start = at - season // 2, at - 7 * season
    usual = _largest(some, 7 * season - season // 2)[:, end]
    count = running_sum(known)
    enough = count[:, end] - count[:, start] >= season
    found[rows] = enough & (some[:, at] > np.maximum(np.log(_JUMP), _JUMP_UNUSUAL * usual))
    return found


def _departures(panel: Panel, first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """How unlike the same time of other days the newest bins are, at the origins ``[first, stop)``.

    Returns
    -------
    The least logarithm of a ratio among the newest three bins if all are above, or all below, else 0, float64
    ``[S, T]``; and for each bin ``[first, stop)`` whether other days are known, bool ``[S, T]``.
    """
    season = panel.frequency.season
    values = _values(panel, first - _JUMP_BINS, stop)
    past = np.stack(
        [_values(panel, first - _JUMP_BINS - day * season, stop - day * season) for day in range(1, 8)]
    )
    known = np.isfinite(past).sum(axis=0)
    ranked = np.sort(past, axis=0)  # NaN last
    middle = np.take_along_axis(ranked, np.maximum(known - 1, 0)[None] // 2, axis=0)[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(values / middle)
    ratio = np.where(np.isfinite(ratio), ratio, 0.0)
    newest = np.zeros((len(values), stop - first))
    for sign in (1, -1):
        last = [sign * ratio[:, bins : bins + stop - first] for bins in range(_JUMP_BINS)]
        newest = np.maximum(newest, np.minimum.reduce(last))
    return newest, known[:, _JUMP_BINS:] > 0


def _values(panel: Panel, begin: int, stop: int) -> np.ndarray:
    """The values of the bins ``[begin, stop)``, NaN where unobserved or outside, float64 ``[S, bins]``."""
    found = np.full((panel.num_series, stop - begin), np.nan)
    inside = slice(max(begin, 0), max(0, min(stop, panel.num_bins)))
    known = np.where(panel.observed[:, inside], panel.values[:, inside], np.nan)
    found[:, inside.start - begin : inside.start - begin + known.shape[1]] = known
    return found


def _largest(values: np.ndarray, length: int) -> np.ndarray:
    """The largest of the newest ``length`` columns up to each column, at least 0."""
    found, width = values, 1
    while width < length:
        # Twice the width, or what is missing.
        shift = min(width, length - width)
        found = np.maximum(found, np.pad(found, ((0, 0), (shift, 0)))[:, : found.shape[1]])
        width += shift
    return found


def prior_weights(parts: int, naive: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights without any errors, and those after a jump, ``[K]``.

    They are of the combination with fixed weights, of the network's parts, and of naive forecasts, the last
    value first. After a jump, the last value alone is at the new level for sure.
    """
    shares = [_PART] * parts + [_NAIVE / naive] * naive
    rest = (1 - _LAST_VALUE) / (parts + naive)
    after = [rest] * (1 + parts) + [_LAST_VALUE] + [rest] * (naive - 1)
    return np.array([1 - sum(shares), *shares]), np.array(after)


def naive_experts(
    panel: Panel, usual: Panel, series: np.ndarray, origin: np.ndarray, horizon: int
) -> list[np.ndarray]:
    """Naive forecasts that need at most two weeks of history, each float32 ``[windows, horizon]``.

    The last value; the same time yesterday and last week; and the last value plus the difference, and times
    the ratio, of these days. NaN where a bin that they need was not observed.

    Parameters
    ----------
    usual:
        The panel with usual values in place of past events, for past days.
    series, origin:
        Panel row and index of the first forecast bin, int64 ``[windows]``.
    """
    season, week = panel.frequency.season, panel.frequency.week
    row, ahead = series[:, None], np.arange(horizon)

    def at(bins: np.ndarray, panel: Panel = usual) -> np.ndarray:
        """Values at bins ``[windows, n]``; NaN where not observed."""
        inside = np.clip(bins, 0, panel.num_bins - 1)
        known = (bins == inside) & panel.observed[row, inside]
        return np.where(known, panel.values[row, inside], np.float32(np.nan))

    last = at(origin[:, None] - 1, panel)
    found = [np.repeat(last, horizon, axis=1)]
    moves = []
    for length in dict.fromkeys((season, week)):
        ago = length * (1 + ahead // length)
        then = at(origin[:, None] + ahead - ago)
        found.append(then)
        base = at(origin[:, None] - 1 - ago)
        moves.append(last + then - base)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(base > 0, then / base, np.nan)
        moves.append(last * ratio.clip(0, _MOST_RATIO))
    return [*found, *moves]
