"""Networks, one per file, and naive forecasts with their combination.

``NETWORKS`` lists the networks that an artifact may name. Artifact, predictor and training use this room; it
uses ``data`` for windows and panels, and never imports training.
"""

from kforecast.models.fcnet import Fcnet
from kforecast.models.network import Network
from kforecast.models.seasonal_mlp import SeasonalMLP

__all__ = ["NETWORKS", "Fcnet", "Network", "SeasonalMLP"]

# Classes by their name in an artifact's estimator_config.yaml. Kapacity's job knows Fcnet only.
NETWORKS: dict[str, type[Network]] = {"Fcnet": Fcnet, "SeasonalMLP": SeasonalMLP}
