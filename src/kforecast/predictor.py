"""Predictor: panels in, arrays out. Evaluation, training, the ONNX export and Forecaster share it."""

import logging
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import gcd
from pathlib import Path
from typing import Self

import numpy as np
import torch

from kforecast.artifact import (
    METADATA,
    Artifact,
    bin_zone_of,
    calendar_of,
    combination_of,
    effects_of,
    network_of,
    online_of,
    prior_of,
)
from kforecast.data.calendar import Calendar
from kforecast.data.events.effects import Effects, Plan
from kforecast.data.events.known import KnownEvents
from kforecast.data.events.past import Events, EventSearch, span
from kforecast.data.fill import FILLS, Fill
from kforecast.data.origins import blocks
from kforecast.data.panel import Panel, item_key
from kforecast.data.split import cells_between
from kforecast.data.windows import WindowDataset
from kforecast.errors import ArtifactError
from kforecast.files.untrusted import inside, shortened
from kforecast.following import Following, Recent, WindowForecasts, never_below_zero
from kforecast.intervals import OWN_WINDOWS, Intervals, calibrate, missing
from kforecast.models import Fcnet, Network
from kforecast.models.combination import Combination, fitted
from kforecast.models.naive import (
    LAST_VALUE,
    MEANS,
    SEASONAL,
    TIME_OF_WEEK,
    last_plus_differences,
    naive_forecasts,
)
from kforecast.models.online import Online
from kforecast.window import Window

log = logging.getLogger(__name__)

# Kapacity's job fills missing bins with zeros; artifacts made elsewhere expect the same.
_CONSUMER_FILL: Fill = "zero"
# This many windows give quantiles of the errors that are exact enough. In a fleet of thousands of series this
# leaves too few windows per series for intervals of its own, which would also take tens of megabytes.
_MOST_CALIBRATION_WINDOWS = 1_000_000
# Cells of a panel that are looked at together.
_MOST_CELLS = 1 << 24
PRIOR_SHARE = 0.3
"""Share of the pre-trained weights in a forecast, unless it was fitted to validation data."""
# More windows do not make that share more accurate; and the shares that are tried.
_SHARING_WINDOWS, _SHARES = 4000, np.linspace(0, 1, 21).tolist()
# The narrowest that the share makes intervals.
_LEAST_WIDTH = 0.5
# Events, and a share that is not the best, may raise the error on a validation part by this factor.
_TOLERANCE = 1.01


@dataclass(frozen=True, repr=False)
class Predictor:
    """A network with everything needed to forecast with it.

    Attributes
    ----------
    window:
        Frequency, context and horizon.
    item_ids:
        Series id of each item key.
    fill:
        How unobserved bins of a context are filled.
    net:
        The network, in evaluation mode.
    intervals:
        Calibrated intervals, which turn point forecasts into quantiles; None without calibration.
    name:
        Its name in messages.
    calendar:
        Local time and holidays of the series, for a network that uses them.
    combination:
        Weights of the network's parts and of naive forecasts; None uses the network's forecast alone.
    artifact:
        The artifact it was made from; None if there is none.
    zone:
        IANA name of the time zone whose local time the bins follow (:class:`kforecast.data.grid.Grid`).
    events:
        Whether a network with a lookback sees usual values in place of past events
        (:mod:`kforecast.data.events.past`).
    online:
        How weights and widths follow the errors at the newest origins; None if they are fixed.
    plan:
        Known events, which are taken out of the history and put into the forecasts; None without.
    prior_share, prior_width:
        Share of the pre-trained weights beside the network in a forecast, and the error with it as a share of
        that without. Weights and widths follow the errors without them, so that only forecasts that are asked
        for pay for them.
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
    zone: str = "UTC"
    events: bool = False
    online: Online | None = None
    plan: Plan | None = None
    prior_share: float = 0.0
    prior_width: float = 1.0

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({type(self.net).__name__}, {self.window}, {len(self.item_ids):,} series)"
        )

    @classmethod
    def of(cls, artifact: Artifact, name: str) -> Self:
        """The predictor of an artifact that is already in memory; ``name`` is its name in messages.

        Raises
        ------
        ArtifactError
            When the parts of the artifact do not belong together.
        """
        if artifact.metadata is None:
            log.warning("%s has no %s: made elsewhere, its files are not verified", name, METADATA)
        fill = (artifact.metadata or {}).get("fill", _CONSUMER_FILL)
        if fill not in FILLS:
            raise ArtifactError(f"{name}: unknown fill {shortened(fill)!r} in {METADATA}")
        net = network_of(artifact, name)
        calendar, combination = calendar_of(artifact, name), combination_of(artifact, net, name)
        window, ids, intervals = artifact.config.window, dict(artifact.item_ids), artifact.intervals
        zone, events = bin_zone_of(artifact, name), artifact.config.events
        online = online_of(artifact, name)
        share, width = prior_of(artifact, net, name)
        return cls(
            window,
            ids,
            fill,
            net,
            intervals,
            name,
            calendar,
            combination,
            artifact,
            zone,
            events,
            online,
            prior_share=share,
            prior_width=width,
        )

    def knowing(self, events: KnownEvents | Path | str | None) -> Self:
        """This predictor, which knows events; their effects are those that its artifact has learned.

        Parameters
        ----------
        events:
            The events, or the path of their file; None for none.

        Raises
        ------
        ConfigError
            When the file is wrong.
        ArtifactError
            When the artifact's effects are damaged.
        """
        if events is None:
            return replace(self, plan=None)
        if not isinstance(events, KnownEvents):
            events = KnownEvents.read(events)
        effects = Effects() if self.artifact is None else effects_of(self.artifact, self.name)
        return replace(self, plan=Plan(events, effects))

    @property
    def bin_calendar(self) -> Calendar:
        """The local time that bins follow, to bin a history in the same way as in training."""
        return Calendar((self.zone,))

    @property
    def history_length(self) -> int:
        """Bins before an origin that a forecast can use; fewer are possible."""
        length = self.window.history_length(self.net.lookback)
        if self._leaves_out_events:
            length += span(self.window.frequency)
        return length + (0 if self.online is None else self.online.reach(self.window.prediction_length))

    def unknown(self, series: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """The series, among those given, that cannot be forecast.

        There are none if all series share an embedding, or if the network has an embedding for new series.
        """
        if self.net.unknown_series() is not None:
            return []
        return [pair for pair in series if item_key(*pair) not in self.item_ids]

    @property
    def below_zero(self) -> set[str]:
        """Item keys of the series that the artifact knows to have been below zero."""
        known = {} if self.intervals is None else self.intervals.series
        recorded = inside(None if self.artifact is None else self.artifact.metadata, "data", "below_zero")
        listed = [key for key in recorded if isinstance(key, str)] if isinstance(recorded, list) else []
        return {*listed, *(key for key, own in known.items() if not own.nonnegative)}

    def forecast_windows(
        self,
        panel: Panel,
        series: np.ndarray,
        origin: np.ndarray,
        *,
        as_consumed: bool = False,
        hold_newest: bool = False,
        newest: np.ndarray | None = None,
    ) -> WindowForecasts:
        """Forecast from many origins of a panel at once, each from the bins before it.

        Parameters
        ----------
        panel:
            At the predictor's frequency; every series in it is known.
        series, origin:
            Panel row and index of the first forecast bin, int64 ``[windows]``. An origin may be one past the
            panel's last bin, and its context may start before the first bin.
        as_consumed:
            Forecast as Kapacity's job does (contract 5): every series with id 0, missing bins filled with 0,
            and forecasts below zero left as they are.
        hold_newest:
            Bridge gaps at the ends of a context with the values around them, whatever the artifact's policy
            (:class:`kforecast.data.gaps.Gaps`): zeros there would be forecast as the end of the traffic.
        newest:
            Values that replace the newest bin of each context, float32 ``[windows]``; None keeps the panel's.

        Raises
        ------
        ArtifactError
            When ``as_consumed`` is set and Kapacity's job cannot load the network.
        """
        # Kapacity's job knows no events.
        plan = None if as_consumed else self.plan
        panel = panel if plan is None else plan.ordinary(panel)
        made = self._fixed(
            panel, series, origin, as_consumed=as_consumed, hold_newest=hold_newest, newest=newest
        )
        if self.online is not None and len(origin):
            reuse = not hold_newest and newest is None
            following = self._following(self.online, as_consumed)
            made = following.follow(panel, series, origin, made, reuse)
        return _during_events(
            made.with_prior(self.prior_share, self.prior_width), plan, panel, series, origin
        )

    def forecast_next(
        self,
        panel: Panel,
        recent: Recent | None = None,
        keep: int = 0,
        search: EventSearch | None = None,
    ) -> tuple[WindowForecasts, Recent | None]:
        """Forecast all series from the panel's end, bridging gaps there: one bin after the other.

        The numbers are those of :meth:`forecast_windows`. A process that keeps the second result pays for one
        origin, not for all those whose errors the forecasts follow.

        Parameters
        ----------
        panel:
            The newest :attr:`history_length` bins; fewer if there are not as many.
        recent:
            The second result for an earlier end of the panel, which is changed; None at first.
        keep:
            Newest origins to keep, with their widths, also where nothing is followed; 0 for as many as are
            followed.
        search:
            Kept from bin to bin, it finds past events for the work of one bin; None searches the whole panel.

        Returns
        -------
        The forecasts, and what to keep; None if nothing is followed.
        """
        rows, end = np.arange(panel.num_series), np.full(panel.num_series, panel.num_bins)
        panel = panel if self.plan is None else self.plan.ordinary(panel)
        search = search or EventSearch(grows=False)
        made = self._fixed(panel, rows, end, hold_newest=True, search=search)
        following, kept = self._keeping(keep, search), None
        if following is not None:
            # Only zeros in the place of gaps at the end of a context would be other forecasts.
            newest = panel.observed[:, -self.window.context_length :]
            whole = newest.shape[1] == self.window.context_length and bool(newest.all())
            made, kept = following.next(panel, made, recent, self.fill != "zero" or whole)
        return _during_events(
            made.with_prior(self.prior_share, self.prior_width), self.plan, panel, rows, end
        ), kept

    def earlier(self, panel: Panel, keep: int = 0) -> Recent | None:
        """What :meth:`forecast_next` keeps after forecasting from the panel's end, from the panel alone."""
        panel = panel if self.plan is None else self.plan.ordinary(panel)
        following = self._keeping(keep)
        return None if following is None else following.recent(panel)

    def _keeping(self, keep: int, search: EventSearch | None = None) -> Following | None:
        """What forecasts follow; with fixed weights and widths, the newest origins are kept if asked for."""
        if self.online is not None:
            return replace(self._following(self.online, search=search), keep_widths=keep > 0)
        if not keep:
            return None
        fixed = Online(0, np.full(self.window.prediction_length, np.nan), origins=keep)
        return replace(self._following(fixed, search=search), intervals=None)

    def _following(
        self, online: Online, as_consumed: bool = False, search: EventSearch | None = None
    ) -> Following:
        search = search or EventSearch(grows=False)
        fixed = partial(replace(self, prior_share=0.0)._fixed, as_consumed=as_consumed, search=search)
        usual = partial(self._usual, search=search)
        return Following(online, self.window, fixed, usual, self._first_below_zero, self.intervals)

    @torch.inference_mode()
    def _fixed(
        self,
        panel: Panel,
        series: np.ndarray,
        origin: np.ndarray,
        *,
        as_consumed: bool = False,
        hold_newest: bool = False,
        newest: np.ndarray | None = None,
        search: EventSearch | None = None,
    ) -> WindowForecasts:
        """:meth:`forecast_windows` with fixed weights and widths; ``search`` keeps events.

        The forecasts of the pre-trained weights are not mixed in yet.
        """
        if as_consumed and not isinstance(self.net, Fcnet):
            raise ArtifactError(
                f"{self.name}: Kapacity's job cannot load a {type(self.net).__name__}; leave out "
                "as_consumed, or train with model=fcnet"
            )
        context, horizon = self.window.context_length, self.window.prediction_length
        reaches_out = len(origin) and (origin.min() < context or origin.max() + horizon > panel.num_bins)
        before, after = (context, horizon) if reaches_out else (0, 0)
        events = self._events(panel, origin, search)
        # Padding copies the panel, so it is avoided for panels that are mapped from a file.
        padded = panel.padded(before, after) if reaches_out else panel
        windows = WindowDataset(
            padded,
            self.window,
            _CONSUMER_FILL if as_consumed else self.fill,
            lookback=self.net.lookback,
            calendar=self.calendar,
            hold_newest=hold_newest,
        ).leave_out(events.moved(before))
        other = self.net.unknown_series()
        ids = torch.tensor(
            [0 if as_consumed else self.item_ids.get(item_key(*pair), other) for pair in panel.series]
        )
        device = next(self.net.parameters()).device
        cells = torch.from_numpy(series * padded.num_bins + origin + before)
        values, levels, parts, peaks, priors = [], [], [], [], []
        for number, chosen in enumerate(torch.split(cells, windows.evaluation_windows)):
            batch = windows[chosen]
            if newest is not None:
                first = number * windows.evaluation_windows
                batch.context[:, -1] = torch.from_numpy(newest[first : first + len(chosen)])
            batch = batch._replace(series=ids[batch.series]).to(device)
            made = self.net.forecast(batch)
            if self.prior_share and (beside := self.net.prior_forecast(batch)) is not None:
                priors.append(beside.cpu())
            values.append(made.values.cpu())
            levels.append(made.spread.cpu())
            parts.append((made.values[None] if made.parts is None else made.parts).cpu())
            peaks.append(batch.peak().cpu())
        forecast, each = torch.cat(values).numpy(), torch.cat(parts, dim=1).numpy()
        peak = torch.cat(peaks).numpy()
        if not as_consumed:
            nonnegative = origin <= self._first_below_zero(panel)[series]
            forecast, each = (never_below_zero(one, nonnegative) for one in (forecast, each))
            forecast = zero_after_zeros(forecast, peak)
        by_name = dict(zip(self.net.parts, each, strict=True))
        prior = torch.cat(priors).numpy() if priors else None
        found = WindowForecasts(forecast, torch.cat(levels).numpy(), by_name, peak, prior=prior)
        if self.combination is None:
            return found
        naive = self._naive(padded, cells.numpy(), events.moved(before)) if self.combination.naive else {}
        return found._replace(values=self.combination.of(by_name | naive))

    @property
    def _leaves_out_events(self) -> bool:
        return self.events and self.net.lookback is not None

    def _events(self, panel: Panel, origin: np.ndarray, search: EventSearch | None = None) -> Events:
        """The events that forecasts from these origins leave out."""
        if not self._leaves_out_events or not len(origin):
            return Events.none()
        begin = max(0, int(origin.min()) - self.history_length)
        return (search or EventSearch(grows=False)).events(panel, begin, max(begin, int(origin.max())))

    def _usual(self, panel: Panel, first: int, stop: int, search: EventSearch | None = None) -> Panel:
        """The panel with usual values in place of events, for seasonal forecasts from ``[first, stop)``."""
        events = self._events(panel, np.array([first, stop - 1]), search)
        return events.repaired(panel, age=self._least_age) if len(events) else panel

    @property
    def _least_age(self) -> int:
        """Bins from the youngest bin that a forecast of the same time yesterday repeats to the origin."""
        return max(1, self.window.frequency.day - self.window.prediction_length + 1)

    def _first_below_zero(self, panel: Panel) -> np.ndarray:
        """First bin from which a series may be forecast below zero, int64 ``[series]``."""
        known = self.below_zero
        negative = np.array([item_key(*pair) in known for pair in panel.series], dtype=bool)
        return np.where(negative, -1, first_below_zero(panel))

    def _naive(self, panel: Panel, cells: np.ndarray, events: Events | None = None) -> dict[str, np.ndarray]:
        """The naive forecasts of windows, given as flat cells of the panel.

        Those that look further back than the context see usual values in place of the events.
        """
        begin = int((cells % panel.num_bins).min())
        made = naive_forecasts(panel, cells, self.window, begin)
        if not events:
            return made
        by_age = events.repaired(panel, age=self._least_age)
        for names, repaired in ((SEASONAL, by_age), (MEANS, events.repaired(panel, origin=begin))):
            usual = naive_forecasts(repaired, cells, self.window, begin)
            made |= {name: usual[name] for name in names}
        # The last value stays the observed one.
        return made | last_plus_differences(by_age, cells, made[LAST_VALUE])

    def combined(self, panel: Panel, begin: int, stop: int) -> Self:
        """This predictor with the combination weights that are best on the bins ``[begin, stop)``.

        The network should not have been fitted to these bins. Without a window in them, the predictor is
        returned unchanged.
        """
        cells = cells_between(panel, self.window, begin, stop, self._stride(panel, begin, stop))
        if not len(cells):
            return self
        series, origin = np.divmod(cells, panel.num_bins)
        made = replace(self, combination=None, online=None, prior_share=0.0).forecast_windows(
            panel, series, origin
        )
        actual, level = self._actual(panel, series, origin)
        naive = self._naive(panel, cells, self._events(panel, origin))
        if self.online is not None:
            # A mean over the whole history would differ between a backtest and a forecast from recent bins.
            naive.pop(TIME_OF_WEEK)
        found = fitted(made.parts, naive, actual, level)
        if share := self.net.equal_share:
            found = found.towards_equal(self.net.parts, share)
        return replace(self, combination=found, artifact=None)  # the artifact lacks these weights

    def sharing(self, panel: Panel, begin: int, stop: int) -> Self:
        """This predictor with a share of the pre-trained weights, from its errors in ``[begin, stop)``.

        It is the middle between the best share there and the default, because few bins tell little; but the
        best one, if the middle would raise the error by more than 1 %. The network should not have been
        fitted to these bins. Without a window in them, the predictor is returned unchanged.
        """
        cells = cells_between(panel, self.window, begin, stop, self._stride(panel, begin, stop))
        if not len(cells):
            return self
        cells = cells[np.linspace(0, len(cells) - 1, min(len(cells), _SHARING_WINDOWS)).astype(np.int64)]
        series, origin = np.divmod(cells, panel.num_bins)
        made = replace(self, online=None, prior_share=1.0)._fixed(panel, series, origin)
        actual, level = self._actual(panel, series, origin)
        scale = np.where(level > 0, level, np.inf)[:, None]

        def error_of(share: float) -> float:
            return float(np.nansum(np.abs(made.with_prior(share).values - actual) / scale))

        best = min(_SHARES, key=error_of)
        middle = (best + PRIOR_SHARE) / 2
        share = middle if error_of(middle) <= error_of(best) * _TOLERANCE else best
        width = float(np.clip(error_of(share) / max(error_of(0.0), 1e-12), _LEAST_WIDTH, 1.0))
        return replace(self, prior_share=round(share, 3), prior_width=round(width, 3), artifact=None)

    def step_errors(self, panel: Panel, begin: int, stop: int) -> np.ndarray | None:
        """Mean absolute errors by step, in units of each series' level, in the bins ``[begin, stop)``.

        Weights and widths are fixed. None without a window.
        """
        cells = cells_between(panel, self.window, begin, stop, self._stride(panel, begin, stop))
        if not len(cells):
            return None
        series, origin = np.divmod(cells, panel.num_bins)
        made = replace(self, online=None, prior_share=0.0).forecast_windows(panel, series, origin)
        actual, level = self._actual(panel, series, origin)
        error = np.abs(actual - made.values) / np.where(level > 0, level, np.nan)[:, None]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a step without a target
            found: np.ndarray = np.nanmean(error, axis=0)
        return found if np.isfinite(found).all() else None

    def with_events(self, panel: Panel, begin: int, stop: int) -> Self:
        """This predictor, with ``events`` unless that raises its error on the bins ``[begin, stop)``.

        A rise of up to 1 % is allowed: a short span holds few events, and a single outage costs more. The
        network should not have been fitted to these bins. Nothing changes for a network without a lookback,
        at a frequency without events, and without a window.
        """
        cells = cells_between(panel, self.window, begin, stop, self._stride(panel, begin, stop))
        if self.net.lookback is None or not span(self.window.frequency) or not len(cells):
            return self
        series, origin = np.divmod(cells, panel.num_bins)
        actual, level = self._actual(panel, series, origin)
        scale = np.where(level > 0, level, np.inf)[:, None]

        def error_of(predictor: Self) -> float:
            fixed = replace(predictor, online=None, prior_share=0.0)
            made = fixed.forecast_windows(panel, series, origin).values
            return float(np.nansum(np.abs(made - actual) / scale))

        without, usual = (replace(self, events=events, artifact=None) for events in (False, True))
        return usual if error_of(usual) <= error_of(without) * _TOLERANCE else without

    def _actual(self, panel: Panel, series: np.ndarray, origin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The observed targets of windows, NaN where unobserved, and the mean level of each window's series.

        float64 ``[windows, horizon]`` and ``[windows]``.
        """
        at = (series[:, None], origin[:, None] + np.arange(self.window.prediction_length))
        actual = np.where(panel.observed[at], panel.values[at], np.nan).astype(np.float64)
        level = np.abs(np.nan_to_num(actual)).mean(axis=1)
        count = np.bincount(series, minlength=panel.num_series)
        return actual, (np.bincount(series, level, panel.num_series) / np.maximum(count, 1))[series]

    def _stride(self, panel: Panel, begin: int, stop: int) -> int:
        """Bins between the origins in ``[begin, stop)``, so that there are not more windows than needed."""
        stride = max(1, panel.num_series * (stop - begin) // _MOST_CALIBRATION_WINDOWS)
        while gcd(stride, self.window.frequency.day) > 1:  # else some times of the day would have no origin
            stride += 1
        return stride

    def quantiles(
        self, panel: Panel, series: np.ndarray, made: WindowForecasts, levels: Sequence[float]
    ) -> np.ndarray:
        """Quantiles of point forecasts, float32 ``[windows, horizon, level]``.

        Parameters
        ----------
        series:
            Panel row of each window, int64 ``[windows]``.
        made:
            The result of :meth:`forecast_windows` for these windows.
        levels:
            Between 0.005 and 0.995, see :func:`kforecast.intervals.check_levels`.

        Raises
        ------
        ArtifactError
            When there are no intervals.
        """
        return self.quantiles_for(panel)(series, made, levels)

    def quantiles_for(
        self, panel: Panel
    ) -> Callable[[np.ndarray, WindowForecasts, Sequence[float]], np.ndarray]:
        """:meth:`quantiles` of a panel for several questions: what they need of it is computed once.

        Raises
        ------
        ArtifactError
            When there are no intervals.
        """
        if self.intervals is None:
            raise missing(self.name)
        keys = [item_key(*pair) for pair in panel.series]
        nonnegative = first_below_zero(panel) == panel.num_bins
        peak = np.full(panel.num_series, np.inf)
        # In less than a season of history the largest value of a new series has not been seen yet.
        if panel.num_bins >= panel.frequency.season and not self.intervals.series.keys() >= set(keys):
            peak = _peaks(panel, panel.num_bins)
        intervals = self.intervals.with_history(keys, nonnegative, peak)

        def quantiles(series: np.ndarray, made: WindowForecasts, levels: Sequence[float]) -> np.ndarray:
            values, level = made.values, made.level
            if made.factor is not None:  # intervals know ordinary traffic
                values, level = values / made.factor, level / made.factor
            found = intervals.quantiles(values, level, keys, series, levels, made.peak, made.widths)
            return found if made.factor is None else found * made.factor[..., None]

        return quantiles

    def calibrated(
        self,
        panel: Panel,
        begin: int,
        stop: int,
        *,
        as_consumed: bool = False,
        edge: np.ndarray | None = None,
    ) -> Self:
        """This predictor with intervals calibrated on its errors in the bins ``[begin, stop)``.

        The network should not have been fitted to these bins. With too few windows in them, the predictor is
        returned without intervals; if there are more windows than needed, they are subsampled evenly.
        ``edge`` has the values of a bin as the newest of a context, float32 ``[series, time]``; None
        uses the panel's.
        """
        horizon = self.window.prediction_length
        stride = self._stride(panel, begin, stop)
        series, origin = np.divmod(cells_between(panel, self.window, begin, stop, stride), panel.num_bins)
        if not len(series):
            return replace(self, intervals=None)
        newest = None if edge is None else edge[series, origin - 1]
        made = replace(self, intervals=None, prior_share=0.0).forecast_windows(
            panel, series, origin, as_consumed=as_consumed, newest=newest
        )
        at = (series[:, None], origin[:, None] + np.arange(horizon))
        error = np.where(panel.observed[at], panel.values[at] - made.values, np.nan)
        if (stop - begin) // stride < OWN_WINDOWS <= stop - begin:
            log.info(
                "With this many series, all share the same intervals, scaled by the level of each series"
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
            nonnegative=self._first_below_zero(panel) >= stop,
            peak=_peaks(panel, stop),
        )
        return replace(self, intervals=intervals)


def _during_events(
    made: WindowForecasts, plan: Plan | None, panel: Panel, series: np.ndarray, origin: np.ndarray
) -> WindowForecasts:
    """Forecasts of ordinary traffic as forecasts of the traffic during events."""
    if plan is None:
        return made
    factor = plan.factors(panel, series[:, None], origin[:, None] + np.arange(made.values.shape[1]))
    if factor is None:
        return made
    return made._replace(values=made.values * factor, level=made.level * factor, factor=factor)


def first_below_zero(panel: Panel) -> np.ndarray:
    """First bin of each series with an observed value below zero, int64 ``[series]``.

    Returns
    -------
    ``num_bins`` for a series that was never observed below zero.
    """
    found = np.full(panel.num_series, panel.num_bins)
    # Most series never are, and need no look at each bin.
    rows = np.flatnonzero(np.fmin.reduce(panel.values, axis=1, initial=0) < 0)
    for first in range(0, len(rows), size := max(1, _MOST_CELLS // max(1, panel.num_bins))):
        some = rows[first : first + size]
        below = panel.observed[some] & (panel.values[some] < 0)
        found[some] = np.where(below.any(axis=1), below.argmax(axis=1), panel.num_bins)
    return found


def _peaks(panel: Panel, stop: int) -> np.ndarray:
    """The largest absolute observed value of each series before bin ``stop``; 0 without one."""
    found = []
    for first, observed in blocks(panel.observed[:, :stop]):
        value = np.abs(panel.values[first : first + len(observed), :stop])
        found.append(value.max(axis=1, where=observed, initial=0.0))
    return np.concatenate(found)


def zero_after_zeros(forecast: np.ndarray, peak: np.ndarray) -> np.ndarray:
    """Forecasts with 0 where a network saw nothing but zeros.

    Fcnet scales such a context by 1e-10 (contract 5), and an autoscaler would take 1e-11 for traffic.

    Parameters
    ----------
    forecast:
        ``[windows, horizon]``; NaN stays NaN.
    peak:
        The largest absolute value that the network saw, ``[windows]``.
    """
    return np.where((peak[:, None] == 0) & np.isfinite(forecast), np.float32(0), forecast)
