"""Forecasts of many windows, and how their weights and intervals follow the errors at the newest origins."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kforecast.data.panel import Panel, item_key
from kforecast.data.split import running_sum
from kforecast.intervals import Intervals
from kforecast.models.online import TAIL, Online, jumps, naive_experts, prior
from kforecast.window import Window

# Values of a block of series, of each forecast at each origin and step: 8 MB.
_MOST_VALUES = 1_000_000


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
    """

    online: Online
    window: Window
    fixed: Callable[[Panel, np.ndarray, np.ndarray], WindowForecasts]
    usual: Callable[[Panel, int, int], Panel]
    first_below_zero: Callable[[Panel], np.ndarray]
    intervals: Intervals | None

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
        actual, raised, counts = self._known(panel, origins)
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
            parts = len(own.parts) if len(own.parts) > 1 else 0
            loss = np.abs(made - actual)
            loss[: 1 + parts] *= raised
            jumped = jumps(panel, first, origins.stop)
            weights = online.weights(made, loss, *prior(parts, len(made) - 1 - parts), jumped)
            values = (weights * np.nan_to_num(made)).sum(axis=0)
            combined = (weights[:, row, origin - first] * np.nan_to_num(asked)).sum(axis=0)
        widths = np.ones((*combined.shape, 2))
        if self.intervals is not None:
            scale = np.full((*actual.shape[:2], level.shape[1]), np.nan)
            scale[rows, at] = level
            floor, tails = self.intervals.tails([item_key(*pair) for pair in panel.series], TAIL)
            error = (actual - values) * raised / np.maximum(scale, floor[:, None, None])
            for side in range(2):
                tail = np.where(tails[..., side] == 0, np.nan, tails[..., side])
                wide = online.widths(error / tail[:, None])
                widths[..., side] = wide[row, origin - first]
        return combined.astype(np.float32), widths.astype(np.float32)

    def _known(self, panel: Panel, origins: range) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Targets ``[series, origins, horizon]``, the factor of their errors, and which origins count.

        As in an evaluation, an origin counts when half of its context is observed. Errors on data that the
        network was trained on are smaller than they will be.
        """
        origin = np.arange(origins.start, origins.stop)
        target = origin[:, None] + np.arange(self.window.prediction_length)
        inside = np.clip(target, 0, panel.num_bins - 1)
        observed = panel.observed[:, inside] & (target == inside)
        seen = running_sum(panel.observed)
        begin = np.maximum(origin - self.window.context_length, 0)
        context = seen[:, np.minimum(origin, panel.num_bins)] - seen[:, np.minimum(begin, panel.num_bins)]
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
        parts = list(made.parts.values()) if len(made.parts) > 1 else []
        naive = np.stack(naive_experts(panel, usual, row, origin, self.window.prediction_length))
        nonnegative = origin <= self.first_below_zero(panel)[row]
        return np.concatenate(
            [made.values[None], *[part[None] for part in parts], never_below_zero(naive, nonnegative)]
        )


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
