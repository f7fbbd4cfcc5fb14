"""Networks, one per file, and naive forecasts with their combination.

``NETWORKS`` lists the networks that an artifact may name. Artifact, predictor and training use this room; it
uses ``data`` for windows and panels, and never imports training.
"""

from collections.abc import Mapping
from typing import Any

from kforecast.models.boosted_trees import BoostedTrees
from kforecast.models.fcnet import Fcnet
from kforecast.models.network import Network
from kforecast.models.pretrained import Pretrained
from kforecast.models.seasonal_mlp import SeasonalMLP
from kforecast.models.seasonal_trees import SeasonalTrees
from kforecast.window import Frequency, Window

__all__ = [
    "NETWORKS",
    "BoostedTrees",
    "Fcnet",
    "Network",
    "Pretrained",
    "SeasonalMLP",
    "SeasonalTrees",
    "rebuilt",
]

# Classes by their name in an artifact's estimator_config.yaml. Kapacity's job knows Fcnet only.
NETWORKS: dict[str, type[Network]] = {
    "Fcnet": Fcnet,
    "SeasonalMLP": SeasonalMLP,
    "BoostedTrees": BoostedTrees,
    "SeasonalTrees": SeasonalTrees,
    "Pretrained": Pretrained,
}


def rebuilt(description: Mapping[str, Any]) -> Network:
    """The network that :meth:`Network.description` describes, with initial weights."""
    freq, context, horizon = (description[key] for key in ("freq", "context_length", "prediction_length"))
    window = Window(Frequency.parse(freq), context, horizon)
    network: type[Any] = NETWORKS[description["network"]]
    built: Network = network(window, description["num_series"], **description["arguments"])
    return built
