"""Guarding: when a server's guard would have withdrawn the forecasts of a backtest."""

import numpy as np

from kforecast.data.panel import Panel
from kforecast.evaluation.backtest import Backtest
from kforecast.guard import DryRun, GuardRules, Numbers, watch
from kforecast.intervals import LEVELS

# As kforecast-serve serves by default: the larger of this quantile and the newest observation.
_QUANTILE = 0.9


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
    begin = max(0, found.begin - rules.history)
    numbers = _numbers(found, panel, begin, rules)
    states = watch(rules, numbers, panel.first_bin + begin)[:, found.begin - begin :]
    return DryRun(states, panel.frequency.step)


def _numbers(found: Backtest, panel: Panel, begin: int, rules: GuardRules) -> Numbers:
    bins = slice(begin, found.stop)
    value = np.where(panel.observed[:, bins], panel.values[:, bins], np.nan).astype(np.float64)
    served, low, high = (np.full((panel.num_series, value.shape[1] + 1), np.nan) for _ in range(3))
    place = (found.series, found.origin - begin)
    made = found.forecasts[found.model]
    if found.predictor.intervals is not None:
        quantiles = found.quantiles_at([LEVELS[0], _QUANTILE, LEVELS[-1]])
        made, low[place], high[place] = quantiles[..., 1], quantiles[:, 0, 0], quantiles[:, 0, 2]
    served[place] = made[:, : rules.window].max(axis=1)
    return Numbers.of_larger(value, found.horizon, served[:, :-1], low, high)
