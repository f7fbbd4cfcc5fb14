"""Scores of ``trainer.test``: an evaluation of the test span, for the network alone."""

import math

import numpy as np

from kforecast.data.datamodule import ForecastDataModule
from kforecast.evaluation.backtest import MODEL, Backtest
from kforecast.evaluation.scores import overall, score
from kforecast.following import WindowForecasts, never_below_zero
from kforecast.models import Network
from kforecast.predictor import Predictor, first_below_zero


def scores_of_test(data: ForecastDataModule, net: Network, forecast: np.ndarray) -> dict[str, float]:
    """Scores over all series and steps, by name; undefined scores are omitted.

    Parameters
    ----------
    forecast:
        Forecasts from the origins ``data.test_cells``, float32 ``[windows, horizon]``.
    """
    predictor = Predictor(data.window, data.panel.item_ids, data.fill, net, calendar=data.calendar)
    split, cells = data.split, data.test_cells
    series, origin = np.divmod(cells, data.panel.num_bins)
    forecast = never_below_zero(forecast, origin <= first_below_zero(data.panel)[series])
    made = WindowForecasts(forecast, np.ones_like(forecast[:, :1]), {}, np.zeros(len(forecast)))
    found = Backtest(
        data.panel, split.validation_end, split.end, 1, cells, {MODEL: forecast}, 1, predictor, made
    )
    known = overall(score(found), MODEL)
    return {name: float(value) for name, value in known.items() if not math.isnan(value)}
