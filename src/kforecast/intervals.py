"""Forecast intervals for any point forecaster, by split conformal prediction.

Errors of forecasts are ranked on data that the network was not fitted to. The ranked errors become offsets
that are added to later forecasts (Vovk, Gammerman & Shafer 2005; Lei et al. 2018, "Distribution-free
predictive inference for regression"). Errors are relative to the level of their window, so that intervals
scale with the traffic, or to the spread that the network itself predicts (as in Romano, Patterson & Candes
2019, "Conformalized quantile regression"). A level is never less than the floor of its series, which is as
high as the errors need: on traffic that comes in bursts, errors after quiet contexts have nothing to do with
the level.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kforecast.errors import ArtifactError
from kforecast.files.untrusted import parse_json

# Offsets are stored at these levels and interpolated between them.
LEVELS = (0.005, 0.01, 0.025, 0.05, *(round(0.1 * n, 1) for n in range(1, 10)), 0.95, 0.975, 0.99, 0.995)
# A series with at least this many windows has its own offsets; others use the pooled offsets of all series.
OWN_WINDOWS = 300
# With fewer windows there are no intervals: the outer levels would be guesses.
FEWEST_WINDOWS = 20
# Lowest floor, as a share of the series' mean level: small errors at night stay small.
_LEAST_LEVEL = 0.1
# Other floors that are tried: multiples of the mean level, and quantiles of the level. From the largest level
# on, all windows have the same scale.
_FLOORS, _FLOOR_QUANTILES = (0.3, 1.0, 3.0), (0.9, 1.0)
# A floor is chosen by the mean pinball loss at these levels. The lowest floor within the tolerance of the
# best one is taken: intervals follow a level that moves only above the floor.
_JUDGED, _TOLERANCE = (0.05, 0.1, 0.9, 0.95, 0.975), 0.9
# More windows do not make the choice more accurate.
_MOST_WINDOWS = 1_000
# Quantiles are at most this multiple of the largest value that the series had, has in the bins before the
# origin, or is forecast to have.
_LARGEST = 1.25
# Level of a series that never had traffic.
_NO_LEVEL = 1e-10
# Limit of the number of values in a file: some hundred for each series with its own offsets.
_MOST_VALUES = 32_000_000


@dataclass(frozen=True)
class SeriesIntervals:
    """The calibration of one series.

    Attributes
    ----------
    floor:
        Lower limit of the level that errors are relative to, in the series' units.
    nonnegative:
        Whether all observed values were at least zero; then all quantiles are too.
    windows:
        Number of windows that it was calibrated on.
    offsets:
        ``[horizon, level]``, relative to the level of the window; None for the pooled offsets.
    peak:
        The largest absolute value of its history; infinity if it is not known.
    """

    floor: float
    nonnegative: bool
    windows: int
    offsets: np.ndarray | None
    peak: float = math.inf


@dataclass(frozen=True)
class Intervals:
    """Calibrated offsets, made by :func:`calibrate` or :meth:`from_json`.

    Attributes
    ----------
    pooled:
        Offsets from the errors of all series, float64 ``[horizon, level]``, ascending along the levels.
    series:
        The calibration of each series, by item key.
    """

    pooled: np.ndarray
    series: Mapping[str, SeriesIntervals]

    def quantiles(
        self,
        forecast: np.ndarray,
        level: np.ndarray,
        keys: Sequence[str],
        series: np.ndarray,
        levels: Sequence[float],
        peak: np.ndarray,
        widths: np.ndarray | None = None,
    ) -> np.ndarray:
        """Quantiles around point forecasts.

        Levels below 0.5 are at most the forecast, levels above 0.5 at least. No quantile is further from
        zero than 1.25 times the largest absolute value of the series' history, of the bins before the origin,
        or of the forecast.

        Parameters
        ----------
        forecast:
            ``[windows, horizon]``.
        level:
            Level or spread that errors are proportional to, ``[windows, horizon]`` or ``[windows, 1]``.
        keys, series:
            Item key of every series, and the position in ``keys`` of each window's series, int ``[windows]``.
        levels:
            Between 0.005 and 0.995, in any order; see :func:`check_levels`.
        peak:
            Largest absolute value in the bins before each origin, ``[windows]``.
        widths:
            Widths below and above the forecast as multiples of the calibrated ones, ``[windows, horizon,
            2]``; None for these.

        Returns
        -------
        float32 ``[windows, horizon, level]``. Quantiles never cross, and are never negative for a series
        whose values never were, unless the forecast is.
        """
        own = [self.series.get(key) or _unknown() for key in keys]
        asked = np.asarray(levels, dtype=np.float64)
        offsets = np.stack([self.pooled if one.offsets is None else one.offsets for one in own])
        table = _at_levels(offsets, asked)
        floor = np.array([one.floor for one in own])[series]
        lowest = np.where([one.nonnegative for one in own], 0.0, -np.inf)[series]
        known = np.maximum(np.array([one.peak for one in own])[series], peak)
        center = forecast.astype(np.float64)
        limit = _LARGEST * np.maximum(known[:, None], np.abs(center))
        least = np.maximum(lowest[:, None], -limit)
        scale = np.maximum(level, floor[:, None])[..., None]
        offset = table[series]
        if widths is not None:
            # By the side on which a quantile lies, and not by its level: a median is moved too.
            offset = offset * np.where(offset < 0, widths[..., :1], widths[..., 1:])
        found = center[..., None] + scale * offset
        for number, one in enumerate(asked):
            at = found[..., number]
            np.clip(at, least, limit, out=at)
            # The forecast is inside its own interval, also that of a model whose errors lie on one side.
            if one != 0.5:
                (np.minimum if one < 0.5 else np.maximum)(at, center, out=at)
        quantiles: np.ndarray = found.astype(np.float32)
        return quantiles

    def tails(self, keys: Sequence[str], level: float) -> tuple[np.ndarray, np.ndarray]:
        """Floors ``[series]``, and offsets ``[series, horizon, 2]`` at ``level`` and at ``1 - level``."""
        own = [self.series.get(key) or _unknown() for key in keys]
        offsets = np.stack([self.pooled if one.offsets is None else one.offsets for one in own])
        found = _at_levels(offsets, np.array([level, 1 - level]))
        # An interval contains its forecast, see quantiles().
        found[..., 0] = np.minimum(found[..., 0], 0.0)
        found[..., 1] = np.maximum(found[..., 1], 0.0)
        return np.array([one.floor for one in own]), found

    def with_history(self, keys: Sequence[str], nonnegative: np.ndarray, peak: np.ndarray) -> "Intervals":
        """These intervals with what the history at hand tells of its series.

        A series that it shows below zero may be there again. A series that was not calibrated gets its peak
        and sign from it.

        Parameters
        ----------
        keys:
            Item key of every series of the history.
        nonnegative, peak:
            Whether all observed values were at least zero, and the largest absolute value, ``[series]``.
        """
        series = dict(self.series)
        for key, positive, largest in zip(keys, nonnegative.tolist(), peak.tolist(), strict=True):
            own = series.get(key)
            if own is None:
                series[key] = replace(_unknown(), nonnegative=positive, peak=largest)
            elif own.nonnegative and not positive:
                series[key] = replace(own, nonnegative=False)
        return Intervals(self.pooled, series)

    def updated(self, newer: "Intervals") -> "Intervals":
        """These intervals with the series in ``newer`` replaced; ``newer`` itself if it has every series."""
        if set(newer.series) >= set(self.series):
            return newer
        return Intervals(self.pooled, {**self.series, **newer.series})

    def only(self, key: str) -> "Intervals":
        """The intervals of one series."""
        return Intervals(self.pooled, {name: own for name, own in self.series.items() if name == key})

    def to_json(self, checkpoint_sha256: str) -> str:
        """The text of ``intervals.json``, which names the checkpoint that it was calibrated for."""
        series = {
            key: {
                "floor": own.floor,
                "nonnegative": own.nonnegative,
                "windows": own.windows,
                "offsets": None if own.offsets is None else own.offsets.tolist(),
                "peak": own.peak if math.isfinite(own.peak) else None,
            }
            for key, own in self.series.items()
        }
        content = {
            "checkpoint_sha256": checkpoint_sha256,
            "levels": list(LEVELS),
            "offsets": self.pooled.tolist(),
            "series": series,
        }
        return json.dumps(content, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes, checkpoint_sha256: str, prediction_length: int) -> "Intervals":
        """Read the text of ``intervals.json``.

        Raises
        ------
        ValueError
            When it is damaged or belongs to another checkpoint.
        """
        content = parse_json(text.encode() if isinstance(text, str) else text, _MOST_VALUES)
        try:
            if content["checkpoint_sha256"] != checkpoint_sha256:
                raise ValueError("it was calibrated for another checkpoint; remove it, or calibrate again")
            if tuple(content["levels"]) != LEVELS:
                raise ValueError("its levels are not those this version knows")
            series = {
                str(key): SeriesIntervals(
                    floor=float(own["floor"]),
                    nonnegative=own["nonnegative"] is True,
                    windows=int(own["windows"]),
                    offsets=None if own["offsets"] is None else _table(own["offsets"], prediction_length),
                    # Files of earlier versions have none.
                    peak=math.inf if own.get("peak") is None else float(own["peak"]),
                )
                for key, own in content["series"].items()
            }
            if not all(np.isfinite(own.floor) and own.floor > 0 for own in series.values()):
                raise ValueError("a floor is not a positive number")
            if not all(own.peak >= 0 for own in series.values()):
                raise ValueError("a peak is not a number of at least 0")
            return cls(_table(content["offsets"], prediction_length), series)
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"it has an unexpected structure ({type(error).__name__}: {error})") from error


def calibrate(
    error: np.ndarray,
    level: np.ndarray,
    keys: Sequence[str],
    series: np.ndarray,
    mean_level: np.ndarray,
    nonnegative: np.ndarray,
    peak: np.ndarray,
) -> Intervals | None:
    """Calibrate intervals on errors on data that the network was not fitted to.

    Parameters
    ----------
    error:
        Actual minus forecast, ``[windows, horizon]``; NaN where not observed.
    level:
        Level or spread that errors are proportional to, ``[windows, horizon]`` or ``[windows, 1]``.
    keys, series:
        Item key of every series, and the position in ``keys`` of each window's series, int ``[windows]``.
    mean_level:
        Mean level of each series, ``[series]``.
    nonnegative:
        Whether all observed values of a series were at least zero, bool ``[series]``.
    peak:
        Largest absolute value of each series' history, ``[series]``.

    Returns
    -------
    The intervals, or None with fewer than :data:`FEWEST_WINDOWS` windows.
    """
    if not len(series):
        return None
    busy = mean_level > 0
    # A series without windows has no entry.
    numbers, counts = np.unique(series, return_counts=True)
    parts = np.split(np.argsort(series, kind="stable"), counts.cumsum()[:-1])
    windows = dict(zip(numbers, parts, strict=True))
    floor = np.full(len(keys), _NO_LEVEL)
    for number, mine in windows.items():
        if busy[number]:
            floor[number] = _floor(error[mine], level[mine], float(mean_level[number]))
    relative = error / np.maximum(level, floor[series][:, None])
    # Series without traffic are left out: their exact forecasts would make all other intervals too narrow.
    pool = relative[busy[series]]
    if _count(pool) < FEWEST_WINDOWS:
        return None
    own = {}
    for number, mine in windows.items():
        count = _count(relative[mine])
        own[keys[number]] = SeriesIntervals(
            floor=_rounded(floor[number]).item(),
            nonnegative=bool(nonnegative[number]),
            windows=count,
            offsets=_offsets(relative[mine]) if busy[number] and count >= OWN_WINDOWS else None,
            peak=_rounded(peak[number]).item(),
        )
    return Intervals(_offsets(pool), own)


def check_levels(asked: Any) -> list[float]:
    """Validate quantile levels, given as a list, a single number or None.

    Returns
    -------
    The levels as a list of floats.

    Raises
    ------
    ValueError
        When a level is out of range, not a number, or given twice.
    """
    levels = [] if asked is None else [*asked] if isinstance(asked, list | tuple) else [asked]
    lowest, highest = LEVELS[0], LEVELS[-1]
    wrong = [
        level for level in levels if not isinstance(level, int | float) or not lowest <= level <= highest
    ]
    if wrong or len({column(level) for level in levels}) < len(levels):
        said = ", ".join(map(str, wrong)) or "a level is given twice"
        raise ValueError(f"{said}: quantiles are different numbers between {lowest} and {highest}")
    return [float(level) for level in levels]


def column(level: float) -> str:
    """The column name of a quantile in frames and files: ``q0.9``."""
    return f"q{level:g}"


def missing(name: object) -> ArtifactError:
    """The error for quantiles requested from an artifact without intervals."""
    return ArtifactError(
        f"{name}: no intervals.json, so no quantiles: train with data.validation above 0, or let "
        "kforecast-evaluate make it from a history: evaluate.save_intervals=true"
    )


def _floor(error: np.ndarray, level: np.ndarray, mean_level: float) -> float:
    """The lowest floor of a series' level whose quantiles lose little against those of the best floor.

    Parameters
    ----------
    error, level:
        As in :func:`calibrate`, of the windows of one series.
    mean_level:
        The mean level of the series, above 0.
    """
    least = _LEAST_LEVEL * mean_level
    some = np.linspace(0, len(error) - 1, min(len(error), _MOST_WINDOWS)).astype(np.int64)
    error, level = error[some], level[some].reshape(len(some), -1)
    tried = [*(share * mean_level for share in _FLOORS), *np.quantile(level, _FLOOR_QUANTILES)]
    floors = np.unique(np.clip([least, *tried], least, max(least, level.max())))
    scale = np.maximum(level, floors[:, None, None])
    offsets = _conformal(error / scale, _JUDGED)
    losses = np.zeros(len(floors))
    for number, share in enumerate(_JUDGED):
        beyond = error - scale * offsets[:, None, :, number]
        losses += np.nansum(np.maximum(share * beyond, (share - 1) * beyond), axis=(1, 2))
    chosen: float = floors[np.argmax(_TOLERANCE * losses <= losses.min())]
    return chosen


def _offsets(relative: np.ndarray) -> np.ndarray:
    """Conformal quantiles of relative errors ``[windows, horizon]`` for each step, ``[horizon, level]``."""
    return _rounded(_conformal(relative, LEVELS))


def _conformal(relative: np.ndarray, asked: Sequence[float]) -> np.ndarray:
    """Quantiles of relative errors ``[..., windows, horizon]`` at the levels, ``[..., horizon, level]``."""
    ranked = np.sort(relative, axis=-2)  # NaN last
    count = np.isfinite(relative).sum(axis=-2)[..., None]
    levels = np.array(asked)
    # Ranks are rounded away from the median. With n errors, a new error is below the k-th smallest with
    # probability k / (n + 1).
    exact = levels * (count + 1)
    rank = np.where(levels < 0.5, np.floor(exact + 1e-9), np.ceil(exact - 1e-9))
    rank = np.clip(rank, 1, np.maximum(count, 1)).astype(np.int64)
    found = np.take_along_axis(ranked, rank.swapaxes(-1, -2) - 1, axis=-2)
    quantiles: np.ndarray = found.swapaxes(-1, -2)
    return quantiles


def _count(relative: np.ndarray) -> int:
    """Number of finite errors at the step with the fewest."""
    return int(np.isfinite(relative).sum(axis=0).min()) if len(relative) else 0


def _at_levels(offsets: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Offsets ``[series, horizon, LEVELS]`` interpolated to other levels."""
    known = np.array(LEVELS)
    above = np.clip(np.searchsorted(known, levels), 1, len(known) - 1)
    share = (levels - known[above - 1]) / (known[above] - known[above - 1])
    low, high = offsets[..., above - 1], offsets[..., above]
    # Rounding may exceed the upper offset, but quantiles must not cross.
    between: np.ndarray = np.minimum(low + share * (high - low), high)
    return between


def _rounded(values: np.ndarray) -> np.ndarray:
    """Values with six significant digits; more would be noise and enlarge the file."""
    rounded: np.ndarray = np.vectorize(lambda value: float(f"{value:.6g}"), otypes=[np.float64])(values)
    return rounded


def _table(content: Any, prediction_length: int) -> np.ndarray:
    """Offsets from a file, validated, float64 ``[horizon, level]``."""
    try:
        table = np.array(content, dtype=np.float64)
    except ValueError as error:
        raise ValueError("its offsets are not a table of numbers") from error
    if table.shape != (prediction_length, len(LEVELS)):
        raise ValueError(f"offsets of the shape {table.shape}, not {(prediction_length, len(LEVELS))}")
    if not np.isfinite(table).all() or (np.diff(table, axis=1) < 0).any():
        raise ValueError("its offsets are not finite and ascending")
    return table


def _unknown() -> SeriesIntervals:
    """The calibration of a series that was not calibrated: the pooled offsets."""
    return SeriesIntervals(floor=_NO_LEVEL, nonnegative=False, windows=0, offsets=None)
