"""Engine: reads the newest history, forecasts from it, and takes over new artifacts."""

import logging
import time
from collections.abc import Sequence

import numpy as np

from kforecast.artifact import METADATA
from kforecast.data.events.past import EventSearch
from kforecast.data.freshness import next_origins
from kforecast.data.panel import Panel
from kforecast.errors import ArtifactError, DataError, KforecastError, few
from kforecast.following import Recent, WindowForecasts
from kforecast.forecaster import Forecaster
from kforecast.guard import NAMES
from kforecast.serving.board import Board
from kforecast.serving.feed import Feed
from kforecast.serving.history import History
from kforecast.serving.lean import give_back
from kforecast.serving.model import Model
from kforecast.serving.snapshot import Snapshot
from kforecast.shadow import GuardSettings, Withdrawn, origins_to_keep, withdrawn, words

log = logging.getLogger(__name__)

# Seconds between two attempts after a failure, at least and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 60.0
# Seconds of the past that are shown.
_DAY = 86_400


class Engine:
    """Keeps a :class:`Board` up to date; all its methods belong to one thread.

    Parameters
    ----------
    board:
        Gets the snapshots, and counts.
    model:
        The artifact and the events it knows; looked at again before every forecast.
    feed:
        Where the history comes from.
    settle:
        Seconds after a bin's end until it is read.
    levels:
        Quantiles that are made before a snapshot is shown, so that no answer waits for them.
    guard:
        Settings of the guard that withdraws forecasts; None without one.

    Raises
    ------
    ArtifactError, ConfigError
        When there is no usable artifact, or no usable file of events, at first.
    """

    def __init__(
        self,
        board: Board,
        model: Model,
        feed: Feed,
        settle: float,
        levels: Sequence[float | None] = (),
        guard: GuardSettings | None = None,
    ) -> None:
        self.board, self.model, self.feed, self.settle = board, model, feed, settle
        self.levels, self.guard = levels, guard
        artifact, self._events = model.load(), model.known_events()
        self.live = Live(model.forecaster(artifact, self._events), artifact.identity, feed, guard)
        self._seen = self.model.signature()
        self.next_attempt = 0.0  # monotonic seconds before which a failure is not tried again
        self._pause = _FIRST_PAUSE
        self.next_artifact, self._artifact_pause = 0.0, _FIRST_PAUSE  # the same for a new artifact
        self._behind = False
        self._unverified: tuple[object, ...] = ()  # signature of an artifact that has no metadata

    def step(self) -> bool:
        """Do what is due: take over a new artifact, read a new bin and forecast; True if something was.

        Failures are counted and said; the last snapshot stays.
        """
        if time.monotonic() < self.next_attempt:
            return False
        now = self.board.clock()
        signature = self.model.signature()
        changed = signature != self._seen and time.monotonic() >= self.next_artifact
        origin = self.live.history.grid.bin_at(int(now - self.settle))
        if not changed and origin == self.live.origin and not self._behind:
            return False
        cause = "artifact"
        try:
            live = self.live
            if changed:
                self._seen = signature
                live = self._replaced()
                if live is self.live:  # it is back, or was touched
                    changed, self.board.refused_artifact, self._artifact_pause = False, "", _FIRST_PAUSE
                origin = live.history.grid.bin_at(int(now - self.settle))
            cause = "fetch"
            begun = time.monotonic()
            late = live.read(origin)
            _count(self.board.fetches, time.monotonic() - begun)
            cause, begun = "forecast", time.monotonic()
            snapshot = live.forecast()
            for level in self.levels:
                if snapshot.quantiles_of is not None:
                    snapshot.at_level(level)
            _count(self.board.forecasts, time.monotonic() - begun)
        except Exception as error:
            if cause == "forecast":
                live.origin = None  # read as a whole next time; nothing half-made is followed
            self._failed("data" if isinstance(error, DataError) else cause, error, changed)
            return True
        if live is not self.live:
            log.info("%s: new artifact %s serves", self.model.directory, snapshot.artifact[:12])
            self.live = live
        if changed:
            self.board.refused_artifact, self._artifact_pause = "", _FIRST_PAUSE
        self.board.snapshot, self.board.reason = snapshot, ""
        self._pause = _FIRST_PAUSE
        # A series that was up to date and lacks its newest bin may only be late.
        again = late and not self._behind
        self._behind = again
        give_back()
        self.next_attempt = time.monotonic() + (max(self.settle, _FIRST_PAUSE) if again else 0.0)
        return True

    def _replaced(self) -> "Live":
        """What serves a new artifact."""
        self._read_events()
        artifact = self.model.load()
        if self.model.signature() != self._seen:
            raise ArtifactError(f"{self.model.directory}: changed while it was read")
        served, identity = self.live.forecaster, artifact.identity
        assert served.artifact is not None, "loaded"
        same = identity == self.live.identity and artifact.metadata == served.artifact.metadata
        if not same and artifact.metadata is None and self._seen != self._unverified:
            self._unverified, self._seen = self._seen, ()
            raise ArtifactError(f"{self.model.directory}: no {METADATA}; perhaps it is still being copied")
        forecaster = self.model.forecaster(artifact, self._events)
        if same and forecaster.plan == served.plan:
            return self.live
        return Live(forecaster, identity, self.feed, self.guard)

    def _read_events(self) -> None:
        """Read the file of events; a wrong one is said, and the events before it count."""
        try:
            self._events, self.board.refused_events = self.model.known_events(), ""
        except KforecastError as error:
            self.board.failures["events"] += 1
            self.board.refused_events = str(error)
            log.warning("Events refused, the old ones stay: %s", error)

    def _failed(self, cause: str, error: Exception, changed: bool) -> None:
        self.board.failed(cause, error)
        words = error if isinstance(error, KforecastError) else repr(error)
        if changed:
            # The failed attempt must not stop the artifact that serves: it goes on at the next step.
            self.board.refused_artifact = "" if cause == "fetch" else str(words)
            if cause == "fetch":
                log.warning("The new artifact waits, because its history cannot be read: %s", words)
            else:
                log.warning("New artifact refused, the old one stays: %s", words)
            if cause != "artifact":
                self._seen = ()  # its history could not be read: try again
            self.next_artifact = time.monotonic() + self._artifact_pause
            self._artifact_pause = min(2 * self._artifact_pause, _LONGEST_PAUSE)
            return
        if isinstance(error, KforecastError):
            log.warning("%s failed, next attempt in %.0f s: %s", cause.capitalize(), self._pause, words)
        else:
            log.exception("%s failed, next attempt in %.0f s", cause.capitalize(), self._pause)
        self.next_attempt = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)


class Live:
    """One artifact with the history it reads, and the forecasts that its next ones follow."""

    def __init__(
        self, forecaster: Forecaster, identity: str, feed: Feed, guard: GuardSettings | None = None
    ) -> None:
        self.forecaster, self.identity = forecaster, identity
        self.guard = guard
        self.withdrawn: dict[tuple[str, str], Withdrawn] = {}
        self.history = History(feed, forecaster, 0 if guard is None else guard.bins(forecaster))
        self.origin: int | None = None
        self.recent: Recent | None = None
        self._search = EventSearch()
        self._changed = np.empty(0, np.int64)

    def read(self, origin: int) -> bool:
        """Read the bins before an origin (number of its bin on the grid).

        Returns
        -------
        Whether to try again: a series that had the bin before the newest one lacks the newest one, or a
        series could not be read as a whole.

        Raises
        ------
        SourceError, DataError
            As :meth:`History.load`.
        """
        whole = self.history.panel is None or self.origin is None or origin < self.origin
        if whole:
            self.origin = self.recent = None
            self._search = EventSearch()
            self.history.load(origin)
            self._changed = np.empty(0, np.int64)
            if self.forecaster.plan is not None:
                for warning in self.forecaster.plan.warnings(self._panel):
                    log.warning("%s", warning)
        else:
            before = self._panel.series
            self._changed = self.history.extend(origin)
            if self._panel.series != before:
                self.recent, self._search = None, EventSearch()  # their rows are those of other series
        self.origin = origin
        observed = self._panel.observed
        late = (observed[:, -2:-1] & ~observed[:, -1:]).any()
        return bool(late or (whole and self.history.problems))

    @property
    def _panel(self) -> Panel:
        assert self.history.panel is not None, "read first"
        return self.history.panel

    def forecast(self) -> Snapshot:
        """Forecast all series from the end of the history.

        Raises
        ------
        DataError
            When no series can be forecast.
        """
        panel, forecaster = self._panel, self.forecaster
        unknown = {*forecaster.unknown(panel.series)}
        served = [row for row, pair in enumerate(panel.series) if pair not in unknown]
        if not served:
            raise DataError(
                f"{forecaster.name} knows none of the series: {few([' '.join(p) for p in panel.series])}"
            )
        mine = panel if not unknown else panel.rows(served)
        rows = np.array(served)
        changed = np.flatnonzero(np.isin(rows, self._changed))
        keep = 0 if self.guard is None else origins_to_keep(forecaster)
        made, recent = forecaster.forecast_next(mine, self.recent, keep, self._search)
        if recent is not None and recent is self.recent and len(changed):
            afresh = forecaster.earlier(mine.rows(changed.tolist()), keep)
            assert afresh is not None
            recent.replace(changed, afresh)
            made, recent = forecaster.forecast_next(mine, recent, keep, self._search)
        self.recent, self._changed = recent, np.empty(0, np.int64)
        if not np.isfinite(made.values).all():
            bad = np.flatnonzero(~np.isfinite(made.values).all(axis=1))
            log.warning("not finite, left out: %s", few([" ".join(mine.series[row]) for row in bad]))
        return self._snapshot(mine, rows, made, self._judged(mine, rows))

    def _judged(self, mine: Panel, rows: np.ndarray) -> dict[int, Withdrawn] | None:
        """The series whose forecast the guard withdraws, by row of the panel; None without a guard."""
        if self.guard is None or self.recent is None:
            return None
        found = withdrawn(self.forecaster, mine, self.guard, self.recent, self.withdrawn)
        # The history that is judged may be younger than a withdrawal, which must not end with it.
        self.withdrawn = {mine.series[row]: one for row, one in found.items()}
        return {int(rows[row]): one for row, one in found.items()}

    def _snapshot(
        self, mine: Panel, rows: np.ndarray, made: WindowForecasts, judged: dict[int, Withdrawn] | None
    ) -> Snapshot:
        panel, forecaster, window = self._panel, self.forecaster, self.forecaster.window
        horizon, end = window.prediction_length, panel.num_bins
        values = np.full((panel.num_series, horizon), np.nan, np.float32)
        values[rows] = made.values
        origins = next_origins(panel)
        newest = origins.newest
        row = np.arange(panel.num_series)
        observed = np.where(newest >= 0, panel.values[row, newest].astype(np.float64), np.nan)
        unseen, guessed = origins.unseen(window, forecaster.net.lookback), origins.guessed(window)
        missing, notes, known = {}, {}, {*rows.tolist()}
        for number, pair in enumerate(panel.series):
            if pair in self.history.problems:
                notes[number] = f"not read last time: {self.history.problems[pair]}"
            if number not in known:
                missing[number] = "not in the artifact: train it on this series first"
            elif newest[number] < 0:
                missing[number] = "no value is known"
            elif unseen[number]:
                missing[number] = "no value in the bins that the model reads"
            elif not np.isfinite(values[number]).all():
                missing[number] = "the forecast is not a finite number"
            elif judged and number in judged:
                missing[number] = words(judged[number])
            elif guessed[number]:
                notes.setdefault(number, "more than half of its context is missing and filled: a guess")

        # Without the panel, which would stay in memory for as long as the snapshot.
        quantiles = None if forecaster.intervals is None else forecaster.quantiles_for(mine)
        shape = (panel.num_series, horizon)

        def quantiles_of(levels: Sequence[float]) -> np.ndarray:
            assert quantiles is not None
            found = np.full((*shape, len(levels)), np.nan, np.float32)
            found[rows] = quantiles(np.arange(len(rows)), made, levels)
            return found

        return Snapshot(
            panel.series,
            panel.seconds(end + np.arange(horizon + 1)),
            values,
            observed,
            np.where(newest >= 0, panel.seconds(newest + 1), 0),
            missing,
            notes,
            self.identity,
            None if quantiles is None else quantiles_of,
            self._past(rows),
            None if judged is None else {row: NAMES[one.cause] for row, one in judged.items()},
        )

    def _past(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Bins of the last day, their values, and the forecasts made when they began."""
        panel, recent = self._panel, self.recent
        count = max(1, min(panel.num_bins, _DAY // panel.frequency.step))
        bins = np.arange(panel.num_bins - count, panel.num_bins)
        observed = np.where(panel.observed[:, bins], panel.values[:, bins], np.nan).astype(np.float64)
        forecast = np.full(observed.shape, np.nan)
        if recent is not None:
            number = panel.first_bin + bins
            place = number % len(recent.origins)
            kept = recent.origins[place] == number
            forecast[np.ix_(rows, kept)] = recent.values[:, place[kept], 0]
            plan = self.forecaster.plan
            factor = None if plan is None else plan.factors(panel, np.arange(panel.num_series)[:, None], bins)
            forecast *= 1 if factor is None else factor
        return panel.seconds(bins), observed, forecast


def _count(durations: list[float], seconds: float) -> None:
    durations[:] = [durations[0] + 1, durations[1] + seconds, seconds]
