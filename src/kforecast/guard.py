"""Guard: withdraws the forecast of a series that stopped helping, and brings it back by proof.

At the end of every window of the lead time, the number that was served for it and the newest observation of
that moment, on which a reactive rule scales, are scored by the same asymmetric loss. Two e-detectors of the
Shiryaev-Roberts kind bet on the difference (Shin, Ramdas & Rinaldo 2024, "E-detectors: a nonparametric
framework for sequential change detection"): one on "the forecast is worse" while it is served, one on "the
forecast is better" while it is withdrawn. The bets are those of Waudby-Smith & Ramdas 2024, "Estimating means
of bounded random variables by betting", on the score differences of Choe & Ramdas 2024, "Comparing sequential
forecasters".

The assumption under which false alarms are rare: as long as the forecast helps, its loss is expected to be at
most that of the reactive rule in each window, given all that came before. Nothing is assumed about
distributions, independence or scales: windows do not overlap, losses are capped at a scale that is known
before the window, and a mean of zero excludes no bet's capital from falling.

Everything is a function of the numbers that are passed in; there is no state.
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

Rule = Literal["max", "forecast"]
SERVED, WORSE, ABOVE, BELOW = 0, 1, 2, 3
"""States of a series: served, or the cause of its withdrawal."""

# Weeks until a false withdrawal, at least, on average; and days until a false return.
_WEEKS_TO_WITHDRAWAL: Final = 200
_DAYS_TO_RETURN: Final = 1
# How far out of the ranges a value must be, as a share of their width.
_ROOM: Final = 0.5
# Bets in units of the reactive rule's mean loss over about a day, all side by side: capital that is lost if the
# loss is larger by one such unit. A loss that exceeds the unit divided by the bet counts as that much.
_ON_WORSE: Final = np.array([0.03, 0.06, 0.12])
_ON_BETTER: Final = np.array([0.06, 0.12, 0.24, 0.48])
# A bet never loses the whole capital.
_ALL_BUT: Final = 0.98
# Differences of this share of the mean load do not matter: they are less than a replica.
_MARGIN: Final = 0.01
# Windows of the mean loss, at least; and the largest loss that changes it, as a multiple of it.
_LEAST_WINDOWS: Final = 12
_MOST_AT_ONCE: Final = 10.0


@dataclass(frozen=True)
class GuardRules:
    """How forecasts are judged.

    Attributes
    ----------
    window:
        Bins of the lead time, in which new replicas start.
    day:
        Bins of a day.
    chance:
        The level of the pinball loss: the critical ratio of the costs of too little and too much
        (:attr:`kforecast.evaluation.capacity.Capacity.best_quantile`).
    """

    window: int
    day: int
    chance: float

    @classmethod
    def of(cls, step: int, day: int, horizon: int, lead: float, cost: float) -> "GuardRules":
        """The rules of bins of ``step`` seconds.

        Parameters
        ----------
        day, horizon:
            Bins of a day, and of a forecast.
        lead:
            Seconds until new replicas serve.
        cost:
            Cost of unserved load, as a multiple of the cost of idle replicas.
        """
        window = max(1, min(horizon, -(-int(lead) // step)))
        return cls(window, day, cost / (1 + cost))

    @property
    def to_withdrawal(self) -> float:
        """Evidence at which a forecast is withdrawn."""
        return max(2.0, _WEEKS_TO_WITHDRAWAL * 7 * self.day / self.window)

    @property
    def to_return(self) -> float:
        """Evidence at which it comes back."""
        return max(10.0, _DAYS_TO_RETURN * self.day / self.window)


@dataclass(frozen=True, eq=False)
class Numbers:
    """What was served at each origin, and what came; float64 ``[series, bins]``, NaN where unknown.

    Attributes
    ----------
    actual:
        The observed value of each bin.
    served:
        The number to scale on that was served when the bin began, for the window from there on.
    reactive:
        The newest observation when the bin began.
    low, high:
        The least and the greatest value that the forecast of that moment allowed for in the bin that began;
        one origin more, ``[series, bins + 1]``.
    """

    actual: np.ndarray
    served: np.ndarray
    reactive: np.ndarray
    low: np.ndarray
    high: np.ndarray


def watch(rules: GuardRules, numbers: Numbers, first: int = 0) -> np.ndarray:
    """The state of each series after each bin, int8 ``[series, bins]``.

    Parameters
    ----------
    first:
        Number of the first bin; windows begin at multiples of the window's length.
    """
    actual = numbers.actual
    states = np.zeros(actual.shape, np.int8)
    if not actual.size:
        return states
    worse, better = (_bets(rules, numbers, first, stakes) for stakes in (_ON_WORSE, _ON_BETTER))
    beyond = _beyond(numbers)
    state = np.zeros(len(actual), np.int8)
    bad, good = np.zeros((len(actual), len(_ON_WORSE))), np.zeros((len(actual), len(_ON_BETTER)))
    for at in range(actual.shape[1]):
        known = np.isfinite(worse[:, at, :1])
        away = (state != SERVED)[:, None]
        bad = np.where(known & ~away, (1 + bad) * (1 + worse[:, at]), bad)
        good = np.where(known & away, (1 + good) * (1 - better[:, at]), good)
        out = beyond[:, at] != SERVED
        found = state.copy()
        found[away[:, 0] & (good.mean(axis=1) >= rules.to_return)] = SERVED
        found[~away[:, 0] & (bad.mean(axis=1) >= rules.to_withdrawal)] = WORSE
        found = np.where(out & (found == SERVED), beyond[:, at], found)
        # A value out of range while withdrawn: the proof begins anew.
        bad[(found != SERVED)], good[(found == SERVED) | out] = 0.0, 0.0
        states[:, at] = state = found
    return states


def pinball(chance: float, number: np.ndarray, came: np.ndarray) -> np.ndarray:
    """Loss of ordering for a number where another load came."""
    short = came - number
    loss: np.ndarray = np.maximum(chance * short, (chance - 1) * short)
    return loss


def relative_losses(rules: GuardRules, numbers: Numbers, first: int = 0) -> np.ndarray:
    """Losses of the served number and of the reactive rule, ``[2, series, bins]``.

    In units of the reactive rule's mean loss before the window. Known at the last bin of each window; NaN
    elsewhere, and where a value of the window is unknown.
    """
    length, bins = rules.window, numbers.actual.shape[1]
    found = np.full((2, *numbers.actual.shape), np.nan)
    begin = np.arange(-first % length, bins - length + 1, length)
    came = numbers.actual[:, begin[:, None] + np.arange(length)].max(axis=2)
    losses = np.stack(
        [pinball(rules.chance, one[:, begin], came) for one in (numbers.served, numbers.reactive)]
    )
    known = np.isfinite(losses)
    mean, level, count = np.zeros(len(came)), np.zeros(len(came)), np.zeros(len(came))
    least = max(_LEAST_WINDOWS, rules.day // length)
    for number, last in enumerate((begin + length - 1).tolist()):
        loss, some = losses[:, :, number], known[1, :, number]
        unit = np.maximum(mean, _MARGIN * level)
        bet = known[:, :, number].all(axis=0) & (unit > 0) & (count >= least)
        found[:, bet, last] = loss[:, bet] / unit[bet]
        found[1, bet, last] += _MARGIN * level[bet] / unit[bet]
        count = np.minimum(count + some, 7 * least)
        # One failure must not blind the guard for days.
        new = np.where(mean > 0, np.minimum(loss[1], _MOST_AT_ONCE * mean), loss[1])
        mean = np.where(some, mean + (new - mean) / np.maximum(count, 1), mean)
        level = np.where(some, level + (np.abs(came[:, number]) - level) / np.maximum(count, 1), level)
    return found


def _bets(rules: GuardRules, numbers: Numbers, first: int, stakes: np.ndarray) -> np.ndarray:
    """Gains of the bets that the forecast is worse, in -1 .. 1, ``[series, bins, stakes]``; NaN without one."""
    served, reactive = (
        np.minimum(loss[..., None] * stakes, 1.0) for loss in relative_losses(rules, numbers, first)
    )
    found: np.ndarray = _ALL_BUT * (served - reactive)
    return found


def _beyond(numbers: Numbers) -> np.ndarray:
    """Where a value is far out of every range, that of its bin and the newest one: ABOVE, BELOW or SERVED."""
    low, high, bins = numbers.low, numbers.high, numbers.actual.shape[1]
    room = _ROOM * (high - low)
    ranges = [slice(0, bins), slice(1, bins + 1)]
    above = np.logical_and.reduce([numbers.actual > (high + room)[:, one] for one in ranges])
    below = np.logical_and.reduce([numbers.actual < (low - room)[:, one] for one in ranges])
    return np.where(above, ABOVE, np.where(below, BELOW, SERVED)).astype(np.int8)
