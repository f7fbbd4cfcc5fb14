"""Forecaster: an artifact, ours or one made elsewhere, as a function from history to forecast."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from kforecast.artifact import METADATA, Artifact
from kforecast.data.calendar import Calendar
from kforecast.data.cells import blocks
from kforecast.data.fill import FILLS, Fill
from kforecast.data.panel import Panel, item_key
from kforecast.data.reading import panel_of
from kforecast.data.split import cells_between
from kforecast.data.windows import WindowDataset
from kforecast.directory import check_writable, sole_writer
from kforecast.errors import ArtifactError, DataError, few
from kforecast.intervals import OWN_WINDOWS, Intervals, calibrate, check_levels, column, missing
from kforecast.loading import calendar_of, combination_of, network_of
from kforecast.models import Fcnet, Network
from kforecast.models.combination import Combination, fitted
from kforecast.models.naive import baselines
from kforecast.untrusted import shortened
from kforecast.window import Window

if TYPE_CHECKING:
    from kforecast.evaluation.evaluation import Evaluation

log = logging.getLogger(__name__)

# What Kapacity's job does with a bin it has no value for; artifacts made elsewhere expect it.
_CONSUMER_FILL: Fill = "zero"


# Quantiles of the errors of so many windows together are as exact as they need be. A fleet of thousands of
# series then has too few for quantiles of each, which would make its intervals.json tens of megabytes too.
_MOST_CALIBRATION_WINDOWS = 1_000_000


class WindowForecasts(NamedTuple):
    """Forecasts from many origins."""

    values: np.ndarray
    """float32 ``[windows, horizon]``."""
    level: np.ndarray
    """float32 ``[windows, horizon]`` or ``[windows, 1]``: what errors are expected to be in proportion to."""
    parts: dict[str, np.ndarray]
    """What the network's forecast is made of, each float32 ``[windows, horizon]``."""


@dataclass(frozen=True, repr=False)
class Forecaster:
    """A network and all that is needed to forecast with it.

    Make one of an artifact with :meth:`load`, or of traffic with :func:`kforecast.train`.

    Attributes
    ----------
    window:
        Frequency, context and horizon.
    item_ids:
        Id of each item key.
    fill:
        How unobserved bins of a context are filled.
    net:
        The network, in evaluation mode.
    intervals:
        What makes quantiles of its forecasts; None when they were not calibrated.
    name:
        What messages call it.
    calendar:
        Local time and holidays of the series, for a network that goes by them.
    combination:
        Weights of the network's parts and of naive forecasts; None: the network as it is.
    artifact:
        What it was made of, and :meth:`save` writes; None for one that was put together otherwise.
    """

    window: Window
    item_ids: dict[str, int]
    fill: Fill
    net: Network
    intervals: Intervals | None = None
    name: str = "the artifact"
    calendar: Calendar = field(default_factory=Calendar)
    combination: Combination | None = None
    artifact: Artifact | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        return f"Forecaster({type(self.net).__name__}, {self.window}, {len(self.item_ids):,} series)"

    @classmethod
    def load(cls, directory: Path | str) -> "Forecaster":
        """Load an artifact directory; one without metadata.json (made elsewhere) is said in a warning.

        Raises
        ------
        ArtifactError
            When the directory does not hold an artifact that belongs together.
        """
        return cls.of(Artifact.load(directory), str(directory))

    @classmethod
    def of(cls, artifact: Artifact, name: str) -> "Forecaster":
        """The forecaster in an artifact that is already in memory; see :meth:`load`."""
        if artifact.metadata is None:
            log.warning("%s has no %s: made elsewhere, its files are not verified", name, METADATA)
        fill = (artifact.metadata or {}).get("fill", _CONSUMER_FILL)
        if fill not in FILLS:
            raise ArtifactError(f"{name}: unknown fill {shortened(fill)!r} in {METADATA}")
        net = network_of(artifact, name)
        calendar, combination = calendar_of(artifact, name), combination_of(artifact, net, name)
        window, ids, intervals = artifact.config.window, dict(artifact.item_ids), artifact.intervals
        return cls(window, ids, fill, net, intervals, name, calendar, combination, artifact)

    def save(self, directory: Path | str) -> None:
        """Write the artifact directory that :meth:`load` reads, as kforecast-train writes it.

        One that is there is replaced as a whole, with its artifacts of single series (``per_series/``).

        Raises
        ------
        ArtifactError
            When this forecaster was not made of an artifact.
        OutputError
            When the file system refuses, or a run is writing there; what was there is still there.
        """
        if self.artifact is None:
            raise ArtifactError(f"{self.name}: not made of an artifact, so there is nothing to save")
        target = Path(directory)
        check_writable(target)
        with sole_writer(target, f"process {os.getpid()}"):
            replace(self.artifact, intervals=self.intervals).save(target)

    @property
    def history_length(self) -> int:
        """Bins before an origin that a forecast makes use of; it makes do with fewer."""
        look = self.net.lookback
        return max(self.window.context_length, look.length(self.window) if look is not None else 0)

    def unknown(self, series: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Those of the series that the artifact cannot forecast.

        A network whose series share an embedding, or that has one for series it was not trained on, forecasts
        every series.
        """
        if self.net.unknown_series() is not None:
            return []
        return [pair for pair in series if item_key(*pair) not in self.item_ids]

    def forecast(
        self, history: pd.DataFrame, *, quantiles: Sequence[float] = (), as_consumed: bool = False
    ) -> pd.DataFrame:
        """Forecast the bins after each series' newest one.

        Parameters
        ----------
        history:
            Long frame ``timestamp`` (unix seconds, or datetimes), ``value, workload, metric`` at the
            artifact's frequency or finer; :attr:`history_length` bins are enough, and fewer make a forecast
            worse but not impossible.
        quantiles:
            Levels between 0.005 and 0.995 to forecast besides: ``[0.1, 0.9]`` for an interval of 80 %.
        as_consumed:
            Forecast as Kapacity's job does (contract 5): every series with id 0, missing bins filled with 0.

        Returns
        -------
        DataFrame ``timestamp`` (unix seconds of the bin's start), ``workload, metric, value`` and a column
        like ``q0.9`` for each quantile: one row per series and horizon step.

        Raises
        ------
        DataError
            When the frame is no such frame, a series cannot be forecast (:meth:`unknown`), or none of its
            values is known.
        ArtifactError
            When quantiles are asked for and the artifact has no intervals.
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
        origin = panel.num_bins - panel.observed[:, ::-1].argmax(axis=1)
        self._say_guesses(panel, origin)
        series = np.arange(panel.num_series)
        made = self.forecast_windows(panel, series, origin, as_consumed=as_consumed)
        steps = np.arange(self.window.prediction_length)
        second = panel.start + (origin[:, None] + steps) * self.window.frequency.step
        frame = pd.DataFrame(
            {
                "timestamp": second.reshape(-1),
                "workload": [workload for workload, _ in panel.series for _ in steps],
                "metric": [metric for _, metric in panel.series for _ in steps],
                "value": made.values.reshape(-1),
            }
        )
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
        """Judge forecasts of a span of history beside five baselines, as kforecast-evaluate does.

        Parameters
        ----------
        history:
            As in :meth:`forecast`: the span, and some days or weeks before it.
        start, end:
            First and last judged bin, unix seconds or ISO 8601. Without a start it is the first bin after
            what training used, or the last fifth where that is not known; without an end the newest bin.
        stride:
            Bins between origins.
        as_consumed:
            See :meth:`forecast`.
        quantiles:
            Levels that are judged; None for those of the intervals of 80, 90 and 95 %, and the median.
        capacity:
            Settings of ``conf/capacity/default.yaml`` to change, like ``{"lead_time": 60}``.
        seed:
            Of the bootstrap that gives the skill its interval.

        Raises
        ------
        DataError
            When the frame is no such frame, or there is nothing to judge.
        ConfigError
            When one of the other arguments is wrong.
        """
        # What judges forecasters knows them; they know it only here.
        from kforecast.evaluation.evaluation import evaluate_frame

        return evaluate_frame(
            self,
            history,
            start=start,
            end=end,
            stride=stride,
            as_consumed=as_consumed,
            quantiles=quantiles,
            capacity=capacity,
            seed=seed,
        )

    @torch.inference_mode()
    def forecast_windows(
        self, panel: Panel, series: np.ndarray, origin: np.ndarray, *, as_consumed: bool = False
    ) -> WindowForecasts:
        """Forecast from many origins of a panel at once, each from what lies before it.

        Parameters
        ----------
        panel:
            At the artifact's frequency; all its series are known.
        series, origin:
            Row of the panel and index of the first forecast bin, int64 ``[windows]``; an origin may stand
            right behind the panel's last bin, and its context may reach back beyond the first.
        as_consumed:
            See :meth:`forecast`.
        """
        if as_consumed and not isinstance(self.net, Fcnet):
            raise ArtifactError(
                f"{self.name}: Kapacity's job cannot load a {type(self.net).__name__}; leave out "
                "as_consumed, or train with model=fcnet"
            )
        context, horizon = self.window.context_length, self.window.prediction_length
        reaches_out = len(origin) and (origin.min() < context or origin.max() + horizon > panel.num_bins)
        before, after = (context, horizon) if reaches_out else (0, 0)
        # A copy, which a panel that is mapped from a file should be spared.
        padded = panel.padded(before, after) if reaches_out else panel
        windows = WindowDataset(
            padded,
            self.window,
            _CONSUMER_FILL if as_consumed else self.fill,
            lookback=self.net.lookback,
            calendar=self.calendar,
        )
        other = self.net.unknown_series()
        ids = torch.tensor(
            [0 if as_consumed else self.item_ids.get(item_key(*pair), other) for pair in panel.series]
        )
        device = next(self.net.parameters()).device
        cells = torch.from_numpy(series * padded.num_bins + origin + before)
        values, levels, parts = [], [], []
        for chosen in torch.split(cells, windows.evaluation_windows):
            batch = windows[chosen]
            made = self.net.forecast(batch._replace(series=ids[batch.series]).to(device))
            values.append(made.values.cpu())
            levels.append(made.spread.cpu())
            parts.append((made.values[None] if made.parts is None else made.parts).cpu())
        by_name = dict(zip(self.net.parts, torch.cat(parts, dim=1).numpy(), strict=True))
        found = WindowForecasts(torch.cat(values).numpy(), torch.cat(levels).numpy(), by_name)
        if self.combination is None:
            return found
        naive = self._naive(padded, cells.numpy()) if self.combination.naive else {}
        return found._replace(values=self.combination.of(by_name | naive))

    def _naive(self, panel: Panel, cells: np.ndarray) -> dict[str, np.ndarray]:
        """The naive forecasts from windows of a panel."""
        return baselines(panel, cells, self.window, int((cells % panel.num_bins).min()))

    def combined(self, panel: Panel, begin: int, stop: int) -> "Forecaster":
        """This forecaster with the weights that do best on ``[begin, stop)``.

        They should be bins that the network was not fitted to. Without a window there it is as it was.
        """
        cells = cells_between(panel, self.window, begin, stop, self._stride(panel, begin, stop))
        if not len(cells):
            return self
        series, origin = np.divmod(cells, panel.num_bins)
        alone = replace(self, combination=None)
        made = alone.forecast_windows(panel, series, origin)
        at = (series[:, None], origin[:, None] + np.arange(self.window.prediction_length))
        actual = np.where(panel.observed[at], panel.values[at], np.nan).astype(np.float64)
        level = np.abs(np.nan_to_num(actual)).mean(axis=1)
        count = np.bincount(series, minlength=panel.num_series)
        mean_level = np.bincount(series, level, panel.num_series) / np.maximum(count, 1)
        found = fitted(made.parts, self._naive(panel, cells), actual, mean_level[series])
        return replace(self, combination=found, artifact=None)  # which does not say this

    def _stride(self, panel: Panel, begin: int, stop: int) -> int:
        """Bins between origins, so that there are no more of them than are needed."""
        stride = max(1, panel.num_series * (stop - begin) // _MOST_CALIBRATION_WINDOWS)
        while gcd(stride, self.window.frequency.day) > 1:  # or else some hours of the day would have none
            stride += 1
        return stride

    def quantiles(
        self, panel: Panel, series: np.ndarray, made: WindowForecasts, levels: Sequence[float]
    ) -> np.ndarray:
        """Quantiles of forecasts that were made, float32 ``[windows, horizon, level]``.

        Raises
        ------
        ArtifactError
            When the artifact has no intervals.
        """
        if self.intervals is None:
            raise missing(self.name)
        keys = [item_key(*pair) for pair in panel.series]
        found = self.intervals.quantiles(made.values, made.level, keys, series, levels)
        # What intervals know nothing of is judged by what is given of it.
        strange = np.array([key not in self.intervals.series for key in keys])
        strange &= _never_below_zero(panel, panel.num_bins)
        lowest = np.where(strange, 0.0, -np.inf)[series].astype(found.dtype)
        clipped: np.ndarray = np.maximum(found, lowest[:, None, None])
        return clipped

    def calibrated(self, panel: Panel, begin: int, stop: int, *, as_consumed: bool = False) -> "Forecaster":
        """This forecaster with intervals made of its errors on the targets in the bins ``[begin, stop)``.

        They should be bins that the network was not fitted to. Without enough windows there it is returned
        without intervals; of more windows than are needed every so-manieth is taken.
        """
        horizon = self.window.prediction_length
        stride = self._stride(panel, begin, stop)
        series, origin = np.divmod(cells_between(panel, self.window, begin, stop, stride), panel.num_bins)
        if not len(series):
            return replace(self, intervals=None)
        made = self.forecast_windows(panel, series, origin, as_consumed=as_consumed)
        at = (series[:, None], origin[:, None] + np.arange(horizon))
        error = np.where(panel.observed[at], panel.values[at] - made.values, np.nan)
        if (stop - begin) // stride < OWN_WINDOWS <= stop - begin:
            log.info(
                "So many series have intervals in common: the errors of all together, by the level of each"
            )
        each = made.level.mean(axis=1, dtype=np.float64)
        count = np.bincount(series, minlength=panel.num_series)
        mean_level = np.bincount(series, each, panel.num_series) / np.maximum(count, 1)
        intervals = calibrate(
            error.astype(np.float64),
            made.level,
            [item_key(*pair) for pair in panel.series],
            series,
            mean_level=mean_level,
            nonnegative=_never_below_zero(panel, stop),
        )
        return replace(self, intervals=intervals)

    def _say_guesses(self, panel: Panel, origin: np.ndarray) -> None:
        length = self.window.context_length
        position = origin[:, None] + np.arange(-length, 0)
        known = np.take_along_axis(panel.observed, np.maximum(position, 0), axis=1) & (position >= 0)
        guessed = [" ".join(panel.series[row]) for row in np.flatnonzero(2 * known.sum(axis=1) < length)]
        if guessed:
            log.warning(
                "more than half of the context of %s is missing and filled: its forecast is a guess",
                few(guessed),
            )


def _never_below_zero(panel: Panel, stop: int) -> np.ndarray:
    """Whether no value of a series before a bin is below zero, bool ``[series]``."""
    found = []
    for first, observed in blocks(panel.observed[:, :stop]):
        value = panel.values[first : first + len(observed), :stop]
        found.append(value.min(axis=1, where=observed, initial=0.0) >= 0)
    return np.concatenate(found)
