"""Snapshot: what is known and forecast at one origin, and the numbers that are honest at a moment."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from kforecast.data.freshness import age_words
from kforecast.errors import few
from kforecast.intervals import check_levels

Rule = Literal["max", "forecast"]
# Levels whose quantiles are kept: those of the settings, and a few that requests name.
_MOST_LEVELS = 32


class AskError(Exception):
    """A question that no snapshot can answer: a wrong level, lead or window."""


class UnknownSeriesError(Exception):
    """A series that the server does not read."""


class NothingHonestError(Exception):
    """There is no number that is honest now; the message says why."""


@dataclass(frozen=True)
class Answer:
    """One number for an autoscaler, and its parts.

    Attributes
    ----------
    value:
        The number to scale on: the forecast, or the newest observation if that is larger and the rule is
        ``max``.
    forecast:
        The forecast at the quantile: the one at the lead, or the largest of the window.
    begin, end:
        Unix seconds of the first bin that counted, and of the end of the last one.
    observed:
        The newest observation.
    observed_end:
        Unix seconds at which its bin ended.
    origin:
        Unix seconds of the first forecast bin.
    at:
        The moment of the answer, unix seconds.
    """

    workload: str
    metric: str
    value: float
    forecast: float
    quantile: float | None
    lead: float | None
    window: float | None
    rule: Rule
    begin: int
    end: int
    observed: float
    observed_end: int
    origin: int
    at: float
    artifact: str


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What is known and forecast at one origin; it never changes.

    Attributes
    ----------
    series:
        ``(workload, metric)`` of each row.
    starts:
        Unix seconds at which the forecast bins begin, and at last the end of the last one, int64 ``[P + 1]``.
    values:
        Point forecasts, float32 ``[series, P]``.
    observed:
        The newest observed value of each series, float64 ``[series]``; NaN without one.
    observed_end:
        Unix seconds at which the bin of that value ended, int64 ``[series]``; 0 without one.
    missing:
        Why a series has no forecast, by row.
    notes:
        Doubts about a series that is forecast, by row.
    artifact:
        Hash of the artifact.
    quantiles_of:
        Quantiles at levels, float32 ``[series, P, levels]``.
    past:
        Newest bins: their begin, int64 ``[bins]``; the observed values, and the forecasts made when they
        began, float64 ``[series, bins]``; NaN where unknown.
    withdrawn:
        The rows whose forecast the guard has withdrawn, and why (:data:`kforecast.guard.NAMES`); ``missing``
        has them too. None without a guard.
    """

    series: tuple[tuple[str, str], ...]
    starts: np.ndarray
    values: np.ndarray
    observed: np.ndarray
    observed_end: np.ndarray
    missing: dict[int, str]
    notes: dict[int, str]
    artifact: str
    quantiles_of: Callable[[Sequence[float]], np.ndarray] | None
    past: tuple[np.ndarray, np.ndarray, np.ndarray]
    withdrawn: dict[int, str] | None = None
    rows: dict[tuple[str, str], int] = field(init=False, repr=False)
    _levels: dict[float, np.ndarray] = field(default_factory=dict, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", {pair: row for row, pair in enumerate(self.series)})

    @property
    def origin(self) -> int:
        """Unix seconds of the first forecast bin."""
        return int(self.starts[0])

    @property
    def end(self) -> int:
        """Unix seconds at which the last forecast bin ends."""
        return int(self.starts[-1])

    @property
    def horizon(self) -> int:
        """Seconds from the first forecast bin to the end of the last one."""
        return self.end - self.origin

    def row(self, workload: str, metric: str) -> int:
        """The row of a series; UnknownSeriesError names the known ones."""
        found = self.rows.get((workload, metric))
        if found is None:
            known = few([f"{one[0]} {one[1]}" for one in self.series])
            raise UnknownSeriesError(
                f"unknown series: workload {workload!r}, metric {metric!r}; known: {known}"
            )
        return found

    def at_level(self, level: float | None) -> np.ndarray:
        """Forecasts at a quantile, ``[series, P]``; None for the point forecast.

        Raises
        ------
        AskError
            When the level is out of range, or the artifact has no intervals.
        """
        if level is None:
            return self.values
        with self._lock:
            found = self._levels.get(level)
            if found is None:
                try:
                    check_levels([level])
                except ValueError as error:
                    raise AskError(str(error)) from error
                if self.quantiles_of is None:
                    raise AskError("the artifact has no calibrated intervals, so there are no quantiles")
                found = self.quantiles_of([level])[..., 0]
                if len(self._levels) < _MOST_LEVELS:
                    self._levels[level] = found
        return found

    def refusal(self, row: int, now: float) -> str | None:
        """Why there is no honest number of a series now; None if there is one."""
        if (reason := self.missing.get(row)) is not None:
            return reason
        if now < self.origin:
            return f"the clock shows {age_words(self.origin - now)} before the first forecast bin"
        age = now - self.observed_end[row]
        if age > self.horizon:
            old, most = age_words(age), age_words(self.horizon)
            return f"stale: the newest value is {old} old, more than the horizon of {most}"
        if now >= self.end:
            return f"stale: the last forecast bin ended {age_words(now - self.end)} ago"
        return None

    def served(self, now: float) -> np.ndarray:
        """Which series have an honest number now, bool ``[series]``."""
        if not self.origin <= now < self.end:
            return np.zeros(len(self.series), bool)
        served: np.ndarray = now - self.observed_end <= self.horizon
        served[[*self.missing]] = False
        return served

    def steps(self, now: float, *, lead: float | None = None, window: float | None = None) -> slice | None:
        """The forecast bins that a lead or a window covers; None if the last bin ends before.

        A lead covers the bin of the moment so far ahead. A window covers the bin under way and all bins
        that begin within it; a window up to the horizon ends with the last bin.

        Raises
        ------
        AskError
            When the lead or the window is below 0 or beyond the horizon.
        """
        name, seconds = ("lead", lead) if lead is not None else ("window", window)
        assert seconds is not None
        if not 0 <= seconds <= self.horizon:
            raise AskError(
                f"{name} is {seconds:g}; it must be between 0 and the horizon, {self.horizon} seconds"
            )
        first = int(np.searchsorted(self.starts, now, side="right")) - 1
        last = int(np.searchsorted(self.starts, now + seconds, side="right")) - 1
        count = len(self.starts) - 1
        if lead is not None:
            return slice(last, last + 1) if 0 <= last < count else None
        if not 0 <= first < count:
            return None
        # A window that ends where a bin begins does not reach into that bin.
        if seconds > 0 and last < len(self.starts) and self.starts[last] == now + seconds:
            last -= 1
        return slice(first, min(last, count - 1) + 1)

    def answer(
        self,
        row: int,
        now: float,
        *,
        quantile: float | None,
        lead: float | None = None,
        window: float | None = None,
        rule: Rule = "max",
    ) -> Answer:
        """The number of a series at a moment, given one of ``lead`` and ``window`` in seconds.

        Raises
        ------
        AskError
            When the quantile, lead or window is wrong.
        NothingHonestError
            When there is no honest number.
        """
        forecasts = self.at_level(quantile)
        steps = self.steps(now, lead=lead, window=window)
        if (reason := self.refusal(row, now)) is not None:
            raise NothingHonestError(reason)
        if steps is None:
            raise NothingHonestError(f"the forecast ends before the lead of {lead:g} seconds")
        forecast = float(forecasts[row, steps].max())
        observed = float(self.observed[row])
        value = max(forecast, observed) if rule == "max" else forecast
        if not np.isfinite([forecast, value]).all():
            raise NothingHonestError("the forecast or the newest observation is not a finite number")
        workload, metric = self.series[row]
        return Answer(
            workload,
            metric,
            value,
            forecast,
            quantile,
            lead,
            window,
            rule,
            int(self.starts[steps.start]),
            int(self.starts[steps.stop]),
            observed,
            int(self.observed_end[row]),
            self.origin,
            now,
            self.artifact,
        )
