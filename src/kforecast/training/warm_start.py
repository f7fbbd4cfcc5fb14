"""Training that begins from the weights of an artifact: ``warm_start=ARTIFACT``."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from kforecast.artifact import Artifact, load_for
from kforecast.data.panel import Panel, item_key
from kforecast.errors import ConfigError
from kforecast.models import Network
from kforecast.predictor import Predictor
from kforecast.window import Window

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WarmStart:
    """Weights to begin from.

    Attributes
    ----------
    artifact:
        Of the same network.
    name:
        What messages call it.
    """

    artifact: Artifact
    name: str

    @classmethod
    def load(cls, directory: Path, window: Window, net: Network) -> "WarmStart":
        """Load an artifact of a network like ``net``, whose number of series does not matter.

        Raises
        ------
        ArtifactError
            When the directory does not hold an artifact that belongs together.
        ConfigError
            When it is missing, or holds another network.
        """
        artifact = load_for("warm_start", directory, window)
        Predictor.of(artifact, str(directory))  # that it is one as a whole
        its, own = artifact.state, net.state_dict()
        same = artifact.config.model == type(net).__name__ and its.keys() == own.keys()
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
        """Put the weights into a network for the series of a panel; new series begin like an unknown one."""
        weights = dict(self.artifact.state)
        known = [self.artifact.item_ids.get(item_key(*pair), -1) for pair in panel.series]
        table = weights[net.series_table].float()
        weights[net.series_table] = net.series_rows(table, torch.tensor(known))
        net.load_state_dict(weights)

    def announce(self) -> None:
        """Say where training begins."""
        log.info("Training begins from the weights of %s (warm_start)", self.name)
