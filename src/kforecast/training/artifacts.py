"""From trained networks to artifacts that say how they were made."""

import logging
import sys
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from kforecast import __version__
from kforecast.artifact import CHECKPOINT, CONFIG_MAP_LIMIT, Artifact, EstimatorConfig, folder_name
from kforecast.data.panel import Panel, item_key
from kforecast.data.split import Split
from kforecast.intervals import Intervals
from kforecast.models.fcnet import Fcnet
from kforecast.training.holdout import JudgedFit

log = logging.getLogger(__name__)

_LIBRARIES = ("torch", "lightning", "hydra-core", "omegaconf", "numpy", "pandas", "pyarrow")
_SERIES_TABLE = "static_embeddings.0.weight"


class ArtifactMaker:
    """Puts a network's weights together with everything an artifact says about them.

    Parameters
    ----------
    config:
        What estimator_config.yaml says.
    settings:
        The whole resolved configuration, as plain values.
    panel, split:
        What is trained on.
    """

    def __init__(self, config: EstimatorConfig, settings: dict[str, Any], panel: Panel, split: Split) -> None:
        self._config, self._series, self._item_ids = config, panel.series, panel.item_ids
        step = panel.frequency.step
        self._metadata: dict[str, Any] = {
            "kforecast": __version__,
            "libraries": {"python": sys.version.split()[0]} | {name: version(name) for name in _LIBRARIES},
            "seed": settings["seed"],
            "fill": settings["data"]["fill"],
            "config": settings,
            "data": {
                "fingerprint": panel.fingerprint(),
                "series": panel.num_series,
                "first": int(panel.timestamps[0]),
                "last": int(panel.timestamps[-1]),
                "train_end": panel.start + split.train_end * step,
                "validation_end": panel.start + split.validation_end * step,
            },
        }

    def make(
        self, net: Fcnet, scores: dict[str, Any] | None = None, intervals: Intervals | None = None
    ) -> Artifact:
        """The artifact of a network, with what is known of it so far."""
        metadata = self._metadata | {"scores": scores or {}}
        return Artifact(self._config, self._item_ids, net.artifact_state(), metadata, intervals)

    def single_series(self, judged: JudgedFit) -> dict[str, Artifact]:
        """One artifact a series, by folder name: its row of the embedding and all that is shared."""
        settings = self._metadata["config"]
        settings = settings | {"model": settings["model"] | {"shared_embedding": False}}
        metadata = self._metadata | {"config": settings, "scores": scores_of(judged)}
        state, config = judged.fit.net.artifact_state(), replace(self._config, num_series=1)
        intervals = judged.forecaster.intervals
        rows = state.pop(_SERIES_TABLE)
        return {
            folder_name(number, *pair): Artifact(
                config,
                {item_key(*pair): 0},
                {_SERIES_TABLE: rows[number : number + 1].clone(), **state},
                metadata,
                intervals.only(item_key(*pair)) if intervals is not None else None,
            )
            for number, pair in enumerate(self._series)
        }

    def announce(self, net: Fcnet) -> None:
        """Say before training how large the checkpoint will be, and what its consumer will not like."""
        sizes = self.make(net).sizes()
        log.info("The checkpoint will have %.0f KiB", sizes[CHECKPOINT] / 1024)
        if (size := sum(sizes.values())) > CONFIG_MAP_LIMIT:
            log.warning(
                "The artifact (%.2f MiB) will not fit a ConfigMap, which holds at most 1 MiB: mount it from "
                "a volume, or make window.context_length smaller",
                size / (1 << 20),
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


def scores_of(judged: JudgedFit) -> dict[str, Any]:
    """What metadata.json says of a finished training."""
    fit, board = judged.fit, judged.scoreboard
    scores: dict[str, Any] = {"best": fit.score, "best_epoch": fit.best_epoch, "epochs": fit.epochs}
    if board is None:
        return scores
    found = board.as_dict()
    return scores | {"scoreboard": {name: found[name] for name in ("span", "overall", "baselines", "skill")}}
