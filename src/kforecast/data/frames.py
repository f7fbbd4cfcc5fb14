"""Forecasts as long frames, and the origins of the next ones."""

import numpy as np
import pandas as pd

from kforecast.data.panel import Panel


def next_origins(panel: Panel) -> np.ndarray:
    """The bin after each series' newest observed one, int64 ``[series]``."""
    origins: np.ndarray = panel.num_bins - panel.observed[:, ::-1].argmax(axis=1)
    return origins


def forecast_frame(panel: Panel, origin: np.ndarray, values: np.ndarray) -> pd.DataFrame:
    """One row per series and horizon step.

    Parameters
    ----------
    origin:
        Index of each series' first forecast bin, int64 ``[series]``.
    values:
        float32 ``[series, horizon]``.

    Returns
    -------
    DataFrame ``timestamp`` (unix seconds of the bin's start), ``workload, metric, value``.
    """
    steps = np.arange(values.shape[1])
    second = panel.seconds(origin[:, None] + steps)
    return pd.DataFrame(
        {
            "timestamp": second.reshape(-1),
            "workload": [workload for workload, _ in panel.series for _ in steps],
            "metric": [metric for _, metric in panel.series for _ in steps],
            "value": values.reshape(-1),
        }
    )
