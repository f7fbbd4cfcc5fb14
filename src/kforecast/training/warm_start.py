"""Training that begins from the weights of an artifact: ``warm_start=ARTIFACT``."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kforecast.artifact import Artifact, load_for
from kforecast.data.panel import Panel, item_key
from kforecast.errors import ConfigError
from kforecast.models import NETWORKS, Network
from kforecast.predictor import Predictor
from kforecast.window import Window

log = logging.getLogger(__name__)

# Weights that are those of the new network: trees, and pre-trained weights that training does not change.
_ALWAYS_NEW = ("trees.", "prior.", "delivered.")


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
        its, own = _learned(artifact.state), _learned(net.state_dict())
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
        weights = net.state_dict() | _learned(self.artifact.state)
        if net.series_table:
            known = [self.artifact.item_ids.get(item_key(*pair), -1) for pair in panel.series]
            table = weights[net.series_table].float()
            weights[net.series_table] = net.series_rows(table, torch.tensor(known))
        net.load_state_dict(weights)

    def announce(self) -> None:
        """Log the artifact that the training begins from."""
        log.info("Training begins from the weights of %s (warm_start)", self.name)


def _learned(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a state dict that training changes by gradients."""
    return {name: value for name, value in state.items() if not name.startswith(_ALWAYS_NEW)}
