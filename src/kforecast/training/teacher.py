"""Distillation from a better model: ``teacher=ARTIFACT``, or ``teacher=auto``, which trains one first."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kforecast.artifact import load_for
from kforecast.data.panel import Panel
from kforecast.data.split import Split
from kforecast.errors import ArtifactError, DataError, few
from kforecast.metrics.timerange import utc
from kforecast.predictor import Predictor
from kforecast.window import Window

log = logging.getLogger(__name__)

# The forecasts are kept in memory. Making them needs several times as much, for their parts.
_MOST_BYTES = 2**30
TEACHING_HELPS = 20_000
"""Training windows up to which teacher=auto trains a teacher; with 100,000, a teacher makes no difference."""


@dataclass(frozen=True)
class Teacher:
    """An artifact whose forecasts are mixed into the targets of a training.

    :class:`kforecast.data.distillation.TaughtWindows` mixes them.

    Attributes
    ----------
    forecaster:
        The predictor of the artifact.
    used_until:
        Unix seconds at which the data of its own training ends; None if unknown.
    """

    forecaster: Predictor
    used_until: int | None

    @classmethod
    def load(cls, directory: Path, window: Window) -> "Teacher":
        """Load an artifact that can teach a network with the same window.

        Raises
        ------
        ArtifactError, ConfigError
            See :func:`kforecast.artifact.load_for`.
        """
        artifact = load_for("teacher", directory, window)
        return cls(Predictor.of(artifact, str(directory)), artifact.training_span[1])

    def forecasts(self, panel: Panel, split: Split) -> np.ndarray:
        """Forecasts from the origins of the training windows, float32 ``[len(split.train), horizon]``.

        Raises
        ------
        DataError
            When the teacher cannot forecast one of the series, or there are too many windows.
        ArtifactError
            When a forecast is not a finite number.
        """
        name = self.forecaster.name
        if unknown := self.forecaster.unknown(panel.series):
            series = few([" ".join(pair) for pair in unknown])
            raise DataError(f"teacher: {name} cannot forecast {series}; train it on the same series")
        if (zone := self.forecaster.zone) != panel.zone:
            raise DataError(
                f"teacher: {name} forecasts bins of {zone} time, but training has bins of {panel.zone} time; "
                "give both the same data.timezone, and model=auto, which follows it"
            )
        count, horizon = len(split.train), self.forecaster.window.prediction_length
        if 4 * count * horizon > _MOST_BYTES:
            raise DataError(
                f"teacher: forecasts of {count:,} windows x {horizon} steps are more than the "
                f"{_MOST_BYTES / 2**30:g} GiB kept in memory; train on fewer series or a shorter history"
            )
        cells = np.asarray(split.train)
        made = self.forecaster.forecast_windows(panel, cells // panel.num_bins, cells % panel.num_bins).values
        if not np.isfinite(made).all():
            raise ArtifactError(f"teacher: {name}: its forecasts are not finite numbers")
        return made

    def announce(self, panel: Panel, split: Split) -> None:
        """Log the teacher, and warn when it has seen data of the test part."""
        log.info("Learning from the forecasts of %s too (teacher)", self.forecaster.name)
        test = panel.seconds(split.validation_end)
        if len(split.test) and self.used_until is not None and self.used_until > test:
            log.warning(
                "The teacher has seen data until %s, the test part begins at %s: it will flatter the result",
                utc(self.used_until),
                utc(test),
            )
