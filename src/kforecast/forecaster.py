"""Forecaster: the public interface to an artifact. It takes frames and returns frames."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from kforecast.artifact import Artifact
from kforecast.data.frames import forecast_frame, next_origins
from kforecast.data.panel import Panel
from kforecast.data.reading import panel_of
from kforecast.errors import ArtifactError, DataError, few
from kforecast.files.directory import check_writable
from kforecast.files.lock import sole_writer
from kforecast.intervals import check_levels, column
from kforecast.predictor import Predictor

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
        self, history: pd.DataFrame, *, quantiles: Sequence[float] = (), as_consumed: bool = False
    ) -> pd.DataFrame:
        """Forecast the bins after each series' newest one.

        Parameters
        ----------
        history:
            Long frame ``timestamp`` (unix seconds, or datetimes), ``value, workload, metric`` at the
            artifact's frequency or finer. :attr:`history_length` bins are enough; fewer are possible, but
            the forecast is worse.
        quantiles:
            Levels between 0.005 and 0.995 to forecast as well: ``[0.1, 0.9]`` for an interval of 80 %.
        as_consumed:
            Forecast as Kapacity's job does (contract 5): every series with id 0, missing bins filled with 0.

        Returns
        -------
        DataFrame ``timestamp`` (unix seconds of the bin's start), ``workload, metric, value``, and a column
        like ``q0.9`` for each quantile: one row per series and horizon step.

        Raises
        ------
        DataError
            When the frame is malformed, a series cannot be forecast (:meth:`unknown`), or a series has no
            observed value.
        ArtifactError
            When quantiles are requested and the artifact has no intervals.
        ValueError
            When a quantile is not between 0.005 and 0.995.
        """
        levels = check_levels(quantiles)
        panel = panel_of(history, self.window.frequency)
        unknown = self.unknown(panel.series)
        if unknown:
            names = few([" ".join(pair) for pair in unknown])
            raise DataError(f"not in the artifact: {names}; it knows {few(list(self.item_ids))}")
        silent = [" ".join(panel.series[row]) for row in np.flatnonzero(~panel.observed.any(axis=1))]
        if silent:
            raise DataError(f"no value is known of {few(silent)}")
        series, origin = np.arange(panel.num_series), next_origins(panel)
        self._warn_of_guesses(panel, origin)
        made = self.forecast_windows(panel, series, origin, as_consumed=as_consumed)
        frame = forecast_frame(panel, origin, made.values)
        if levels:
            found = self.quantiles(panel, series, made, levels)
            for number, level in enumerate(levels):
                frame[column(level)] = found[..., number].reshape(-1)
        return frame

    def evaluate(
        self,
        history: pd.DataFrame,
        *,
        start: str | int | None = None,
        end: str | int | None = None,
        stride: int = 1,
        as_consumed: bool = False,
        quantiles: Sequence[float] | None = None,
        capacity: Mapping[str, Any] | None = None,
        seed: int = 42,
    ) -> "Evaluation":
        """Judge the forecasts of a span of history against seven baselines, as kforecast-evaluate does.

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

        Raises
        ------
        DataError
            When the frame is malformed, or there is nothing to judge.
        ConfigError
            When one of the other arguments is wrong.
        """
        # Imported lazily: evaluation loads matplotlib, which forecasting does not need.
        from kforecast.evaluation.evaluation import EvaluationSettings, evaluate_frame

        settings = EvaluationSettings.checked(
            start=start,
            end=end,
            stride=stride,
            as_consumed=as_consumed,
            quantiles=quantiles,
            capacity=capacity,
            seed=seed,
        )
        return evaluate_frame(self, history, settings)

    def _warn_of_guesses(self, panel: Panel, origin: np.ndarray) -> None:
        """Warn about series whose context is less than half observed; ``origin`` is int ``[series]``."""
        length = self.window.context_length
        position = origin[:, None] + np.arange(-length, 0)
        known = np.take_along_axis(panel.observed, np.maximum(position, 0), axis=1) & (position >= 0)
        guessed = [" ".join(panel.series[row]) for row in np.flatnonzero(2 * known.sum(axis=1) < length)]
        if guessed:
            log.warning(
                "more than half of the context of %s is missing and filled: its forecast is a guess",
                few(guessed),
            )
