"""Traffic of two services, and the artifact of a network that was never trained on it."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from kforecast.artifact import Artifact, EstimatorConfig
from kforecast.data.calendar import Calendar
from kforecast.data.panel import item_key
from kforecast.intervals import calibrate
from kforecast.models.combination import Combination
from kforecast.models.online import Online
from kforecast.models.seasonal_mlp import SeasonalMLP
from kforecast.window import Window

WINDOW = Window("1H", 6, 4)
HOUR, STEP = 3600, 600
START = 1_704_067_200
SERIES = (("shop/a", "qps"), ("shop/b", "qps"))
DAYS = 45


def rows_of(level: float, seed: int) -> pd.DataFrame:
    """A row every ten minutes of two services with a daily rhythm."""
    random = np.random.default_rng(seed)
    moment = START + STEP * np.arange(DAYS * 144)
    found = []
    for number, (workload, metric) in enumerate(SERIES):
        shape = level * (number + 1) * (1 + 0.5 * np.sin(2 * np.pi * moment / 86_400))
        value = shape + random.normal(0, 3, len(moment))
        found.append(
            pd.DataFrame({"timestamp": moment, "value": value, "workload": workload, "metric": metric})
        )
    return pd.concat(found, ignore_index=True)


def save(folder: Path, seed: int = 0, window: Window = WINDOW, origins: int = 30) -> Path:
    """An artifact of an untrained network, combined online by its newest origins, with intervals."""
    torch.manual_seed(seed)
    steps = window.prediction_length
    net = SeasonalMLP(window, 2, members=1, hidden=8, layers=1, embedding=2).eval()
    online = Online(0, np.full(steps, np.nan), 0.2, origins, 12, 24)
    keys = [item_key(*pair) for pair in SERIES]
    half = Combination({"past days": np.full(steps, 0.5), "context": np.full(steps, 0.5)})
    series = np.repeat(np.arange(2), 40)
    error = np.random.default_rng(1).normal(0, 5, (80, steps))
    ones, levels = np.ones((80, 1)), np.full(2, 100.0)
    intervals = calibrate(error, ones, keys, series, levels, np.ones(2, bool), np.full(2, 1e3))
    config = EstimatorConfig(
        freq=window.frequency.name,
        prediction_length=window.prediction_length,
        context_length=window.context_length,
        num_series=2,
        model="SeasonalMLP",
        loss="quantile",
        network=net.settings(),
        calendar=Calendar().as_dict(),
        combination=half.as_dict(),
        online=online.as_dict(),
    )
    item_ids = dict(zip(keys, range(2), strict=True))
    Artifact(config, item_ids, net.artifact_state(), {"fill": "interpolate"}, intervals).save(folder)
    return folder
