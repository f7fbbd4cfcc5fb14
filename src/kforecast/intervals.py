"""Forecast intervals for any point forecaster, by split conformal prediction.

On data that the network was not fitted to, the errors of its forecasts are ranked; the ranks become offsets
that are added to later forecasts (Vovk, Gammerman & Shafer 2005; Lei et al. 2018, "Distribution-free
predictive inference for regression"). Errors are taken relative to the level of their window, so that
intervals grow and shrink with the traffic, or to the spread that a network expects itself (as Romano,
Patterson & Candes 2019, "Conformalized quantile regression").
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kforecast.errors import ArtifactError
from kforecast.files.untrusted import parse_json

# Offsets are kept at these levels; between them they are interpolated.
LEVELS = (0.005, 0.01, 0.025, 0.05, *(round(0.1 * n, 1) for n in range(1, 10)), 0.95, 0.975, 0.99, 0.995)
# With so many windows or more a series has offsets of its own, else those of all series together.
OWN_WINDOWS = 300
# With fewer the outer levels would be guesses.
FEWEST_WINDOWS = 20
# A window's level counts as at least this share of its series' mean: an error at night is not a catastrophe.
_LEAST_LEVEL = 0.1
# The level of a series that never had any traffic: nothing is relative to it.
_NO_LEVEL = 1e-10
# In a file at most: some hundred numbers for each series with a history of its own.
_MOST_VALUES = 32_000_000


@dataclass(frozen=True)
class SeriesIntervals:
    """What intervals know of one series.

    Attributes
    ----------
    floor:
        The least level errors are relative to, in the series' units.
    nonnegative:
        Whether the series was never seen below zero, so that no quantile of it may be.
    windows:
        How many were calibrated on.
    offsets:
        ``[horizon, level]``, relative to the level; None: those of all series together.
    """

    floor: float
    nonnegative: bool
    windows: int
    offsets: np.ndarray | None


@dataclass(frozen=True)
class Intervals:
    """Calibrated offsets. Make them with :func:`calibrate` or :meth:`from_json`.

    Attributes
    ----------
    pooled:
        Offsets of all series together, float64 ``[horizon, level]``, ascending along the levels.
    series:
        By item key.
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
    ) -> np.ndarray:
        """Quantiles around point forecasts.

        Parameters
        ----------
        forecast:
            ``[windows, horizon]``.
        level:
            What errors are in proportion to, ``[windows, horizon]`` or ``[windows, 1]``.
        keys, series:
            Item key of every series, and for each window which of them it is (int ``[windows]``).
        levels:
            Between 0.005 and 0.995, in any order; see :func:`check_levels`.

        Returns
        -------
        float32 ``[windows, horizon, level]``; they never cross, and are never negative for a series that
        never was.
        """
        own = [self.series.get(key) or _unknown() for key in keys]
        offsets = np.stack([self.pooled if one.offsets is None else one.offsets for one in own])
        table = _at_levels(offsets, np.asarray(levels, dtype=np.float64))
        floor = np.array([one.floor for one in own])[series]
        lowest = np.where([one.nonnegative for one in own], 0.0, -np.inf)[series]
        scale = np.maximum(level, floor[:, None])[..., None]
        found = np.maximum(forecast[:, :, None] + scale * table[series], lowest[:, None, None])
        quantiles: np.ndarray = found.astype(np.float32)
        return quantiles

    def updated(self, newer: "Intervals") -> "Intervals":
        """These with those of the series that ``newer`` has; all of it when it has every series."""
        if set(newer.series) >= set(self.series):
            return newer
        return Intervals(self.pooled, {**self.series, **newer.series})

    def only(self, key: str) -> "Intervals":
        """The intervals of one series."""
        return Intervals(self.pooled, {name: own for name, own in self.series.items() if name == key})

    def to_json(self, checkpoint_sha256: str) -> str:
        """The text of ``intervals.json``, bound to the checkpoint it was calibrated for."""
        series = {
            key: {
                "floor": own.floor,
                "nonnegative": own.nonnegative,
                "windows": own.windows,
                "offsets": None if own.offsets is None else own.offsets.tolist(),
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
                )
                for key, own in content["series"].items()
            }
            if not all(np.isfinite(own.floor) and own.floor > 0 for own in series.values()):
                raise ValueError("a floor is not a positive number")
            return cls(_table(content["offsets"], prediction_length), series)
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"it is not what is expected ({type(error).__name__}: {error})") from error


def calibrate(
    error: np.ndarray,
    level: np.ndarray,
    keys: Sequence[str],
    series: np.ndarray,
    mean_level: np.ndarray,
    nonnegative: np.ndarray,
) -> Intervals | None:
    """Make offsets of errors on data that the network was not fitted to.

    Parameters
    ----------
    error:
        Actual minus forecast, ``[windows, horizon]``, NaN where not observed.
    level:
        What errors are in proportion to, ``[windows, horizon]`` or ``[windows, 1]``.
    keys, series:
        Item key of every series, and for each window which of them it is (int ``[windows]``).
    mean_level:
        Mean level of each series, ``[series]``.
    nonnegative:
        Whether a series was never seen below zero, bool ``[series]``.

    Returns
    -------
    None when there are too few windows to say anything.
    """
    busy = mean_level > 0
    floor = np.where(busy, _LEAST_LEVEL * mean_level, _NO_LEVEL)
    relative = error / np.maximum(level, floor[series][:, None])
    # A series without traffic is forecast exactly, and would make the intervals of all others too narrow.
    pool = relative[busy[series]]
    if _count(pool) < FEWEST_WINDOWS:
        return None
    own = {}
    # A series that nothing is known of yet has no entry.
    for number in np.unique(series):
        mine = relative[series == number]
        count = _count(mine)
        own[keys[number]] = SeriesIntervals(
            floor=_rounded(floor[number]).item(),
            nonnegative=bool(nonnegative[number]),
            windows=count,
            offsets=_offsets(mine) if busy[number] and count >= OWN_WINDOWS else None,
        )
    return Intervals(_offsets(pool), own)


def check_levels(asked: Any) -> list[float]:
    """Quantile levels as asked for (a list, one number, or none), found fit to be served.

    Raises
    ------
    ValueError
        Naming those that are not.
    """
    levels = [] if asked is None else [*asked] if isinstance(asked, list | tuple) else [asked]
    lowest, highest = LEVELS[0], LEVELS[-1]
    wrong = [
        level for level in levels if not isinstance(level, int | float) or not lowest <= level <= highest
    ]
    if wrong or len({column(level) for level in levels}) < len(levels):
        said = ", ".join(map(str, wrong)) or "one stands twice"
        raise ValueError(f"{said}: quantiles are different numbers between {lowest} and {highest}")
    return [float(level) for level in levels]


def column(level: float) -> str:
    """The column of a quantile in a file: ``q0.9``."""
    return f"q{level:g}"


def missing(name: object) -> ArtifactError:
    """What to say when quantiles are asked of an artifact that has none."""
    return ArtifactError(
        f"{name}: no intervals.json, so no quantiles: train with data.validation above 0, or let "
        "kforecast-evaluate make it from a history: evaluate.save_intervals=true"
    )


def _offsets(relative: np.ndarray) -> np.ndarray:
    """Conformal quantiles of the errors of each step, ``[horizon, level]``."""
    ranked = np.sort(relative, axis=0)  # NaN last
    count = np.isfinite(relative).sum(axis=0)[:, None]
    levels = np.array(LEVELS)
    # Rounded away from the middle: with n errors, a new one is below the k-th smallest with probability
    # k / (n + 1).
    exact = levels * (count + 1)
    rank = np.where(levels < 0.5, np.floor(exact + 1e-9), np.ceil(exact - 1e-9))
    rank = np.clip(rank, 1, np.maximum(count, 1)).astype(np.int64)
    return _rounded(np.take_along_axis(ranked, rank.T - 1, axis=0).T)


def _count(relative: np.ndarray) -> int:
    """Errors of the step that has the fewest."""
    return int(np.isfinite(relative).sum(axis=0).min()) if len(relative) else 0


def _at_levels(offsets: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Interpolate ``[series, horizon, LEVELS]`` to other levels."""
    known = np.array(LEVELS)
    above = np.clip(np.searchsorted(known, levels), 1, len(known) - 1)
    share = (levels - known[above - 1]) / (known[above] - known[above - 1])
    low, high = offsets[..., above - 1], offsets[..., above]
    # Rounding may lead past the upper one, and quantiles must not cross.
    between: np.ndarray = np.minimum(low + share * (high - low), high)
    return between


def _rounded(values: np.ndarray) -> np.ndarray:
    """Six significant digits: more would say nothing and fill the file."""
    rounded: np.ndarray = np.vectorize(lambda value: float(f"{value:.6g}"), otypes=[np.float64])(values)
    return rounded


def _table(content: Any, prediction_length: int) -> np.ndarray:
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
    """A series that was not calibrated: the offsets of all series together."""
    return SeriesIntervals(floor=_NO_LEVEL, nonnegative=False, windows=0, offsets=None)
