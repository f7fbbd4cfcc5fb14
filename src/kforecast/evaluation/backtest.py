"""A model beside naive forecasts on the same windows of a panel."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch

from kforecast.data.panel import Panel
from kforecast.data.windows import WindowBatch, WindowDataset
from kforecast.evaluation.baselines import last_value, seasonal_naive
from kforecast.evaluation.scores import Scores, score

_BATCH_SIZE = 4096


@dataclass(frozen=True)
class Scoreboard:
    """Scores by forecaster on the same targets; the first is the model."""

    span: str
    windows: int
    scores: dict[str, Scores]

    @property
    def best_naive(self) -> str:
        """The naive forecast with the lowest WAPE."""
        naive = list(self.scores)[1:]
        return min(naive, key=lambda name: self.scores[name].wape)

    @property
    def skill(self) -> float:
        """1 - model's WAPE / best naive forecast's: above 0 the model is worth having."""
        model = next(iter(self.scores.values()))
        best = self.scores[self.best_naive].wape
        return 1 - model.wape / best if best > 0 else float("nan")

    def as_dict(self) -> dict[str, object]:
        """Plain values for metadata and reports."""
        scores = {name: asdict(values) for name, values in self.scores.items()}
        return {"span": self.span, "windows": self.windows, "scores": scores, "skill": self.skill}


@torch.inference_mode()
def forecast_windows(
    forecast: Callable[[WindowBatch], torch.Tensor], windows: WindowDataset, cells: np.ndarray
) -> np.ndarray:
    """Forecast many windows in few batches, float32 ``[windows, horizon]``."""
    batches = torch.split(torch.from_numpy(cells), _BATCH_SIZE)
    return torch.cat([forecast(windows[batch]).cpu() for batch in batches]).numpy()


def backtest(
    forecast: Callable[[WindowBatch], torch.Tensor],
    windows: WindowDataset,
    panel: Panel,
    cells: np.ndarray,
    span: str,
    name: str = "kforecast",
) -> Scoreboard:
    """Score a model and the naive forecasts on the windows ``cells`` (int64 ``[windows]``).

    Parameters
    ----------
    forecast:
        From a batch to its forecast in the series' units.
    span:
        The words for these windows in a table.
    """
    length = windows.window.prediction_length
    series, origin = np.divmod(cells, panel.num_bins)
    target = origin[:, None] + np.arange(length)
    actual, observed = panel.values[series[:, None], target], panel.observed[series[:, None], target]
    forecasts = {
        name: forecast_windows(forecast, windows, cells),
        "last value": last_value(panel, cells, length),
        panel.frequency.season_name: seasonal_naive(panel, cells, length),
    }
    scores = {who: score(values, actual, observed, series) for who, values in forecasts.items()}
    return Scoreboard(span, len(cells), scores)
