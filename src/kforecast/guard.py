"""Guard: withdraws the forecast of a series that stopped helping, and brings it back by proof.

Whenever a lead time has passed, the number that was served for it and the newest observation of that moment,
on which a reactive rule scales, are scored by the same asymmetric loss. Two e-detectors of the
Shiryaev-Roberts kind bet on the difference (Shin, Ramdas & Rinaldo 2024, "E-detectors: a nonparametric
framework for sequential change detection"): on "the forecast is worse" while it is served, on "the forecast
is not worse" while it is withdrawn. The bets are those of Waudby-Smith & Ramdas 2024, "Estimating means of
bounded random variables by betting", on the score differences of Choe & Ramdas 2024, "Comparing sequential
forecasters". Several bets run side by side, and their mean counts.

The assumption of the bound on false withdrawals: as long as the forecast helps, its loss in each window is
expected to exceed that of the reactive rule by at most a margin, given everything before the window. Losses
count up to a limit that is known before the window. Nothing is assumed about distributions, independence or
stationarity. Windows do not overlap, so that all of a window is known before the next bet.

Everything here is a function of the arguments; nothing is kept.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

SERVED, WORSE, ABOVE, BELOW = 0, 1, 2, 3
"""States of a series: served, or the cause of its withdrawal."""
NAMES: Final = ("served", "worse", "above", "below")

# Weeks until a false withdrawal, at least, on average; and days until a false return.
_WEEKS_TO_WITHDRAWAL: Final = 200
_DAYS_TO_RETURN: Final = 7
# How far out of the ranges a value must be, as a share of their width.
_ROOM: Final = 0.5
# Stakes of the bets: the share of the capital that is lost when the loss is larger by one unit. The unit is
# the reactive rule's mean loss. A loss counts up to the unit divided by the stake.
_STAKES: Final = np.array([0.03, 0.06, 0.12, 0.24, 0.48])
# A bet never loses the whole capital.
_MOST_LOST: Final = 0.98
# A loss that is larger by this share of the mean load does not matter: it is less than a replica.
_MARGIN: Final = 0.01
# Windows that make mean loss and mean load known, at least; days that they are the mean of; and the largest
# loss that changes the mean, as a multiple of it, so that one failure does not blind the guard for days.
_LEAST_WINDOWS: Final = 12
_DAYS_OF_MEAN: Final = 7
_WARM_UPS: Final = 7
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
        Level of the pinball loss, between 0 and 1: the critical ratio of the costs of too little and too much
        (:attr:`kforecast.simulation.capacity.Capacity.best_quantile`).
    """

    window: int
    day: int
    chance: float

    @classmethod
    def of(cls, step: int, day: int, horizon: int, lead: float, chance: float) -> "GuardRules":
        """The rules for a lead time in seconds.

        Parameters
        ----------
        step:
            Seconds per bin.
        day, horizon:
            Bins of a day, and of a forecast.
        """
        return cls(max(1, min(horizon, -(-int(lead) // step))), day, chance)

    @property
    def to_withdraw(self) -> float:
        """Evidence at which a forecast is withdrawn: windows until a false alarm, at least, on average."""
        return max(1.0, _WEEKS_TO_WITHDRAWAL * 7 * self.day / self.window)

    @property
    def to_return(self) -> float:
        """Evidence at which it comes back."""
        return max(20.0, _DAYS_TO_RETURN * self.day / self.window)

    @property
    def warm_up(self) -> int:
        """Bins before the first bet: they make the scale of the losses known."""
        return max(_LEAST_WINDOWS * self.window, self.day)

    @property
    def history(self) -> int:
        """Bins before the first forecast after which the scale is that of a server that has long run."""
        return _WARM_UPS * self.warm_up


@dataclass(frozen=True, eq=False)
class Numbers:
    """What was served, and what came; float64 ``[series, bins]``, NaN where unknown.

    Attributes
    ----------
    actual:
        The observed value of each bin.
    served:
        The number that was served when the bin began, for the window from there on.
    reactive:
        The newest observation when the bin began.
    low, high:
        The least and the greatest value that the forecast made when a bin began allowed for in that bin; for
        one bin more, which has just begun, ``[series, bins + 1]``.
    """

    actual: np.ndarray
    served: np.ndarray
    reactive: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of_larger(
        cls, actual: np.ndarray, oldest: int, forecast: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> "Numbers":
        """The numbers where the larger of forecast and newest observation is served.

        Parameters
        ----------
        oldest:
            Bins after which an observation is too old.
        forecast:
            The largest forecast over the window from each bin on, float64 ``[series, bins]``.
        """
        reactive = newest_before(actual, oldest)
        served = np.where(np.isnan(reactive), forecast, np.maximum(forecast, reactive))
        return cls(actual, served, reactive, low, high)


@dataclass(frozen=True, eq=False)
class DryRun:
    """The withdrawals within a span.

    Attributes
    ----------
    states:
        State of each series at each bin of the span (:data:`NAMES`), int8 ``[series, bins]``.
    step:
        Seconds per bin.
    """

    states: np.ndarray
    step: int

    def only(self, series: int) -> "DryRun":
        """That of one series, given by its row."""
        return DryRun(self.states[series : series + 1], self.step)

    @property
    def begins(self) -> np.ndarray:
        """Where a withdrawal begins, bool ``[series, bins]``."""
        away = self.states != SERVED
        begins: np.ndarray = away.copy()
        begins[:, 1:] &= ~away[:, :-1]
        return begins

    @property
    def count(self) -> int:
        """Number of withdrawals of all series."""
        return int(self.begins.sum())

    @property
    def hours(self) -> float:
        """Hours of all series without a forecast."""
        return float((self.states != SERVED).sum() * self.step / 3600)

    @property
    def words(self) -> str:
        """The withdrawals in one sentence."""
        if not self.count:
            return "Guard: a server would have withdrawn no forecast."
        series = int((self.states != SERVED).any(axis=1).sum())
        times = "once" if self.count == 1 else f"{self.count:,} times"
        return (
            f"Guard: a server would have withdrawn forecasts {times}, for {self.hours:,.0f} hours in all, of "
            f"{series:,} of {len(self.states):,} series."
        )

    @property
    def causes(self) -> dict[str, int]:
        """Number of withdrawals by their cause."""
        return {
            name: int((self.begins & (self.states == cause)).sum())
            for cause, name in enumerate(NAMES)
            if cause != SERVED
        }

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {"withdrawals": self.count, "hours": self.hours, "causes": self.causes}


@dataclass(frozen=True, eq=False)
class Withdrawals:
    """Withdrawals that are in force: the state of each series, int8 ``[series]``, and the bin since when.

    The bins, int64 ``[series]``, may lie before the first one that is watched.
    """

    state: np.ndarray
    since: np.ndarray


def watch(
    rules: GuardRules, numbers: Numbers, first: int = 0, known: Withdrawals | None = None
) -> np.ndarray:
    """The state of each series after each bin, int8 ``[series, bins]``.

    Parameters
    ----------
    first:
        Number of the first bin on the grid: windows begin at multiples of their length.
    known:
        Withdrawals that are known from before. They end by proof alone, whatever these bins tell of them.
    """
    series, bins = numbers.actual.shape
    states = np.zeros((series, bins), np.int8)
    losses = relative_losses(rules, numbers, first)
    beyond = _beyond(numbers)
    state = np.zeros(series, np.int8)
    since = np.full(series, bins)
    if known is not None:
        state = np.where(known.since < 0, known.state, state).astype(np.int8)
        since = np.where(known.state != SERVED, known.since, bins)
    bad, good = np.zeros((series, len(_STAKES))), np.zeros((series, len(_STAKES)))
    # Between the ends of windows nothing changes, unless a value leaves the range or an alarm is known.
    moving = np.isfinite(losses[0]).any(axis=0) | (beyond != SERVED).any(axis=0)
    moving[since[(since >= 0) & (since < bins)]] = True
    for at in range(bins):
        if not moving[at]:
            states[:, at] = state
            continue
        scored = np.isfinite(losses[0, :, at])
        served = state == SERVED
        rows = np.flatnonzero(scored & served)
        bad[rows] = (1 + bad[rows]) * (1 + _gains(losses[:, rows, at]))
        rows = np.flatnonzero(scored & ~served)
        good[rows] = (1 + good[rows]) * (1 - _gains(losses[:, rows, at]))
        out = beyond[:, at]
        state = state.copy()
        state[served & (bad.mean(axis=1) >= rules.to_withdraw)] = WORSE
        state[~served & (good.mean(axis=1) >= rules.to_return) & (out == SERVED)] = SERVED
        state = np.where(state == SERVED, out, state)
        if known is not None:
            state = np.where(since == at, known.state, state).astype(np.int8)
        bad[state != SERVED] = 0.0
        # A value out of range while a forecast is withdrawn: its proof begins anew.
        good[(state == SERVED) | (out != SERVED)] = 0.0
        states[:, at] = state
    return states


def since(states: np.ndarray, known: Withdrawals | None = None) -> Withdrawals:
    """The withdrawals in force after the last bin of :func:`watch`; the bin is that of the alarm."""
    bins = states.shape[1]
    ended = bins - np.argmax(states[:, ::-1] == SERVED, axis=1)  # the bin after the last one served
    always = (states != SERVED).all(axis=1)
    begun = np.where(always, 0, ended)
    if known is not None:
        begun = np.where((known.state != SERVED) & (begun <= np.maximum(known.since, 0)), known.since, begun)
    last = states[:, -1] if bins else np.zeros(len(states), np.int8)
    return Withdrawals(last, np.where(last == SERVED, bins, begun))


def pinball(chance: float, number: np.ndarray, came: np.ndarray) -> np.ndarray:
    """Loss of ordering for a number when another load comes."""
    short = came - number
    loss: np.ndarray = np.maximum(chance * short, (chance - 1) * short)
    return loss


def relative_losses(rules: GuardRules, numbers: Numbers, first: int = 0) -> np.ndarray:
    """Losses of the served number, and of the reactive rule plus the margin, ``[2, series, bins]``.

    In units of the reactive rule's mean loss before the window. They stand at the last bin of each window;
    NaN elsewhere, and where a value of the window, or the unit, is unknown.
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
    least = rules.warm_up // length
    for number, last in enumerate((begin + length - 1).tolist()):
        loss, some = losses[:, :, number], known[1, :, number]
        unit = np.maximum(mean, _MARGIN * level)
        bet = known[0, :, number] & some & (unit > 0) & (count >= least)
        found[0, bet, last] = loss[0, bet] / unit[bet]
        found[1, bet, last] = (loss[1, bet] + _MARGIN * level[bet]) / unit[bet]
        count = np.minimum(count + some, _DAYS_OF_MEAN * least)
        new = np.where(mean > 0, np.minimum(loss[1], _MOST_AT_ONCE * mean), loss[1])
        mean = np.where(some, mean + (new - mean) / np.maximum(count, 1), mean)
        level = np.where(some, level + (np.abs(came[:, number]) - level) / np.maximum(count, 1), level)
    return found


def newest_before(value: np.ndarray, oldest: int) -> np.ndarray:
    """The newest known value before each bin, ``[series, bins]``; NaN if none is less than ``oldest`` old."""
    bins = np.arange(value.shape[1])
    newest = np.maximum.accumulate(np.where(np.isnan(value), -1, bins), axis=1)
    found = np.take_along_axis(value, np.maximum(newest, 0), axis=1)
    found[(newest < 0) | (bins - newest >= oldest)] = np.nan
    first = np.full((len(value), 1), np.nan)
    return np.concatenate([first, found[:, :-1]], axis=1)


def _gains(losses: np.ndarray) -> np.ndarray:
    """Gains of the bets that the forecast is worse, in -1 .. 1, ``[series, stakes]``."""
    served, reactive = np.minimum(losses[..., None] * _STAKES, 1.0)
    gains: np.ndarray = _MOST_LOST * (served - reactive)
    return gains


def _beyond(numbers: Numbers) -> np.ndarray:
    """Where a value is far out of both ranges, of its bin and of the next: ABOVE, BELOW or SERVED, int8."""
    low, high, bins = numbers.low, numbers.high, numbers.actual.shape[1]
    room = _ROOM * (high - low)
    ranges = [slice(0, bins), slice(1, bins + 1)]
    above = np.logical_and.reduce([numbers.actual > (high + room)[:, one] for one in ranges])
    below = np.logical_and.reduce([numbers.actual < (low - room)[:, one] for one in ranges])
    return np.where(above, ABOVE, np.where(below, BELOW, SERVED)).astype(np.int8)
