"""Forecaster: the public interface to an artifact. It takes frames and returns frames."""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from kforecast.artifact import Artifact
from kforecast.data.findings import refuse_coarse, serious_warnings
from kforecast.data.frames import AGE, forecast_frame
from kforecast.data.freshness import (
    OnStale,
    Origins,
    StaleRule,
    age_words,
    checked_origins,
    consumer_origins,
    guess_words,
    next_origins,
    parse_moment,
    stale_words,
)
from kforecast.data.reading import read_panel
from kforecast.errors import ArtifactError, ConfigError, DataError, few
from kforecast.files.directory import check_writable
from kforecast.files.lock import sole_writer
from kforecast.intervals import check_levels, column
from kforecast.metrics.frame import FrameSource, source_of
from kforecast.metrics.source import MetricSource
from kforecast.metrics.timerange import utc
from kforecast.predictor import Predictor
from kforecast.window import Window

if TYPE_CHECKING:
    from kforecast.evaluation.evaluation import Evaluation

log = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class Forecaster(Predictor):
    """A :class:`~kforecast.predictor.Predictor` that takes and returns frames.

    :meth:`load` makes one from an artifact directory, :func:`kforecast.train` from a frame of traffic. The
    attributes are those of the Predictor.
    """

    @classmethod
    def load(cls, directory: Path | str) -> Self:
        """Load an artifact directory; one without metadata.json (made elsewhere) logs a warning.

        Raises
        ------
        ArtifactError
            When the directory does not hold a consistent artifact.
        """
        return cls.of(Artifact.load(directory), str(directory))

    @classmethod
    def pretrained(cls, window: Window) -> Self:
        """A forecaster that needs no training: its weights come with the package (docs/pretrained.md).

        It forecasts any series, from an hour of history on; 28 days make it better. Days and weeks are those
        of UTC; ``kforecast.train(model="pretrained", max_epochs=0, timezone=...)`` gives another time zone.

        Raises
        ------
        ConfigError
            When bins are finer than a minute, or the horizon is longer than 96 steps.
        """
        return cls.of(Artifact.pretrained(window), "pretrained")

    def save(self, directory: Path | str) -> None:
        """Write an artifact directory as kforecast-train does; :meth:`load` reads it.

        An existing artifact is replaced as a whole, with its artifacts of single series (``per_series/``).

        Raises
        ------
        ArtifactError
            When this forecaster was not made from an artifact.
        OutputError
            When the file system refuses, or a run is writing there; an existing artifact then stays.
        """
        if self.artifact is None:
            raise ArtifactError(f"{self.name}: not made from an artifact, so there is nothing to save")
        target = Path(directory)
        check_writable(target)
        with sole_writer(target, f"process {os.getpid()}"):
            replace(self.artifact, intervals=self.intervals).save(target)

    def forecast(
        self,
        history: pd.DataFrame | MetricSource,
        *,
        quantiles: Sequence[float] = (),
        as_consumed: bool = False,
        at: str | float | datetime | None = None,
        max_age: str | None = None,
        on_stale: OnStale = "warn",
    ) -> pd.DataFrame:
        """Forecast all series from one origin: the bin after the newest complete one of the history.

        A series whose own newest value is older is forecast from what is known there. If it is stale, a
        warning names it.

        Parameters
        ----------
        history:
            Long frame ``timestamp`` (unix seconds, or datetimes), ``value, workload, metric`` at the
            artifact's frequency or finer. :attr:`history_length` bins are enough; fewer are possible, but
            the forecast is worse.
        quantiles:
            Levels between 0.005 and 0.995 to forecast as well: ``[0.1, 0.9]`` for an interval of 80 %.
        as_consumed:
            Forecast as Kapacity's job does (contracts 5 and 7): every series with id 0, missing bins filled
            with 0, from the bin after the series' own newest one, which counts with the rows so far.
        at:
            ``"now"``, or a moment as unix seconds, ISO 8601 (UTC if no zone is given) or datetime. The
            origin is then the bin that holds the moment, which is not complete yet; later values are not
            used.
        max_age:
            A series is stale when its newest value is older, a duration like ``"6H"`` or ``"30min"``; None
            for the horizon, or the context if that is longer.
        on_stale:
            ``"warn"``, or ``"error"`` to refuse stale series.

        Returns
        -------
        DataFrame ``timestamp`` (unix seconds of the bin's start), ``workload, metric, value``, a column like
        ``q0.9`` for each quantile, and ``age``, the seconds from the end of the series' newest bin to the
        origin (0 when up to date): one row per series and horizon step.

        Raises
        ------
        DataError
            When the frame is malformed, a series cannot be forecast (:meth:`unknown`), or a series has no
            observed value in the bins that the network reads.
        StaleError
            When ``on_stale`` is ``"error"`` and a series is stale.
        ConfigError
            When ``at``, ``max_age`` or ``on_stale`` is wrong.
        ArtifactError
            When quantiles are requested and the artifact has no intervals.
        ValueError
            When a quantile is not between 0.005 and 0.995.
        """
        levels = check_levels(quantiles)
        rule = StaleRule.checked(max_age, on_stale)
        try:
            moment = parse_moment(at)
        except ValueError as error:
            raise ConfigError(f"at: {error}") from error
        origins = self.origins(source_of(history), moment, as_consumed=as_consumed)
        unknown = self.unknown(origins.panel.series)
        if unknown:
            names = few([" ".join(pair) for pair in unknown])
            raise DataError(f"not in the artifact: {names}; it knows {few(list(self.item_ids))}")
        stale = checked_origins(origins, self.window, self.net.lookback, rule)
        return self.forecast_from(origins, stale, levels, as_consumed=as_consumed)

    def origins(self, source: MetricSource, at: int | None = None, *, as_consumed: bool = False) -> Origins:
        """The origins of the next forecasts of a history; arguments and errors are those of :meth:`forecast`.

        ``at`` is in unix seconds.
        """
        if as_consumed and at is not None:
            history = source.fetch()
            history = history[history["timestamp"] <= at]
            if history.empty:
                raise DataError(f"no value is known at {utc(at)} UTC: the history begins later")
            source = FrameSource(history, any_time=True)
        calendar = None if as_consumed else self.bin_calendar
        panel = read_panel(source, self.window.frequency, calendar, keep_unfinished=as_consumed)
        refuse_coarse(panel, self.name)
        for warning in serious_warnings(panel, self.window):
            log.warning("%s", warning)
        found = consumer_origins(panel, at) if as_consumed else next_origins(panel, at)
        if at is None and (ahead := found.ahead(time.time())) > 0:
            log.warning(
                "the newest bin of the history begins %s after now: are clock and time zone right? at=now "
                "leaves out later values",
                age_words(ahead),
            )
        return found

    def forecast_from(
        self, origins: Origins, stale: np.ndarray, levels: Sequence[float] = (), *, as_consumed: bool = False
    ) -> pd.DataFrame:
        """Forecast series that can be forecast from their origins, see :meth:`forecast`.

        Parameters
        ----------
        stale:
            Which series a warning names as stale, bool ``[series]``.
        """
        panel, series = origins.panel, np.arange(origins.panel.num_series)
        if self.plan is not None:
            for warning in self.plan.warnings(panel):
                log.warning("%s", warning)
            if as_consumed:
                log.warning("Kapacity's job knows no events: its forecasts are those without data.events")
        if stale.any():
            log.warning("%s", stale_words(origins, stale))
        guessed = origins.guessed(self.window) & ~stale
        if guessed.any():
            log.warning("%s", guess_words(origins, guessed, self.window))
        if (beyond := origins.end - panel.num_bins) > 0:  # less than the history that the network reads
            panel = panel.padded(0, beyond)
        if as_consumed and (short := origins.short(self.window)).any():
            names = few([" ".join(panel.series[row]) for row in np.flatnonzero(short).tolist()])
            log.warning("Kapacity's job fails on a history shorter than the context: %s", names)
        made = self.forecast_windows(
            panel, series, origins.bins, as_consumed=as_consumed, hold_newest=not as_consumed
        )
        frame = forecast_frame(origins, made.values)
        if levels:
            found = self.quantiles(panel, series, made, levels)
            columns = [column(level) for level in levels]
            frame[columns] = found.reshape(len(frame), len(levels))
            frame = frame[[name for name in frame.columns if name != AGE] + [AGE]]
        return frame

    def evaluate(
        self,
        history: pd.DataFrame | MetricSource,
        *,
        start: str | int | None = None,
        end: str | int | None = None,
        stride: int = 1,
        as_consumed: bool = False,
        quantiles: Sequence[float] | None = None,
        capacity: Mapping[str, Any] | None = None,
        seed: int = 42,
    ) -> "Evaluation":
        """Judge the forecasts of a span of history against nine baselines, as kforecast-evaluate does.

        Parameters
        ----------
        history:
            As in :meth:`forecast`: the judged span, and some days or weeks before it.
        start, end:
            First and last judged bin, unix seconds or ISO 8601. The default start is the first bin after the
            data used by training, or the last fifth of the history if that is unknown. The default end is the
            newest bin.
        stride:
            Bins between origins.
        as_consumed:
            See :meth:`forecast`.
        quantiles:
            Levels to judge; None for the bounds of the intervals of 80, 90 and 95 %, and the median.
        capacity:
            Settings of ``conf/capacity/default.yaml`` to change, like ``{"lead_time": 60}``.
        seed:
            Seed of the bootstrap that gives the skill its interval.
            See :meth:`forecast`.

        Raises
        ------
        DataError
            When the frame is malformed, or there is nothing to judge.
        ConfigError
            When one of the other arguments is wrong.
        """
        # Imported lazily: evaluation loads matplotlib, which forecasting does not need.
        from kforecast.evaluation.evaluation import EvaluationSettings, evaluate_source

        settings = EvaluationSettings.checked(
            start=start,
            end=end,
            stride=stride,
            as_consumed=as_consumed,
            quantiles=quantiles,
            capacity=capacity,
            seed=seed,
        )
        return evaluate_source(self, source_of(history), settings)
