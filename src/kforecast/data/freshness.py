"""The origin of the next forecasts, and how old each series is there."""

import time
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, Self, get_args

import numpy as np

from kforecast.data.panel import Panel
from kforecast.errors import ConfigError, DataError, StaleError, few
from kforecast.metrics.timerange import utc
from kforecast.window import Lookback, Window, parse_duration, parse_instant

OnStale = Literal["warn", "error"]


@dataclass(frozen=True)
class Origins:
    """The origin of each series' next forecast, and the newest value known there.

    Attributes
    ----------
    panel:
        The history before ``end``. It may end earlier.
    end:
        The bin where a series that is up to date ends.
    bins:
        Index of each series' first forecast bin, int64 ``[series]``: ``end``, except as Kapacity's job
        forecasts.
    newest:
        Index of each series' newest observed bin, int64 ``[series]``; -1 if there is none.
    """

    panel: Panel
    end: int
    bins: np.ndarray
    newest: np.ndarray

    @property
    def age(self) -> np.ndarray:
        """Seconds from the end of each series' newest observed bin to ``end``, int64 ``[series]``."""
        age: np.ndarray = self.panel.seconds(self.end) - self.panel.seconds(self.newest + 1)
        return age

    def ahead(self, now: float) -> float:
        """Seconds from now to the beginning of the bin before ``end``; below zero if it has begun."""
        return self.panel.seconds(self.end - 1) - now

    def rows(self, chosen: np.ndarray) -> "Origins":
        """The origins of some series, given by ascending row numbers."""
        if len(chosen) == self.panel.num_series:
            return self
        panel = self.panel.rows(chosen.tolist())
        return replace(self, panel=panel, bins=self.bins[chosen], newest=self.newest[chosen])

    def unseen(self, window: Window, lookback: Lookback | None) -> np.ndarray:
        """Which series have no value in the bins that a network reads, bool ``[series]``."""
        unseen = self.newest < self.bins - window.context_length
        row = np.flatnonzero(unseen)
        read = self.end + _bins_read(window, lookback)
        read = read[(read >= 0) & (read < self.panel.num_bins)]
        unseen[row] = ~self.panel.observed[row[:, None], read].any(axis=1)
        return unseen

    def guessed(self, window: Window) -> np.ndarray:
        """Which series have less than half of their context observed, bool ``[series]``."""
        guessed: np.ndarray = 2 * self._context(window).sum(axis=1) < window.context_length
        return guessed

    def short(self, window: Window) -> np.ndarray:
        """Which series have fewer bins than a context from their first value to the origin, bool."""
        short: np.ndarray = self.bins - self.panel.observed.argmax(axis=1) < window.context_length
        return short

    def _context(self, window: Window) -> np.ndarray:
        """Which bins of each context are observed, bool ``[series, context]``."""
        position = self.bins[:, None] + np.arange(-window.context_length, 0)
        inside = (position >= 0) & (position < self.panel.num_bins)
        at = np.clip(position, 0, self.panel.num_bins - 1)
        return np.take_along_axis(self.panel.observed, at, axis=1) & inside

    def silence(self, row: int, window: Window) -> int:
        """Seconds of a series' longest gap that reaches into its context."""
        panel, origin = self.panel, int(self.bins[row])
        known = np.flatnonzero(panel.observed[row, :origin])
        # From the newest value before the context on; the history before a first value is no gap.
        begin = max(int(np.searchsorted(known, origin - window.context_length)) - 1, 0)
        begins, ends = known[begin:] + 1, np.append(known[begin + 1 :], origin)
        return int((panel.seconds(ends) - panel.seconds(begins)).max())

    def names(self, chosen: np.ndarray) -> str:
        """The series of a bool ``[series]``, each with its age, for a message."""
        age = self.age
        return few(
            [
                f"{' '.join(self.panel.series[row])} (newest value {age_words(age[row])} old)"
                for row in np.flatnonzero(chosen).tolist()
            ]
        )


def next_origins(panel: Panel, at: int | None = None) -> Origins:
    """One origin for all series: the bin after the newest one of the panel.

    Parameters
    ----------
    at:
        A moment in unix seconds. The origin is then the bin that holds it, which is not complete yet; that
        bin and later ones are not used.

    Raises
    ------
    DataError
        When the history begins after the moment.
    """
    end = panel.num_bins if at is None else panel.bin_at(at)
    known = _before(panel, end, at)
    newest = _newest(known)
    return Origins(known, end, np.full_like(newest, end), newest)


def consumer_origins(panel: Panel, at: int | None = None) -> Origins:
    """The origins of Kapacity's job (contract 7): the bin after each series' own newest one.

    The panel keeps its newest bins, also those under way, and has no row after the moment ``at``.
    """
    end = panel.num_bins if at is None else panel.bin_at(at) + 1
    known = _before(panel, end, at)
    newest = _newest(known)
    return Origins(known, end, newest + 1, newest)


def _bins_read(window: Window, lookback: Lookback | None) -> np.ndarray:
    """The bins that a forecast reads, counted from its origin (all negative); clock changes aside."""
    read = [np.arange(-window.context_length, 0)]
    if lookback is not None:
        ago = window.frequency.season * np.arange(1, lookback.seasons + 1) + lookback.before
        seasons = np.arange(lookback.width(window)) - ago[:, None]
        read += [np.arange(-lookback.recent, 0), seasons[seasons < 0]]
    return np.unique(np.concatenate(read))


def _before(panel: Panel, end: int, at: int | None) -> Panel:
    if end >= panel.num_bins:
        return panel
    if end <= 0:
        raise DataError(f"no value is known before {utc(at or 0)}: the history begins {utc(panel.start)} UTC")
    return replace(panel, values=panel.values[:, :end], observed=panel.observed[:, :end])


def _newest(panel: Panel) -> np.ndarray:
    """The newest observed bin of each series, int64 ``[series]``; -1 if there is none."""
    last = panel.num_bins - 1
    ago = panel.observed[:, ::-1].argmax(axis=1)
    newest: np.ndarray = np.where(panel.observed[np.arange(panel.num_series), last - ago], last - ago, -1)
    return newest


@dataclass(frozen=True)
class StaleRule:
    """When a series counts as stale, and whether it is forecast nevertheless.

    Attributes
    ----------
    max_age:
        The greatest age in seconds of a series that is not stale; None for the horizon, or the context if
        that is longer.
    on_stale:
        ``warn`` forecasts stale series from what is known, ``error`` refuses them.
    """

    max_age: int | None = None
    on_stale: OnStale = "warn"

    @classmethod
    def checked(cls, max_age: str | None, on_stale: OnStale) -> Self:
        """The rule of arguments that come from Python.

        Raises
        ------
        ConfigError
            Naming the argument.
        """
        if on_stale not in get_args(OnStale):
            raise ConfigError(f"on_stale is {on_stale!r}; use warn or error")
        try:
            return cls(None if max_age is None else parse_duration(max_age), on_stale)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"max_age is {max_age!r}; write a duration like '6H' or '30min'") from error

    def stale(self, origins: Origins, window: Window) -> np.ndarray:
        """Which series with a value are stale, bool ``[series]``."""
        if self.max_age is not None:
            old = origins.age > self.max_age
        else:
            old = origins.end - 1 - origins.newest > max(window.prediction_length, window.context_length)
        stale: np.ndarray = old & (origins.newest >= 0)
        return stale


def checked_origins(
    origins: Origins, window: Window, lookback: Lookback | None, rule: StaleRule
) -> np.ndarray:
    """Check that every series can be forecast.

    Returns
    -------
    Which series are stale, bool ``[series]``.

    Raises
    ------
    StaleError
        When a series is stale and the rule refuses it.
    DataError
        When a series has no value, or none in the bins that the network reads.
    """
    silent = origins.newest < 0
    if silent.any():
        names = few([" ".join(origins.panel.series[row]) for row in np.flatnonzero(silent).tolist()])
        raise DataError(f"no value is known of {names}")
    stale = rule.stale(origins, window)
    if rule.on_stale == "error" and stale.any():
        raise StaleError(
            f"stale: {origins.names(stale)}; check their exporters, or allow it with max_age=... or "
            "on_stale=warn"
        )
    unseen = origins.unseen(window, lookback)
    if unseen.any():
        raise DataError(f"too old to forecast: {origins.names(unseen)}. {unseen_words(window, lookback)}")
    return stale


def unseen_words(window: Window, lookback: Lookback | None) -> str:
    """Why a series without a value in the bins that a network reads is not forecast, and the remedy."""
    length = window.history_length(lookback) * window.frequency.step
    return (
        f"The model reads at most {age_words(length)} back: give newer values, or an earlier moment "
        "(forecast.at, in Python at), or leave these series out"
    )


def stale_words(origins: Origins, stale: np.ndarray) -> str:
    """The warning about series that are forecast although they are stale, bool ``[series]``."""
    return f"stale: {origins.names(stale)}; forecast from what is known: see column age"


def guess_words(origins: Origins, guessed: np.ndarray, window: Window) -> str:
    """The warning about series that are up to date but mostly unknown before, bool ``[series]``."""
    rows = np.flatnonzero(guessed).tolist()
    names = few([" ".join(origins.panel.series[row]) for row in rows])
    longest = max(origins.silence(row, window) for row in rows)
    silent = f" (silent for up to {age_words(longest)})" if longest else ""
    return f"more than half of the context of {names} is missing and filled: its forecast is a guess{silent}"


def parse_moment(at: object) -> int | None:
    """A moment in unix seconds: from None, ``now``, unix seconds, ISO 8601 or a datetime.

    Raises
    ------
    ValueError
        When it is none of these.
    """
    if at is None:
        return None
    if at == "now":
        return int(time.time())
    if isinstance(at, bool) or not isinstance(at, str | int | float | datetime | np.number):
        raise ValueError(f"{at!r} is not a time; write now, unix seconds or ISO 8601")
    return parse_instant(at if isinstance(at, str | int | float) else str(at))


def age_words(seconds: float) -> str:
    """A duration in the largest unit of which it has at least two: ``3 d``, ``20 h``, ``90 min``."""
    units = (("d", 86_400), ("h", 3600), ("min", 60))
    unit, size = next((unit for unit in units if seconds >= 2 * unit[1]), ("s", 1))
    return f"{round(seconds / size, 1):g} {unit}"
