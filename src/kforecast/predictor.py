"""Predictor: panels in, arrays out. The engine that forecaster, evaluation, training and export share."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import gcd
from typing import NamedTuple, Self

import numpy as np
import torch

from kforecast.artifact import METADATA, Artifact, calendar_of, combination_of, network_of
from kforecast.data.calendar import Calendar
from kforecast.data.fill import FILLS, Fill
from kforecast.data.origins import blocks
from kforecast.data.panel import Panel, item_key
from kforecast.data.split import cells_between
from kforecast.data.windows import WindowDataset
from kforecast.errors import ArtifactError
from kforecast.files.untrusted import shortened
from kforecast.intervals import OWN_WINDOWS, Intervals, calibrate, missing
from kforecast.models import Fcnet, Network
from kforecast.models.combination import Combination, fitted
from kforecast.models.naive import baselines
from kforecast.window import Window

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
class Predictor:
    """A network and all that is needed to forecast with it.

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
        What it was made of, None for one that was put together otherwise.
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
        return (
            f"{type(self).__name__}({type(self.net).__name__}, {self.window}, {len(self.item_ids):,} series)"
        )

    @classmethod
    def of(cls, artifact: Artifact, name: str) -> Self:
        """The forecaster in an artifact that is already in memory."""
        if artifact.metadata is None:
            log.warning("%s has no %s: made elsewhere, its files are not verified", name, METADATA)
        fill = (artifact.metadata or {}).get("fill", _CONSUMER_FILL)
        if fill not in FILLS:
            raise ArtifactError(f"{name}: unknown fill {shortened(fill)!r} in {METADATA}")
        net = network_of(artifact, name)
        calendar, combination = calendar_of(artifact, name), combination_of(artifact, net, name)
        window, ids, intervals = artifact.config.window, dict(artifact.item_ids), artifact.intervals
        return cls(window, ids, fill, net, intervals, name, calendar, combination, artifact)

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
            Forecast as Kapacity's job does (contract 5): every series with id 0, missing bins filled with 0.
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

    def combined(self, panel: Panel, begin: int, stop: int) -> Self:
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

    def calibrated(self, panel: Panel, begin: int, stop: int, *, as_consumed: bool = False) -> Self:
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


def _never_below_zero(panel: Panel, stop: int) -> np.ndarray:
    """Whether no value of a series before a bin is below zero, bool ``[series]``."""
    found = []
    for first, observed in blocks(panel.observed[:, :stop]):
        value = panel.values[first : first + len(observed), :stop]
        found.append(value.min(axis=1, where=observed, initial=0.0) >= 0)
    return np.concatenate(found)
