"""Forecasts of many windows, and how their weights and intervals follow the errors at the newest origins.

:class:`Following` makes all forecasts before an origin anew. With :class:`Recent`, a process that sees one
bin after the other keeps them, and gets the same numbers for the work of one origin.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from kforecast.data.panel import Panel, item_key
from kforecast.data.split import running_sum
from kforecast.intervals import Intervals
from kforecast.models.online import TAIL, Online, jumps, naive_experts, prior_weights
from kforecast.window import Window

# Values of a block of series, of each forecast at each origin and step: 2 MB as float64.
_MOST_VALUES = 250_000
# After more bins than these, all forecasts before the origin are made anew.
_MOST_MISSED = 32


class WindowForecasts(NamedTuple):
    """Point forecasts of many windows."""

    values: np.ndarray
    """float32 ``[windows, horizon]``; at least 0 for a series that was never observed below zero."""
    level: np.ndarray
    """float32 ``[windows, horizon]`` or ``[windows, 1]``: errors are expected to be proportional to it."""
    parts: dict[str, np.ndarray]
    """The parts of the network's forecast by name, each float32 ``[windows, horizon]``."""
    peak: np.ndarray
    """float32 ``[windows]``: the largest absolute value that the network saw before the origin."""
    widths: np.ndarray | None = None
    """float32 ``[windows, horizon, 2]``: widths of the lower and the upper part of intervals, as multiples of
    the calibrated ones; None for the calibrated ones."""
    factor: np.ndarray | None = None
    """float32 ``[windows, horizon]``: the effects of known events, by which values and levels have been
    multiplied; None for none."""
    prior: np.ndarray | None = None
    """float32 ``[windows, horizon]``: forecasts of pre-trained weights, which ``values`` do not contain."""

    def with_prior(self, share: float, width: float = 1.0) -> "WindowForecasts":
        """These forecasts with a share of those of the pre-trained weights, where they are known.

        ``width`` is how large errors are then, as a share of those without.
        """
        if self.prior is None:
            return self
        mixed = self.values + np.float32(share) * (self.prior - self.values)
        values = np.where(np.isfinite(mixed), mixed, self.values)
        return self._replace(values=values, level=self.level * np.float32(width), prior=None)


@dataclass(frozen=True, eq=False)
class Recent:
    """Forecasts of all series of a panel at the newest origins, which the next forecasts follow.

    The origin at bin ``n`` of the grid (:attr:`Panel.first_bin`) is kept at position ``n % N``.

    Attributes
    ----------
    origins:
        Number of each origin's bin on the grid, int64 ``[N]``.
    experts:
        The forecasts that are combined, float32 ``[K, series, N, P]``; NaN where unknown.
    values:
        Their combination, float64 ``[series, N, P]``.
    level:
        See :class:`WindowForecasts`, float32 ``[series, N, 1 or P]``.
    parts:
        How many of the forecasts are parts of the network's.
    widths:
        See :class:`WindowForecasts`, float32 ``[series, N, P, 2]``; None if they are not kept.
    """

    origins: np.ndarray
    experts: np.ndarray
    values: np.ndarray
    level: np.ndarray
    parts: int
    widths: np.ndarray | None = None

    @property
    def newest(self) -> int:
        """The newest origin."""
        return int(self.origins.max())

    def put(self, origin: int, experts: np.ndarray, values: np.ndarray, level: np.ndarray) -> None:
        """Add the forecasts of all series at an origin, in place of the oldest ones."""
        at = origin % len(self.origins)
        self.origins[at] = origin
        self.experts[:, :, at], self.values[:, at], self.level[:, at] = experts, values, level

    def replace(self, rows: np.ndarray, other: "Recent") -> None:
        """Take the forecasts of some series, int64 ``[rows]``, from others at the same origins."""
        self.experts[:, rows], self.values[rows], self.level[rows] = other.experts, other.values, other.level
        if self.widths is not None:
            self.widths[rows] = other.widths

    def forecasts(self, origins: np.ndarray, peak: np.ndarray) -> WindowForecasts:
        """The forecasts at some origins that are kept, of all series: ``[series * origins]`` windows.

        ``peak`` is that of :class:`WindowForecasts`, ``[series, origins]``.
        """
        at = origins % len(self.origins)
        values, level = (one[:, at].reshape(-1, one.shape[2]) for one in (self.values, self.level))
        widths = None if self.widths is None else self.widths[:, at].reshape(*values.shape, 2)
        return WindowForecasts(values.astype(np.float32), level, {}, peak.ravel(), widths)


@dataclass(frozen=True)
class Following:
    """Forecasts that follow their errors at the newest origins.

    Attributes
    ----------
    online:
        How they follow.
    window:
        Context and horizon.
    fixed:
        Forecasts with fixed weights, given a panel, its rows and the origins, int64 ``[windows]``.
    usual:
        A panel with usual values in place of past events, given the panel and the range of the origins.
    first_below_zero:
        First bin from which each series of a panel may be forecast below zero, int64 ``[series]``.
    intervals:
        The calibrated intervals; None without.
    keep_widths:
        Whether :class:`Recent` keeps the widths of earlier intervals.
    """

    online: Online
    window: Window
    fixed: Callable[[Panel, np.ndarray, np.ndarray], WindowForecasts]
    usual: Callable[[Panel, int, int], Panel]
    first_below_zero: Callable[[Panel], np.ndarray]
    intervals: Intervals | None
    keep_widths: bool = False

    def follow(
        self, panel: Panel, series: np.ndarray, origin: np.ndarray, made: WindowForecasts, reuse: bool
    ) -> WindowForecasts:
        """Forecasts with the weights and widths that the errors before each origin tell.

        Parameters
        ----------
        panel:
            The history before the origins.
        series, origin:
            Panel row and index of the first forecast bin, int64 ``[windows]``.
        made:
            The forecasts of these windows with fixed weights.
        reuse:
            Whether ``fixed`` would give the same forecasts, so that they need not be made again.
        """
        values = np.empty_like(made.values)
        widths = None if self.intervals is None else np.ones((*values.shape, 2), np.float32)
        for rows, first, stop in self._blocks(series, origin):
            mine = np.flatnonzero(np.isin(series, rows))
            row, at = np.searchsorted(rows, series[mine]), origin[mine]
            some = panel.rows(rows.tolist())
            found, wide = self._of_block(some, row, at, _chosen(made, mine), reuse, range(first, stop))
            values[mine] = found
            if widths is not None:
                widths[mine] = wide
        return made._replace(values=values, widths=widths)

    def _blocks(self, series: np.ndarray, origin: np.ndarray) -> Iterator[tuple[np.ndarray, int, int]]:
        """Rows, first origin and end of the origins of blocks of series that fit into memory."""
        rows, number = np.unique(series, return_inverse=True)
        oldest, newest = np.full(len(rows), np.iinfo(np.int64).max), np.zeros(len(rows), np.int64)
        np.minimum.at(oldest, number, origin)
        np.maximum.at(newest, number, origin)
        horizon = self.window.prediction_length
        reach = np.maximum(oldest - self.online.reach(horizon), self.window.context_length)
        first = np.minimum(reach, oldest)
        # Series with origins at about the same time stand together.
        order = np.lexsort((newest, first))
        while len(order):
            length = np.maximum.accumulate(newest[order]) + 1 - first[order[0]]
            size = length * horizon * np.arange(1, len(length) + 1)
            count = max(1, int(np.searchsorted(size, _MOST_VALUES, side="right")))
            some, order = np.sort(order[:count]), order[count:]
            yield rows[some], int(first[some].min()), int(newest[some].max()) + 1

    def _of_block(
        self,
        panel: Panel,
        row: np.ndarray,
        origin: np.ndarray,
        own: WindowForecasts,
        reuse: bool,
        origins: range,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Values and widths of the windows at ``row, origin``, from the forecasts at all ``origins``."""
        first, online = origins.start, self.online
        actual, raised, counts = self._known(panel, np.arange(first, origins.stop))
        wanted = counts.copy()
        wanted[row, origin - first] = not reuse
        rows, at = np.nonzero(wanted)
        usual = self.usual(panel, first, origins.stop) if online.rate else panel
        experts = asked = self._experts(panel, usual, row, origin, own)
        level = own.level
        if len(rows):
            rest = self.fixed(panel, rows, at + first)
            experts, level = self._experts(panel, usual, rows, at + first, rest), rest.level
            if reuse:
                rows, at = np.concatenate([row, rows]), np.concatenate([origin - first, at])
                experts = np.concatenate([asked, experts], axis=1)
                level = np.concatenate([own.level, level])
        else:
            rows, at = row, origin - first
        made = np.full((len(experts), *actual.shape), np.nan, np.float32)
        made[:, rows, at] = experts
        values, combined = made[0], asked[0]
        if online.rate:
            parts, jumped = _num_parts(own), jumps(panel, first, origins.stop)
            loss = _losses(made, actual, raised, parts)
            weights = online.weights(made, loss, *_prior_weights(made, parts), jumped)
            values = _mixed(weights, made)
            combined = _mixed(weights[:, row, origin - first], asked)
        widths = np.ones((*combined.shape, 2))
        if self.intervals is not None:
            scale = np.full((*actual.shape[:2], level.shape[1]), np.nan)
            scale[rows, at] = level
            widths = self._widths(panel, (actual - values) * raised, scale)[row, origin - first]
        return combined.astype(np.float32), widths.astype(np.float32)

    def next(
        self, panel: Panel, made: WindowForecasts, recent: Recent | None = None, reuse: bool = False
    ) -> tuple[WindowForecasts, Recent]:
        """Forecasts of all series from the panel's end, as :meth:`follow` makes them.

        Parameters
        ----------
        panel:
            The history before the origin, at least :meth:`Online.reach` bins of it if there are as many.
        made:
            The forecasts from there with fixed weights.
        recent:
            What this method returned for an earlier origin; it is changed. None, and an origin long ago, make
            the forecasts of all earlier origins.
        reuse:
            As of :meth:`follow`.

        Returns
        -------
        The forecasts, and those to follow next time.
        """
        origin = panel.first_bin + panel.num_bins
        weights = None
        if recent is None or not recent.newest <= origin <= recent.newest + _MOST_MISSED:
            recent = self.recent(panel)
        for missed in range(recent.newest + 1, origin + 1):
            length, before = missed - panel.first_bin, panel
            if missed < origin:
                before = replace(panel, values=panel.values[:, :length], observed=panel.observed[:, :length])
            weights = self._add(before, recent, made if reuse and missed == origin else None)
            if recent.widths is not None and missed < origin:
                recent.widths[:, missed % len(recent.origins)] = self._widths_at_end(before, recent)
        at = origin % len(recent.origins)
        experts, values = recent.experts[:, :, at].copy(), made.values
        experts[0] = made.values
        if self.online.rate:
            if recent.parts:
                experts[1 : 1 + recent.parts] = list(made.parts.values())
            if weights is None:
                weights = self._weights_at_end(panel, recent, recent.experts[:, :, at])
            values = _mixed(weights, experts).astype(np.float32)
        widths = None if self.intervals is None else self._widths_at_end(panel, recent).astype(np.float32)
        if recent.widths is not None:
            recent.widths[:, at] = widths
        return made._replace(values=values, widths=widths), recent

    def recent(self, panel: Panel) -> Recent:
        """The forecasts of all series from the panel's end and at the newest origins before it."""
        horizon, end = self.window.prediction_length, panel.num_bins
        first = min(end, max(self.window.context_length, end - self.online.reach(horizon)))
        kept = min(self.online.origins + horizon, end + 1 - first)
        size = self.online.origins + horizon
        origin, rows = np.arange(first, end + 1), np.arange(panel.num_series)
        found: Recent | None = None
        for some in np.array_split(rows, -(-len(rows) * len(origin) * horizon // _MOST_VALUES)):
            part = panel.rows(some.tolist())
            actual, raised, counts = self._known(part, origin)
            counts[:, -1] = True
            row, at = np.nonzero(counts)
            made = self.fixed(part, row, at + first)
            usual = self.usual(part, first, end + 1) if self.online.rate else part
            experts = self._experts(part, usual, row, at + first, made)
            every = np.full((len(experts), *actual.shape), np.nan, np.float32)
            every[:, row, at] = experts
            level = np.full((*actual.shape[:2], made.level.shape[1]), np.nan, np.float32)
            level[row, at] = made.level
            values = every[0]
            if self.online.rate:
                parts, jumped = _num_parts(made), jumps(part, first, end + 1)
                loss = _losses(every, actual, raised, parts)
                values = _mixed(
                    self.online.weights(every, loss, *_prior_weights(every, parts), jumped), every
                )
            widths = None
            if self.intervals is not None and self.keep_widths:
                widths = self._widths(part, (actual - values) * raised, level)
            if found is None:
                shape = (panel.num_series, size)
                found = Recent(
                    np.full(size, -1),
                    np.full((len(every), *shape, horizon), np.nan, np.float32),
                    np.full((*shape, horizon), np.nan),
                    np.full((*shape, level.shape[2]), np.nan, np.float32),
                    _num_parts(made),
                    None if widths is None else np.ones((*shape, horizon, 2), np.float32),
                )
                place = (panel.first_bin + origin[-kept:]) % size
                found.origins[place] = panel.first_bin + origin[-kept:]
            found.experts[:, some[:, None], place] = every[:, :, -kept:]
            found.values[some[:, None], place] = values[:, -kept:]
            found.level[some[:, None], place] = level[:, -kept:]
            if found.widths is not None and widths is not None:
                found.widths[some[:, None], place] = widths[:, -kept:]
        assert found is not None, "a panel has series"
        return found

    def _add(self, panel: Panel, recent: Recent, made: WindowForecasts | None) -> np.ndarray | None:
        """Add the forecasts from the panel's end; returns the weights there, ``[K, S, P]``.

        ``made`` are those with fixed weights; None makes them.
        """
        rows, end = np.arange(panel.num_series), np.full(panel.num_series, panel.num_bins)
        made = made or self.fixed(panel, rows, end)
        weights, values = None, made.values
        experts = made.values[None]
        if self.online.rate:
            usual = self.usual(panel, panel.num_bins, panel.num_bins + 1)
            experts = self._experts(panel, usual, rows, end, made)
            weights = self._weights_at_end(panel, recent, experts)
            values = _mixed(weights, experts)
        recent.put(panel.first_bin + panel.num_bins, experts, values, made.level)
        return weights

    def _weights_at_end(self, panel: Panel, recent: Recent, experts: np.ndarray) -> np.ndarray:
        """Weights of the forecasts from the panel's end, ``[K, S, P]``."""
        found = []
        for some, part, actual, raised, ages in self._errors_of(panel, recent):
            loss = _losses(recent.experts[:, some], actual, raised, recent.parts)
            before = _prior_weights(experts, recent.parts)
            jumped = jumps(part, panel.num_bins, panel.num_bins + 1)
            found.append(self.online.weights(experts[:, some, None], loss, *before, jumped, ages)[:, :, 0])
        return np.concatenate(found, axis=1)

    def _widths_at_end(self, panel: Panel, recent: Recent) -> np.ndarray:
        """Widths of the intervals of forecasts from the panel's end, ``[S, P, 2]``."""
        found = []
        for some, part, actual, raised, ages in self._errors_of(panel, recent):
            error = (actual - recent.values[some]) * raised
            found.append(self._widths(part, error, recent.level[some], ages)[:, 0])
        return np.concatenate(found)

    def _errors_of(
        self, panel: Panel, recent: Recent
    ) -> Iterator[tuple[slice, Panel, np.ndarray, np.ndarray, np.ndarray]]:
        """Blocks of series: which, their panel, targets and factors as of :meth:`_known`, and ages."""
        origin = recent.origins - panel.first_bin
        ages = panel.num_bins - 1 - origin[:, None] - np.arange(self.window.prediction_length)
        ages[recent.origins < 0] = -1  # no forecast there
        count = max(1, _MOST_VALUES // recent.values[0].size)
        for begin in range(0, panel.num_series, count):
            some = slice(begin, min(begin + count, panel.num_series))
            part = panel.rows(range(some.start, some.stop))
            actual, raised, _ = self._known(part, origin)
            yield some, part, actual, raised, ages

    def _widths(
        self, panel: Panel, error: np.ndarray, level: np.ndarray, ages: np.ndarray | None = None
    ) -> np.ndarray:
        """Widths of both tails ``[S, T, P, 2]`` after errors ``[S, T, P]``, see :meth:`Online.widths`."""
        assert self.intervals is not None
        floor, tails = self.intervals.tails([item_key(*pair) for pair in panel.series], TAIL)
        relative = error / np.maximum(level, floor[:, None, None])
        tails = np.where(tails == 0, np.nan, tails)
        sides = [self.online.widths(relative / tails[:, None, :, side], ages) for side in range(2)]
        return np.stack(sides, axis=-1)

    def _known(self, panel: Panel, origin: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Targets ``[series, origins, horizon]``, the factor of their errors, and which origins count.

        As in an evaluation, an origin counts when half of its context is observed. Errors on data that the
        network was trained on are smaller than they will be.
        """
        target = origin[:, None] + np.arange(self.window.prediction_length)
        inside = np.clip(target, 0, panel.num_bins - 1)
        observed = panel.observed[:, inside] & (target == inside)
        seen = running_sum(panel.observed)
        stop, begin = (np.clip(origin - bins, 0, panel.num_bins) for bins in (0, self.window.context_length))
        context = seen[:, stop] - seen[:, begin]
        counts = (2 * context >= self.window.context_length) & (origin >= self.window.context_length)
        actual = np.where(observed & counts[..., None], panel.values[:, inside], np.float32(np.nan))
        trained = target < panel.bin_at(self.online.trained_until)
        return actual, np.where(trained, self.online.optimism, 1.0), counts

    def _experts(
        self, panel: Panel, usual: Panel, row: np.ndarray, origin: np.ndarray, made: WindowForecasts
    ) -> np.ndarray:
        """The forecast with fixed weights, its parts if several, and naive forecasts, ``[K, windows, P]``."""
        if not self.online.rate:
            return made.values[None]
        parts = list(made.parts.values()) if _num_parts(made) else []
        naive = np.stack(naive_experts(panel, usual, row, origin, self.window.prediction_length))
        nonnegative = origin <= self.first_below_zero(panel)[row]
        return np.concatenate(
            [made.values[None], *[part[None] for part in parts], never_below_zero(naive, nonnegative)]
        )


def _num_parts(made: WindowForecasts) -> int:
    """How many parts of the network's forecast stand beside it."""
    return len(made.parts) if len(made.parts) > 1 else 0


def _prior_weights(experts: np.ndarray, parts: int) -> tuple[np.ndarray, np.ndarray]:
    """The weights of :func:`prior_weights` for forecasts ``[K, ...]``."""
    return prior_weights(parts, len(experts) - 1 - parts)


def _losses(made: np.ndarray, actual: np.ndarray, raised: np.ndarray, parts: int) -> np.ndarray:
    """Absolute errors of ``[K, S, T, P]``; those of the network are raised by factors ``[T, P]``."""
    loss: np.ndarray = np.abs(made - actual)
    loss[: 1 + parts] *= raised
    return loss


def _mixed(weights: np.ndarray, forecasts: np.ndarray) -> np.ndarray:
    """Weighted sums over the first axis; unknown forecasts have no weight."""
    mixed: np.ndarray = (weights * np.nan_to_num(forecasts)).sum(axis=0)
    return mixed


def _chosen(made: WindowForecasts, some: np.ndarray) -> WindowForecasts:
    """The forecasts of some windows."""
    parts = {name: part[some] for name, part in made.parts.items()}
    return WindowForecasts(made.values[some], made.level[some], parts, made.peak[some])


def never_below_zero(forecast: np.ndarray, nonnegative: np.ndarray) -> np.ndarray:
    """Forecasts with 0 in place of values below zero, where the series was never observed below zero.

    Parameters
    ----------
    forecast:
        ``[..., windows, horizon]``; NaN stays NaN.
    nonnegative:
        bool ``[windows]``.
    """
    return np.where(nonnegative[:, None] & (forecast < 0), np.float32(0), forecast)
