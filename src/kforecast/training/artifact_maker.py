"""From trained networks to artifacts that say how they were made."""

import logging
import sys
from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from kforecast.artifact import CHECKPOINT, CONFIG_MAP_LIMIT, Artifact, EstimatorConfig, folder_name
from kforecast.data.calendar import Calendar
from kforecast.data.datamodule import ForecastDataModule
from kforecast.data.panel import item_key
from kforecast.errors import ArtifactError
from kforecast.files.untrusted import shortened
from kforecast.intervals import Intervals
from kforecast.models import NETWORKS, Fcnet, Network
from kforecast.predictor import Predictor
from kforecast.training.holdout import JudgedFit
from kforecast.version import __version__

log = logging.getLogger(__name__)

_LIBRARIES = ("torch", "lightning", "hydra-core", "omegaconf", "numpy", "pandas", "pyarrow")
# What Lightning's module calls its network in a state dict.
_NET = "net."


class ArtifactMaker:
    """Puts a network's weights together with everything an artifact says about them.

    Parameters
    ----------
    config:
        What estimator_config.yaml says.
    settings:
        The whole resolved configuration, as plain values.
    data:
        Set up: what is trained on.
    """

    def __init__(
        self,
        config: EstimatorConfig,
        settings: Mapping[str, Any],
        data: ForecastDataModule,
    ) -> None:
        self._calendar, panel, split = data.calendar, data.panel, data.split
        self._config, self._series, self._item_ids = config, panel.series, panel.item_ids
        step = panel.frequency.step
        self._metadata: dict[str, Any] = {
            "kforecast": __version__,
            "libraries": {"python": sys.version.split()[0]} | {name: version(name) for name in _LIBRARIES},
            "seed": settings["seed"],
            "fill": settings["data"]["fill"],
            "config": dict(settings),
            "data": {
                "fingerprint": panel.fingerprint(),
                "series": panel.num_series,
                "first": int(panel.timestamps[0]),
                "last": int(panel.timestamps[-1]),
                "train_end": panel.start + split.train_end * step,
                "validation_end": panel.start + split.validation_end * step,
            },
        }

    def describe(self, net: Network) -> dict[str, Any]:
        """All of :meth:`make` but the weights, in plain values, for checkpoints; see :func:`restored`."""
        return {
            "estimator_config": self._config_of(net).to_yaml(),
            "item_ids": self._item_ids,
            "metadata": self._metadata,
        }

    def make(self, net: Network) -> Artifact:
        """The artifact of a network that nothing is known of yet."""
        return self._artifact(net, {})

    def finished(self, judged: JudgedFit) -> Artifact:
        """The artifact of a finished training."""
        forecaster = judged.forecaster
        combination = None if forecaster.combination is None else forecaster.combination.as_dict()
        return self._artifact(forecaster.net, scores_of(judged), forecaster.intervals, combination)

    def _artifact(
        self,
        net: Network,
        scores: dict[str, Any],
        intervals: Intervals | None = None,
        combination: dict[str, list[float]] | None = None,
    ) -> Artifact:
        config = replace(self._config_of(net), combination=combination or {})
        metadata = self._metadata | {"scores": scores}
        return Artifact(config, self._item_ids, net.artifact_state(), metadata, intervals)

    def refitted(self) -> "ArtifactMaker":
        """One for a network that was fitted to the validation part too."""
        made = copy(self)
        data = self._metadata["data"]
        made._metadata = self._metadata | {"data": data | {"train_end": data["validation_end"]}}
        return made

    def _config_of(self, net: Network) -> EstimatorConfig:
        config = replace(self._config, model=type(net).__name__, network=net.settings())
        if net.lookback is None:
            return config
        length = max(config.context_length, net.lookback.length(config.window))
        return replace(config, loss="quantile", calendar=self._calendar.as_dict(), history_length=length)

    def single_series(self, judged: JudgedFit) -> dict[str, Artifact]:
        """One artifact a series, by folder name: its row of the embedding and all that is shared."""
        settings = self._metadata["config"]
        settings = settings | {"model": settings["model"] | {"shared_embedding": False}}
        metadata = self._metadata | {"config": settings, "scores": scores_of(judged)}
        state, config = judged.forecaster.net.artifact_state(), replace(self._config, num_series=1)
        intervals = judged.forecaster.intervals
        rows = state.pop(Fcnet.series_table)
        return {
            folder_name(number, *pair): Artifact(
                config,
                {item_key(*pair): 0},
                {Fcnet.series_table: rows[number : number + 1].clone(), **state},
                metadata,
                intervals.only(item_key(*pair)) if intervals is not None else None,
            )
            for number, pair in enumerate(self._series)
        }

    def announce(self, net: Network) -> None:
        """Say before training how large the checkpoint will be, and what its consumer will not like."""
        sizes = self.make(net).sizes()
        log.info("The checkpoint will have %.0f KiB", sizes[CHECKPOINT] / 1024)
        if (size := sum(sizes.values())) > CONFIG_MAP_LIMIT:
            log.warning(
                "The artifact (%.2f MiB) will not fit a ConfigMap, which holds at most 1 MiB: mount it from "
                "a volume, or make window.context_length smaller",
                size / (1 << 20),
            )
        if not isinstance(net, Fcnet):
            log.info(
                "Kapacity's own job loads Fcnet only; what serves %s is kforecast (docs/deploy.md)",
                type(net).__name__,
            )
            return
        if self._calendar != Calendar():
            log.warning(
                "data.timezone and data.holidays are not for Fcnet: its calendar is UTC, as in Kapacity's job"
            )
        if self._config.freq == "1D":
            log.warning(
                "Kapacity's job stamps forecasts at 1D ten hours apart instead of a day; the values are right"
            )
        if not net.shared_embedding and len(self._series) > 1:
            log.warning(
                "model.shared_embedding=false: Kapacity's job will serve every series as if it were %s",
                " ".join(self._series[0]),
            )


def restored(described: Mapping[str, Any], weights: Mapping[str, Tensor], scores: dict[str, Any]) -> Artifact:
    """The artifact of weights that a checkpoint has kept.

    Parameters
    ----------
    described:
        What :meth:`ArtifactMaker.describe` made, from a file that may be anyone's.
    weights:
        State dict of the module that was trained.
    scores:
        For the metadata.

    Raises
    ------
    ValueError
        When they do not belong together.
    """
    try:
        config = EstimatorConfig.from_yaml(described["estimator_config"])
        item_ids, metadata = dict(described["item_ids"]), dict(described["metadata"])
        arguments = {name: value for name, value in metadata["config"]["model"].items() if name != "_target_"}
        # Without memory at first: what the file says of sizes is believed once the weights fit.
        with torch.device("meta"):
            net = NETWORKS[config.model](config.window, config.num_series, **arguments)
        own = {name.removeprefix(_NET): value for name, value in weights.items() if name.startswith(_NET)}
        net.load_state_dict(own, assign=True)
        artifact = Artifact(config, item_ids, net.artifact_state(), metadata | {"scores": scores})
        Predictor.of(artifact, "it")
    except (ArtifactError, AttributeError, KeyError, RuntimeError, TypeError) as error:
        raise ValueError(shortened(" ".join(str(error).split()) or type(error).__name__, 500)) from error
    return artifact


def scores_of(judged: JudgedFit) -> dict[str, Any]:
    """What metadata.json says of a finished training."""
    fit, board = judged.fit, judged.scoreboard
    scores: dict[str, Any] = {"best": fit.score, "best_epoch": fit.best_epoch, "epochs": fit.epochs}
    if board is None:
        return scores
    found = board.as_dict()
    return scores | {"scoreboard": {name: found[name] for name in ("span", "overall", "baselines", "skill")}}
