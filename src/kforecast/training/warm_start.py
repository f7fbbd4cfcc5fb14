"""Training that begins from the weights of an artifact: ``warm_start=ARTIFACT``."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from kforecast.artifact import Artifact, load_for
from kforecast.data.panel import Panel, item_key
from kforecast.errors import ConfigError
from kforecast.models import NETWORKS, Network
from kforecast.models.seasonal_trees import without_trees
from kforecast.predictor import Predictor
from kforecast.window import Window

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WarmStart:
    """Weights to begin from.

    Attributes
    ----------
    artifact:
        An artifact of the same network.
    name:
        Its name in messages.
    """

    artifact: Artifact
    name: str

    @classmethod
    def load(cls, directory: Path, window: Window, net: Network) -> "WarmStart":
        """Load an artifact of a network like ``net``; the number of series may differ.

        Raises
        ------
        ArtifactError
            When the directory does not hold a consistent artifact.
        ConfigError
            When it is missing, or holds another network.
        """
        artifact = load_for("warm_start", directory, window)
        Predictor.of(artifact, str(directory))  # checks that it is consistent
        # Trees are always new.
        its, own = without_trees(artifact.state), without_trees(net.state_dict())
        same = issubclass(NETWORKS[artifact.config.model], type(net)) and its.keys() == own.keys()
        if not same or any(
            its[name].shape != value.shape for name, value in own.items() if name != net.series_table
        ):
            raise ConfigError(
                f"warm_start: {directory} holds a {artifact.config.model} with a context of "
                f"{artifact.config.context_length} bins, whose weights do not fit the {type(net).__name__} "
                f"with a context of {window.context_length} that is to be trained; train with the "
                "artifact's settings, or leave out warm_start"
            )
        return cls(artifact, str(directory))

    @torch.no_grad()
    def give(self, net: Network, panel: Panel) -> None:
        """Copy the weights into a network for the series of a panel; new series begin as unknown ones."""
        weights = net.state_dict() | without_trees(self.artifact.state)
        known = [self.artifact.item_ids.get(item_key(*pair), -1) for pair in panel.series]
        table = weights[net.series_table].float()
        weights[net.series_table] = net.series_rows(table, torch.tensor(known))
        net.load_state_dict(weights)

    def announce(self) -> None:
        """Log the artifact that the training begins from."""
        log.info("Training begins from the weights of %s (warm_start)", self.name)
