"""SeasonalTrees: SeasonalMLP and boosted trees on the same past, as parts of one forecast."""

from typing import Any

import torch

from kforecast.data.windows import Past, WindowBatch
from kforecast.models.boosted_trees import BoostedTrees
from kforecast.models.network import Forecast
from kforecast.models.seasonal_mlp import SeasonalMLP
from kforecast.window import Window

# Weight of the trees, unless weights were fitted to validation data.
_SHARE = 0.5


class SeasonalTrees(SeasonalMLP):
    """A :class:`SeasonalMLP` and :class:`BoostedTrees`, whose errors differ: together they are more accurate.

    Gradients train the MLPs; the trees are grown afterwards, and until then the forecast is that of the MLPs.

    Parameters
    ----------
    window, num_series, settings:
        As of SeasonalMLP; the trees have the default settings.
    """

    def __init__(self, window: Window, num_series: int, **settings: Any) -> None:
        super().__init__(window, num_series, **settings)
        self.trees = BoostedTrees(window, num_series)
        self.parts = (*self.parts, *BoostedTrees.parts)

    def forecast(self, batch: WindowBatch) -> Forecast:
        """The mean of both, and of their spreads."""
        network, trees = super().forecast(batch), self.trees.forecast(self._for_trees(batch))
        share = _SHARE if self.trees.count else 0.0
        assert network.parts is not None
        return Forecast(
            torch.lerp(network.values, trees.values, share),
            torch.lerp(network.spread.expand_as(trees.spread), trees.spread, share),
            torch.cat([network.parts, trees.values[None]]),
        )

    def _for_trees(self, batch: WindowBatch) -> WindowBatch:
        """The batch with as much of the past as the trees read."""
        past, look, least = batch.past, self.lookback, self.trees.lookback
        assert past is not None
        bins = slice(look.before - least.before, look.width(self.window) - (look.after - least.after))
        seasons, observed, alike = (
            each[:, : least.seasons, bins] for each in (past.seasons, past.seasons_observed, past.alike)
        )
        recent, recent_observed = past.recent[:, -least.recent :], past.recent_observed[:, -least.recent :]
        return batch._replace(past=Past(recent, recent_observed, seasons, observed, alike, past.moment))
