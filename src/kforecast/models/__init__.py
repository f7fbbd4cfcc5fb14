"""Networks, one a file; they know nothing of training."""

from kforecast.models.fcnet import Fcnet
from kforecast.models.network import Network
from kforecast.models.seasonal_mlp import SeasonalMLP

__all__ = ["NETWORKS", "Fcnet", "Network", "SeasonalMLP"]

# The name an artifact's estimator_config.yaml holds, and the class it means. Kapacity's job knows Fcnet only.
NETWORKS: dict[str, type[Network]] = {"Fcnet": Fcnet, "SeasonalMLP": SeasonalMLP}
