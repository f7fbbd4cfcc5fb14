"""Forecasts as long frames."""

import numpy as np
import pandas as pd

from kforecast.data.freshness import Origins

AGE = "age"


def forecast_frame(origins: Origins, values: np.ndarray) -> pd.DataFrame:
    """One row per series and horizon step.

    Parameters
    ----------
    values:
        float32 ``[series, horizon]``.

    Returns
    -------
    DataFrame ``timestamp`` (unix seconds of the bin's start), ``workload, metric, value, age``
    (:attr:`Origins.age`).
    """
    panel, horizon = origins.panel, values.shape[1]
    second = panel.seconds(origins.bins[:, None] + np.arange(horizon))
    return pd.DataFrame(
        {
            "timestamp": second.reshape(-1),
            "workload": [workload for workload, _ in panel.series for _ in range(horizon)],
            "metric": [metric for _, metric in panel.series for _ in range(horizon)],
            "value": values.reshape(-1),
            AGE: np.repeat(origins.age, horizon),
        }
    )
