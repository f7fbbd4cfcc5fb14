"""Networks, one a file; they know nothing of training."""

from collections.abc import Mapping
from typing import Any

from kforecast.models.fcnet import Fcnet
from kforecast.models.network import Network
from kforecast.models.seasonal_mlp import SeasonalMLP
from kforecast.window import Frequency, Window

__all__ = ["NETWORKS", "Fcnet", "Network", "SeasonalMLP", "rebuilt"]

# The name an artifact's estimator_config.yaml holds, and the class it means. Kapacity's job knows Fcnet only.
NETWORKS: dict[str, type[Network]] = {"Fcnet": Fcnet, "SeasonalMLP": SeasonalMLP}


def rebuilt(description: Mapping[str, Any]) -> Network:
    """The network that :meth:`Network.description` describes, with initial weights."""
    freq, context, horizon = (description[key] for key in ("freq", "context_length", "prediction_length"))
    window = Window(Frequency.parse(freq), context, horizon)
    network: type[Any] = NETWORKS[description["network"]]
    built: Network = network(window, description["num_series"], **description["arguments"])
    return built
