"""What the data looks like, one row per series, before anything is trained on it."""

import numpy as np
import pandas as pd

from kforecast.data.panel import Panel
from kforecast.data.split import Split


def summarize(panel: Panel, split: Split) -> pd.DataFrame:
    """Describe every series.

    Returns
    -------
    DataFrame with one row per series: ``workload, metric, points`` (observed bins), ``first, last`` (unix
    seconds of the outermost observed bins), ``missing`` (share of unobserved bins between them), ``zeros``
    (share of observed bins that are zero), ``min, mean, max`` and the windows it yields: ``train,
    validation, test``.
    """
    observed, values = panel.observed, panel.values
    points = observed.sum(axis=1)
    some = points > 0
    first = np.where(some, observed.argmax(axis=1), 0)
    last = np.where(some, panel.num_bins - 1 - observed[:, ::-1].argmax(axis=1), -1)
    least_one = np.maximum(points, 1)
    nothing = np.where(some, 0.0, np.nan)
    windows = {
        part: np.bincount(getattr(split, part) // panel.num_bins, minlength=panel.num_series)
        for part in ("train", "validation", "test")
    }
    return pd.DataFrame(
        {
            "workload": [workload for workload, _ in panel.series],
            "metric": [metric for _, metric in panel.series],
            "points": points,
            "first": panel.start + first * panel.frequency.step,
            "last": panel.start + last * panel.frequency.step,
            "missing": 1 - points / np.maximum(last - first + 1, 1),
            "zeros": (observed & (values == 0)).sum(axis=1) / least_one,
            "min": values.min(axis=1, where=observed, initial=np.inf) + nothing,
            "mean": values.sum(axis=1, where=observed, dtype=np.float64) / least_one + nothing,
            "max": values.max(axis=1, where=observed, initial=-np.inf) + nothing,
            **windows,
        }
    )
