"""Guarding: when a server's guard would have withdrawn the forecasts of a backtest."""

from dataclasses import dataclass

import numpy as np

from kforecast.data.panel import Panel
from kforecast.evaluation.backtest import Backtest
from kforecast.guard import NAMES, SERVED, GuardRules, Numbers, newest_before, watch
from kforecast.intervals import LEVELS

# As kforecast-serve serves by default: the larger of this quantile and the newest observation.
_QUANTILE = 0.9
# Warm-ups before the span, see kforecast.guard.
_WARM_UPS = 7


@dataclass(frozen=True, eq=False)
class DryRun:
    """The withdrawals within a span.

    Attributes
    ----------
    states:
        State of each series at each bin of the span (:data:`kforecast.guard.NAMES`), int8 ``[series, bins]``.
    step:
        Seconds per bin.
    """

    states: np.ndarray
    step: int

    @property
    def begins(self) -> np.ndarray:
        """Where a withdrawal begins, bool ``[series, bins]``."""
        away = self.states != SERVED
        begins: np.ndarray = away.copy()
        begins[:, 1:] &= ~away[:, :-1]
        return begins

    @property
    def count(self) -> int:
        """Number of withdrawals of all series."""
        return int(self.begins.sum())

    @property
    def hours(self) -> float:
        """Hours of all series without a forecast."""
        return float((self.states != SERVED).sum() * self.step / 3600)

    @property
    def words(self) -> str:
        """The withdrawals in one sentence."""
        if not self.count:
            return "Guard: a server would have withdrawn no forecast."
        series = int((self.states != SERVED).any(axis=1).sum())
        times = "once" if self.count == 1 else f"{self.count:,} times"
        return (
            f"Guard: a server would have withdrawn forecasts {times}, for {self.hours:,.0f} hours in all, of "
            f"{series:,} of {len(self.states):,} series."
        )

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        causes = {
            name: int((self.begins & (self.states == cause)).sum())
            for cause, name in enumerate(NAMES)
            if cause != SERVED
        }
        return {"withdrawals": self.count, "hours": self.hours, "causes": causes}


def dry_run(found: Backtest, lead: float, chance: float) -> DryRun:
    """Judge the forecasts of a backtest as a server's guard does.

    Parameters
    ----------
    lead:
        Seconds until new replicas serve.
    chance:
        The critical ratio of the costs.
    """
    panel, horizon = found.panel, found.horizon
    rules = GuardRules.of(panel.frequency.step, panel.frequency.day, horizon, lead, chance)
    begin = max(0, found.begin - _WARM_UPS * rules.warm_up)
    numbers = _numbers(found, panel, begin, rules)
    states = watch(rules, numbers, panel.first_bin + begin)[:, found.begin - begin :]
    return DryRun(states, panel.frequency.step)


def _numbers(found: Backtest, panel: Panel, begin: int, rules: GuardRules) -> Numbers:
    bins = slice(begin, found.stop)
    value = np.where(panel.observed[:, bins], panel.values[:, bins], np.nan).astype(np.float64)
    reactive = newest_before(value, found.horizon)
    served, low, high = (np.full((panel.num_series, value.shape[1] + 1), np.nan) for _ in range(3))
    place = (found.series, found.origin - begin)
    made = found.forecasts[found.model]
    if found.predictor.intervals is not None:
        quantiles = found.quantiles_at([LEVELS[0], _QUANTILE, LEVELS[-1]])
        made, low[place], high[place] = quantiles[..., 1], quantiles[:, 0, 0], quantiles[:, 0, 2]
    served[place] = made[:, : rules.window].max(axis=1)
    served = served[:, :-1]
    served = np.where(np.isnan(reactive), served, np.maximum(served, reactive))
    return Numbers(value, served, reactive, low, high)
