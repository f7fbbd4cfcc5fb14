"""A model beside naive forecasts on the same windows of a panel."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch

from kforecast.data.panel import Panel
from kforecast.data.windows import EVALUATION_BATCH_SIZE, WindowBatch, WindowDataset
from kforecast.evaluation.baselines import last_value, seasonal_naive
from kforecast.evaluation.scores import Scores, score


@dataclass(frozen=True)
class Scoreboard:
    """Scores by forecaster on the same targets, models first.

    Attributes
    ----------
    span:
        The words for these targets.
    windows:
        How many windows.
    scores:
        By forecaster; the first is the model that the verdict is about.
    naive:
        Which of the forecasters are naive.
    """

    span: str
    windows: int
    scores: dict[str, Scores]
    naive: tuple[str, ...]

    @property
    def best_naive(self) -> str:
        """The naive forecast with the lowest WAPE."""
        return min(self.naive, key=lambda name: self.scores[name].wape)

    @property
    def skill(self) -> float:
        """1 - model's WAPE / best naive forecast's: above 0 the model is worth having."""
        model = next(iter(self.scores.values()))
        best = self.scores[self.best_naive].wape
        return 1 - model.wape / best if best > 0 else float("nan")

    def as_dict(self) -> dict[str, object]:
        """Plain values for metadata and reports."""
        scores = {
            name: {score: _finite(value) for score, value in asdict(values).items()}
            for name, values in self.scores.items()
        }
        return {"span": self.span, "windows": self.windows, "scores": scores, "skill": _finite(self.skill)}


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if np.isfinite(value) else None


@torch.inference_mode()
def forecast_windows(
    forecast: Callable[[WindowBatch], torch.Tensor], windows: WindowDataset, cells: np.ndarray
) -> np.ndarray:
    """Forecast many windows in few batches, float32 ``[windows, horizon]``."""
    batches = torch.split(torch.from_numpy(cells), EVALUATION_BATCH_SIZE)
    return torch.cat([forecast(windows[batch]).cpu() for batch in batches]).numpy()


def backtest(
    models: Mapping[str, Callable[[WindowBatch], torch.Tensor]],
    windows: WindowDataset,
    panel: Panel,
    cells: np.ndarray,
    span: str,
) -> Scoreboard:
    """Score models and the naive forecasts on the windows ``cells`` (int64 ``[windows]``).

    Parameters
    ----------
    models:
        By name, from a batch to its forecast in the series' units.
    span:
        The words for these windows in a table.
    """
    length = windows.window.prediction_length
    series, origin = np.divmod(cells, panel.num_bins)
    target = origin[:, None] + np.arange(length)
    actual, observed = panel.values[series[:, None], target], panel.observed[series[:, None], target]
    naive = {
        "last value": last_value(panel, cells, length),
        panel.frequency.season_name: seasonal_naive(panel, cells, length),
    }
    forecasts = {
        name: forecast_windows(forecast, windows, cells) for name, forecast in models.items()
    } | naive
    scores = {name: score(values, actual, observed, series) for name, values in forecasts.items()}
    return Scoreboard(span, len(cells), scores, tuple(naive))
