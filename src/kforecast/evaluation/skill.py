"""Skill over the best baseline and saving over the reactive rule, with intervals; ageing of the model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kforecast.evaluation.backtest import Backtest
from kforecast.evaluation.scores import mean_of_known, ratio
from kforecast.simulation.drivers import REACTIVE

RESAMPLES = 2000
CONFIDENCE = 0.95
# With fewer blocks there is no interval: their spread would be meaningless.
_FEWEST_BLOCKS = 5
# A short span is cut into about this many blocks.
_SOME_BLOCKS = 20
# Ages are grouped into at most this many steps; the length of a step is one of these, in seconds.
_MOST_AGES = 10
_AGE_STEPS = (3600, 3 * 3600, 6 * 3600, 12 * 3600, *(86_400 * days for days in (1, 2, 7, 14, 28, 91, 365)))
# A model has aged when the ratio of its error to the best baseline's has grown by this share.
_AGED = 0.1
# At least this many steps before and after the growth are required.
_FEWEST_AGED = 2
# A step of age counts if it has at least this share of the windows of the fullest step.
_WHOLE = 0.75


@dataclass(frozen=True)
class Skill:
    """Skill ``1 - WAPE / WAPE of the best baseline`` (or of another rival); positive if the model is better.

    A saving is the same with costs in place of errors.

    Attributes
    ----------
    value:
        The skill; NaN if the best baseline has no error, or if there is no traffic.
    low, high:
        Bounds of its 95 % interval; NaN if there are too few origins for an interval.
    best_baseline:
        Name of the baseline (or rival) with the lowest WAPE (or cost).
    block:
        Length of a block of the bootstrap in bins.
    blocks:
        Number of blocks.
    """

    value: float
    low: float
    high: float
    best_baseline: str
    block: int
    blocks: int

    def above(self, required: float) -> bool:
        """Whether the whole interval is above the required skill; False without an interval."""
        return bool(self.low > required)


def skill(backtest: Backtest, seed: int = 0, rivals: Sequence[str] | None = None) -> Skill:
    """Skill of the judged model, with an interval by a block bootstrap (Carlstein 1986; Künsch 1989).

    The span is cut into blocks of time, long enough that forecasts with common targets are mostly in the same
    block: at least two horizons, otherwise at most a season or a twentieth of the span. Blocks are drawn with
    replacement, for all series together, because a bad hour is bad for many series at once. Each draw
    compares the model with the rival that is best in that draw, which accounts for the choice of the best
    rival.

    Parameters
    ----------
    seed:
        Seed of the draws.
    rivals:
        Names of the models or baselines to compare with; None for all baselines.
    """
    rivals = backtest.baselines if rivals is None else rivals
    length = backtest.stop - backtest.begin
    block = max(
        2 * backtest.horizon, backtest.stride, min(backtest.panel.frequency.season, length // _SOME_BLOCKS)
    )
    number = (backtest.origin - backtest.begin) // block
    present, number = np.unique(number, return_inverse=True)
    level, errors = _sums(backtest, number, len(present))
    wape = {name: _wape(error.sum(axis=0), level.sum(axis=0)) for name, error in errors.items()}
    best = min(rivals, key=lambda name: (np.isnan(wape[name]), wape[name]))
    value = _skill(wape[backtest.model], wape[best])
    if len(present) < _FEWEST_BLOCKS:
        return Skill(float(value), np.nan, np.nan, best, block, len(present))
    drawn = _draws(len(present), seed)
    levels = drawn @ level
    drawn_wape = {name: _wape(drawn @ error, levels) for name, error in errors.items()}
    best_drawn = np.min([drawn_wape[name] for name in rivals], axis=0)
    low, high = _interval(_skill(drawn_wape[backtest.model], best_drawn))
    return Skill(float(value), low, high, best, block, len(present))


def saving(cost: np.ndarray, rival: np.ndarray, counted: np.ndarray, block: int, seed: int = 0) -> Skill:
    """Saving ``1 - cost / cost of the reactive rule``, with an interval by the same bootstrap.

    Parameters
    ----------
    cost, rival:
        Costs of the model and of the reactive rule in each bin, float64 ``[bins]``.
    counted:
        Bins in which both have orders, bool ``[bins]``.
    block:
        Length of a block in bins.
    """
    present, number = np.unique(np.flatnonzero(counted) // block, return_inverse=True)
    costs, rivals = (np.bincount(number, values[counted], len(present)) for values in (cost, rival))
    value = float(_skill(costs.sum(), rivals.sum()))
    if len(present) < _FEWEST_BLOCKS:
        return Skill(value, np.nan, np.nan, REACTIVE, block, len(present))
    drawn = _draws(len(present), seed)
    low, high = _interval(_skill(drawn @ costs, drawn @ rivals))
    return Skill(value, low, high, REACTIVE, block, len(present))


def _draws(blocks: int, seed: int) -> np.ndarray:
    """How often each block is in each draw, int64 ``[draw, block]``."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(blocks, np.full(blocks, 1 / blocks), size=RESAMPLES)


def _interval(outcomes: np.ndarray) -> tuple[float, float]:
    """The central interval of the outcomes of all draws; NaN without a finite outcome."""
    if not np.isfinite(outcomes).any():
        return np.nan, np.nan
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(outcomes, [tail, 1 - tail])
    return float(low), float(high)


def wapes(backtest: Backtest) -> dict[str, float]:
    """WAPE of each model and baseline over all series and steps."""
    level, errors = _sums(backtest, np.zeros(len(backtest.cells), np.int64), 1)
    return {name: float(_wape(error.sum(axis=0), level.sum(axis=0))) for name, error in errors.items()}


def by_age(backtest: Backtest, trained_until: int, best_baseline: str) -> pd.DataFrame:
    """Errors by the age of the model: the time from the end of its training data to the origin.

    Parameters
    ----------
    trained_until:
        Unix seconds of the end of the training data.

    Returns
    -------
    DataFrame, one row per step of age: ``age`` (seconds, its beginning), ``windows``, ``wape``,
    ``baseline_wape`` (of the best baseline) and ``relative`` (``wape / baseline_wape``).
    """
    step = backtest.panel.frequency.step
    age = backtest.panel.seconds(backtest.origin) - trained_until
    youngest, reach = age.min(), age.max() - age.min()
    width = next((width for width in _AGE_STEPS if reach < _MOST_AGES * width), _AGE_STEPS[-1])
    width = max(width, step)
    # Steps count from the first origin, so that only the last step can be incomplete.
    begins, number = np.unique((age - youngest) // width, return_inverse=True)
    level, errors = _sums(backtest, number, len(begins))
    wape = _wape(errors[backtest.model], level)
    baseline = _wape(errors[best_baseline], level)
    frame = pd.DataFrame(
        {
            "age": youngest + begins * width,
            "windows": np.bincount(number, minlength=len(begins)),
            "wape": wape,
            "baseline_wape": baseline,
            "relative": ratio(wape, baseline),
        }
    )
    # Incomplete steps, at the end of the span or in gaps, cover other times of the day: leave them out.
    whole = frame["windows"] >= _WHOLE * frame["windows"].max()
    kept: pd.DataFrame = frame.loc[whole].reset_index(drop=True)
    return kept


def aged_at(ages: pd.DataFrame) -> int | None:
    """The age in seconds from which on the relative error is more than a tenth above that at younger ages.

    The error is taken relative to the baseline because some days are hard to forecast for every model. None
    without such an age: all later steps must be worse, and a single step is not enough.
    """
    ages = ages.dropna(subset=["relative"])
    relative = ages["relative"].to_numpy()
    for first in range(_FEWEST_AGED, len(relative) - _FEWEST_AGED + 1):
        if (relative[first:] > (1 + _AGED) * np.median(relative[:first])).all():
            return int(ages["age"].iloc[first])
    return None


def _sums(backtest: Backtest, number: np.ndarray, count: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Sums of |y|, and of |y - f| by model or baseline, over groups of windows; each ``[group, series]``.

    Parameters
    ----------
    number:
        Group of each window, int64 ``[windows]``.
    count:
        Number of groups.
    """
    series = backtest.panel.num_series

    def grouped(values: np.ndarray) -> np.ndarray:
        of_windows = np.where(backtest.observed, values, 0.0).sum(axis=1)
        return np.bincount(number * series + backtest.series, of_windows, minlength=count * series).reshape(
            count, series
        )

    errors = {
        name: grouped(np.abs(forecast - backtest.actual)) for name, forecast in backtest.forecasts.items()
    }
    return grouped(np.abs(backtest.actual)), errors


def _wape(error: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Mean WAPE over series (the last axis); series without traffic are left out."""
    return mean_of_known(np.moveaxis(ratio(error, level), -1, 0))


def _skill(model: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    return 1 - ratio(np.asarray(model), np.asarray(baseline))
