"""Networks, one a file; each is a plain ``nn.Module`` that knows nothing of training."""

from kforecast.models.fcnet import Fcnet

# The name an artifact's estimator_config.yaml holds, and the class it means.
NETWORKS: dict[str, type[Fcnet]] = {"Fcnet": Fcnet}
