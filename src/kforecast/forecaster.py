"""Forecaster: an artifact, ours or one made elsewhere, as a function from history to forecast."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from kforecast.artifact import METADATA, Artifact
from kforecast.data.calendar import calendar_fields
from kforecast.data.fill import FILLS, Fill, fill_gaps
from kforecast.data.panel import Panel, item_key
from kforecast.errors import ArtifactError, DataError, few
from kforecast.models import NETWORKS
from kforecast.models.fcnet import Fcnet
from kforecast.window import Window

log = logging.getLogger(__name__)

# What Kapacity's job does with a bin it has no value for; artifacts made elsewhere expect it.
_CONSUMER_FILL: Fill = "zero"


@dataclass(frozen=True)
class Forecaster:
    """A loaded artifact. Make one with :meth:`load`.

    Attributes
    ----------
    window:
        Frequency, context and horizon.
    item_ids:
        Id of each item key.
    fill:
        How unobserved bins of a context are filled.
    net:
        The network, in evaluation mode.
    """

    window: Window
    item_ids: dict[str, int]
    fill: Fill
    net: Fcnet

    @classmethod
    def load(cls, directory: Path | str) -> "Forecaster":
        """Load an artifact directory; one without metadata.json (made elsewhere) is said in a warning.

        Raises
        ------
        ArtifactError
            When the directory does not hold an artifact that belongs together.
        """
        artifact = Artifact.load(directory)
        if artifact.metadata is None:
            log.warning("%s has no %s: made elsewhere, its files are not verified", directory, METADATA)
        config = artifact.config
        if config.model not in NETWORKS:
            raise ArtifactError(f"{directory}: unknown model {config.model!r}; known: {', '.join(NETWORKS)}")
        fill = (artifact.metadata or {}).get("fill", _CONSUMER_FILL)
        if fill not in FILLS:
            raise ArtifactError(f"{directory}: unknown fill {fill!r} in {METADATA}")
        outside = [key for key, number in artifact.item_ids.items() if not 0 <= number < config.num_series]
        if outside:
            raise ArtifactError(
                f"{directory}: the id of {outside[0]!r} is not below num_series {config.num_series}"
            )
        # The checkpoint's shapes are checked before a network of the size the config claims is built.
        rows = artifact.state.get("static_embeddings.0.weight")
        if rows is None or tuple(rows.shape) != (config.num_series, config.context_length):
            raise ArtifactError(f"{directory}: the checkpoint does not fit estimator_config.yaml")
        try:
            net = NETWORKS[config.model](config.window, config.num_series)
            net.load_state_dict(dict(artifact.state))
        except (RuntimeError, ValueError) as error:
            raise ArtifactError(
                f"{directory}: the checkpoint does not fit estimator_config.yaml: {error}"
            ) from error
        return cls(config.window, dict(artifact.item_ids), fill, net.eval())

    def unknown(self, series: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Those of the series that the artifact has no id for."""
        return [pair for pair in series if item_key(*pair) not in self.item_ids]

    def forecast(self, history: pd.DataFrame, *, as_consumed: bool = False) -> pd.DataFrame:
        """Forecast the bins after each series' newest one.

        Parameters
        ----------
        history:
            Long frame with the columns of contract 3, at the artifact's frequency or finer; the context
            length is enough.
        as_consumed:
            Forecast as Kapacity's job does (contract 5): every series with id 0, missing bins filled with 0.

        Returns
        -------
        DataFrame ``timestamp`` (unix seconds of the bin's start), ``workload, metric, value``: one row per
        series and horizon step.

        Raises
        ------
        DataError
            When a series is not in the artifact, or none of its values is known.
        """
        panel = Panel.from_frame(history, self.window.frequency)
        unknown = self.unknown(panel.series)
        if unknown:
            names = few([" ".join(pair) for pair in unknown])
            raise DataError(f"not in the artifact: {names}; it knows {few(list(self.item_ids))}")
        silent = [" ".join(panel.series[row]) for row in np.flatnonzero(~panel.observed.any(axis=1))]
        if silent:
            raise DataError(f"no value is known of {few(silent)}")
        context, origin_seconds = self._newest_context(panel, _CONSUMER_FILL if as_consumed else self.fill)
        steps = np.arange(self.window.prediction_length) * self.window.frequency.step
        horizon = origin_seconds[:, None] + steps
        ids = [0 if as_consumed else self.item_ids[item_key(*pair)] for pair in panel.series]
        values = self._run(
            torch.from_numpy(context),
            torch.from_numpy(calendar_fields(horizon, self.window.frequency)),
            torch.tensor(ids, dtype=torch.int64),
        )
        return pd.DataFrame(
            {
                "timestamp": horizon.reshape(-1),
                "workload": [workload for workload, _ in panel.series for _ in steps],
                "metric": [metric for _, metric in panel.series for _ in steps],
                "value": values.reshape(-1),
            }
        )

    def _newest_context(self, panel: Panel, fill: Fill) -> tuple[np.ndarray, np.ndarray]:
        """Filled context ``[series, context]`` up to each series' newest bin; origins in unix seconds."""
        filled = fill_gaps(panel.values, panel.observed, fill).inside
        length = self.window.context_length
        newest = panel.num_bins - 1 - panel.observed[:, ::-1].argmax(axis=1)
        position = newest[:, None] + np.arange(1 - length, 1)
        # History that starts inside the context is extended back by the policy's own word for "before".
        inside = np.maximum(position, 0)
        context = np.take_along_axis(filled, inside, axis=1)
        if fill == "zero":
            context = np.where(position >= 0, context, np.float32(0))
        known = np.take_along_axis(panel.observed, inside, axis=1) & (position >= 0)
        guessed = [" ".join(panel.series[row]) for row in np.flatnonzero(2 * known.sum(axis=1) < length)]
        if guessed:
            log.warning(
                "more than half of the context of %s is missing and filled: its forecast is a guess",
                few(guessed),
            )
        return context, panel.start + (newest.astype(np.int64) + 1) * self.window.frequency.step

    @torch.inference_mode()
    def _run(self, context: torch.Tensor, calendar: torch.Tensor, ids: torch.Tensor) -> np.ndarray:
        scale = self.net.scale(context)
        forecast: np.ndarray = (scale * self.net(context / scale, calendar, ids)).numpy()
        return forecast
