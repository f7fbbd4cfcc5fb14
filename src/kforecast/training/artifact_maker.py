"""ArtifactMaker: from a trained network to an artifact that records how it was trained."""

import logging
import sys
from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kforecast.artifact import CHECKPOINT, CONFIG_MAP_LIMIT, EFFECTS, Artifact, EstimatorConfig, folder_name
from kforecast.data.calendar import Calendar
from kforecast.data.datamodule import ForecastDataModule
from kforecast.data.panel import item_key
from kforecast.errors import ArtifactError
from kforecast.files.untrusted import shortened
from kforecast.models import NETWORKS, BoostedTrees, Fcnet, Network, Pretrained
from kforecast.predictor import PRIOR_SHARE, Predictor, first_below_zero
from kforecast.training.holdout import JudgedFit
from kforecast.training.plan import Recipe
from kforecast.version import __version__

log = logging.getLogger(__name__)

_LIBRARIES = ("torch", "lightning", "hydra-core", "omegaconf", "numpy", "pandas", "pyarrow")
# Prefix of the network's weights in the state dict of ForecastModule.
_NET = "net."


class ArtifactMaker:
    """Combines the weights of a network with the configuration and metadata of its training.

    Parameters
    ----------
    recipe:
        The recipe of the run.
    data:
        The data of the training, set up.
    """

    def __init__(self, recipe: Recipe, data: ForecastDataModule) -> None:
        self._calendar, panel, split = data.calendar, data.panel, data.split
        self._series, self._item_ids = panel.series, panel.item_ids
        settings, recorded = recipe.settings, recipe.recorded
        stopping = settings.callbacks.early_stopping
        negative = np.flatnonzero(first_below_zero(panel) < panel.num_bins)
        below_zero = [item_key(*panel.series[row]) for row in negative]
        self._config = EstimatorConfig(
            **settings.window.model_dump(),
            num_series=panel.num_series,
            learning_rate=settings.optimizer.lr,
            epochs=settings.trainer.max_epochs,
            batch_size=settings.data.batch_size,
            num_workers=settings.data.num_workers,
            patience=0 if stopping is None else stopping.patience,
            use_validation=bool(settings.data.validation),
            bin_zone="" if panel.zone == "UTC" else panel.zone,
        )
        self._metadata: dict[str, Any] = {
            "kforecast": __version__,
            "libraries": {"python": sys.version.split()[0]} | {name: version(name) for name in _LIBRARIES},
            "seed": recorded["seed"],
            "fill": recorded["data"]["fill"],
            "config": dict(recorded),
            "data": {
                "fingerprint": panel.fingerprint(),
                "series": panel.num_series,
                "first": panel.start,
                "last": panel.seconds(panel.num_bins - 1),
                "below_zero": below_zero,
                "train_end": panel.seconds(split.train_end),
                "validation_end": panel.seconds(split.validation_end),
            },
        }
        if data.effects.by_name:
            self._metadata[EFFECTS] = data.effects.as_dict()
        self._knows_events = data.known_events is not None

    def describe(self, net: Network) -> dict[str, Any]:
        """The artifact without weights, as plain values, for checkpoints; see :func:`restored`."""
        return {
            "estimator_config": self._config_of(net).to_yaml(),
            "item_ids": self._item_ids,
            "metadata": self._metadata,
        }

    def make(self, net: Network, scores: Mapping[str, Any] | None = None) -> Artifact:
        """The artifact of a network, without intervals."""
        metadata = self._metadata | {"scores": dict(scores or {})}
        return Artifact(self._config_of(net), self._item_ids, net.artifact_state(), metadata)

    def finished(self, judged: JudgedFit) -> Artifact:
        """The artifact of a finished training, with scores and intervals."""
        forecaster = judged.forecaster
        made = self.make(forecaster.net, _scores_of(judged))
        combination = {} if forecaster.combination is None else forecaster.combination.as_dict()
        config = replace(
            made.config,
            combination=combination,
            events=forecaster.events,
            online=_online_of(judged),
            prior=_prior(forecaster.prior_share, forecaster.prior_width),
        )
        if config.history_length:
            config = replace(config, history_length=forecaster.history_length)
        return replace(made, config=config, intervals=forecaster.intervals)

    def refitted(self) -> "ArtifactMaker":
        """A maker for a network that was also trained on the validation part."""
        made = copy(self)
        data = self._metadata["data"]
        made._metadata = self._metadata | {"data": data | {"train_end": data["validation_end"]}}
        return made

    def _config_of(self, net: Network) -> EstimatorConfig:
        share = PRIOR_SHARE if net.with_prior else 0.0
        config = replace(self._config, model=type(net).__name__, network=net.settings(), prior=_prior(share))
        if net.lookback is None:
            return config
        length = max(config.context_length, net.lookback.length(config.window))
        loss = "MAE" if isinstance(net, BoostedTrees) else "quantile"
        return replace(config, loss=loss, calendar=self._calendar.as_dict(), history_length=length)

    def single_series(self, judged: JudgedFit) -> dict[str, Artifact]:
        """One artifact per series, by folder name: its row of the embedding, and the shared weights."""
        settings = self._metadata["config"]
        settings = settings | {"model": settings["model"] | {"shared_embedding": False}}
        metadata = self._metadata | {"config": settings, "scores": _scores_of(judged)}
        state, config = judged.forecaster.net.artifact_state(), replace(self._config, num_series=1)
        config = replace(config, online=_online_of(judged))
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
        """Log the size of the artifact, and incompatibilities with Kapacity's job."""
        sizes = self.make(net).sizes()
        if not isinstance(net, BoostedTrees):  # that of trees depends on how many there will be
            log.info("The checkpoint will have %.0f KiB", sizes[CHECKPOINT] / 1024)
        if (size := sum(sizes.values())) > CONFIG_MAP_LIMIT:
            log.warning(
                "The artifact (%.2f MiB) will not fit a ConfigMap, which holds at most 1 MiB: mount it from "
                "a volume%s",
                size / (1 << 20),
                "" if isinstance(net, Pretrained) else ", or make window.context_length smaller",
            )
        if not isinstance(net, Fcnet):
            log.info(
                "Kapacity's own job loads Fcnet only; what serves %s is kforecast (docs/deploy.md)",
                type(net).__name__,
            )
            return
        if self._calendar != Calendar():
            log.warning(
                "data.timezone and data.holidays are not for Fcnet: its calendar and its bins are in UTC, as "
                "in Kapacity's job; model=auto follows local time"
            )
        if self._knows_events:
            log.warning(
                "data.events: Kapacity's job knows no events, and forecasts ordinary traffic during them; "
                "kforecast-serve and kforecast-scale know them from the same file"
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
    """The artifact of the weights in a checkpoint.

    Parameters
    ----------
    described:
        The result of :meth:`ArtifactMaker.describe`, from an untrusted file.
    weights:
        State dict of the trained module.
    scores:
        For the metadata.

    Raises
    ------
    ValueError
        When description and weights do not fit together.
    """
    try:
        config = EstimatorConfig.from_yaml(described["estimator_config"])
        item_ids, metadata = dict(described["item_ids"]), dict(described["metadata"])
        arguments = {name: value for name, value in metadata["config"]["model"].items() if name != "_target_"}
        arguments |= config.network  # sizes of pre-trained weights
        # On the meta device, which allocates nothing: the sizes that the file states are not trusted.
        with torch.device("meta"):
            net = NETWORKS[config.model](config.window, config.num_series, **arguments)
        own = {name.removeprefix(_NET): value for name, value in weights.items() if name.startswith(_NET)}
        net.load_state_dict(own, assign=True)
        artifact = Artifact(config, item_ids, net.artifact_state(), metadata | {"scores": scores})
        Predictor.of(artifact, "it")
    except (ArtifactError, AttributeError, KeyError, RuntimeError, TypeError) as error:
        raise ValueError(shortened(" ".join(str(error).split()) or type(error).__name__, 500)) from error
    return artifact


def _prior(share: float, width: float = 1.0) -> dict[str, float]:
    return {"share": share, "width": width} if share else {}


def _online_of(judged: JudgedFit) -> dict[str, Any]:
    online = judged.forecaster.online
    return {} if online is None else online.as_dict()


def _scores_of(judged: JudgedFit) -> dict[str, Any]:
    """The scores in metadata.json."""
    fit, board = judged.fit, judged.scoreboard
    scores: dict[str, Any] = {"best": fit.score, "best_epoch": fit.best_epoch, "epochs": fit.epochs}
    if board is None:
        return scores
    found = board.as_dict()
    return scores | {"scoreboard": {name: found[name] for name in ("span", "overall", "baselines", "skill")}}
