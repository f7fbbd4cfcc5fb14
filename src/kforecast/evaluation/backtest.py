"""Rolling origins: what a forecaster and the baselines would have said at every moment of a span."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kforecast.data.panel import Panel
from kforecast.data.split import cells_between
from kforecast.errors import ArtifactError, DataError
from kforecast.intervals import check_levels
from kforecast.models.naive import LAST_VALUE, baselines
from kforecast.predictor import Predictor, WindowForecasts

MODEL = "kforecast"
AS_CONSUMED = "the same, with series id 0"


@dataclass(frozen=True)
class Backtest:
    """Forecasts from the same origins for the same targets.

    Attributes
    ----------
    panel:
        The history, whole.
    begin, stop:
        The judged bins ``[begin, stop)``.
    stride:
        Bins between origins.
    cells:
        Windows as flat cells ``series * num_bins + origin``, sorted, int64 ``[windows]``.
    forecasts:
        By forecaster, float32 ``[windows, horizon]``; the models first, of which the first is the one that is
        judged, then the baselines.
    models:
        How many of them are models.
    forecaster, made:
        Who made the judged forecasts, and what it made.
    levels:
        Quantiles that are judged too; none for a forecaster without intervals.
    """

    panel: Panel
    begin: int
    stop: int
    stride: int
    cells: np.ndarray
    forecasts: dict[str, np.ndarray]
    models: int
    forecaster: Predictor
    made: WindowForecasts
    levels: tuple[float, ...] = ()

    @property
    def model(self) -> str:
        """The name of the forecaster that is judged."""
        return next(iter(self.forecasts))

    @property
    def baselines(self) -> tuple[str, ...]:
        """The names of those it must beat."""
        return tuple(self.forecasts)[self.models :]

    @property
    def horizon(self) -> int:
        """Steps of a forecast."""
        return int(self.forecasts[self.model].shape[1])

    @cached_property
    def series(self) -> np.ndarray:
        """Row of the panel of each window, int64 ``[windows]``."""
        return self.cells // self.panel.num_bins

    @cached_property
    def origin(self) -> np.ndarray:
        """Index of the first target of each window, int64 ``[windows]``."""
        return self.cells % self.panel.num_bins

    @cached_property
    def target(self) -> np.ndarray:
        """Bin of each target, int64 ``[windows, horizon]``."""
        return self.origin[:, None] + np.arange(self.horizon)

    @cached_property
    def observed(self) -> np.ndarray:
        """Which targets count, bool ``[windows, horizon]``."""
        observed: np.ndarray = self.panel.observed[self.series[:, None], self.target]
        return observed

    @cached_property
    def actual(self) -> np.ndarray:
        """What came, float64 ``[windows, horizon]``, NaN where it was not observed."""
        values = self.panel.values[self.series[:, None], self.target].astype(np.float64)
        return np.where(self.observed, values, np.nan)

    @cached_property
    def quantiles(self) -> np.ndarray:
        """Quantiles at the judged levels, float32 ``[windows, horizon, level]``."""
        return self.quantiles_at(self.levels)

    def quantiles_at(self, levels: Sequence[float]) -> np.ndarray:
        """Quantiles at any levels, float32 ``[windows, horizon, level]``."""
        return self.forecaster.quantiles(self.panel, self.series, self.made, levels)

    @property
    def scored_series(self) -> np.ndarray:
        """Rows of the panel that have an observed target, ascending."""
        return np.unique(self.series[self.observed.any(axis=1)])


def backtest(
    forecaster: Predictor,
    panel: Panel,
    begin: int,
    stop: int,
    *,
    stride: int = 1,
    as_consumed: bool = False,
    beside_as_consumed: bool = False,
    beside: Mapping[str, Predictor] | None = None,
    levels: Sequence[float] = (),
) -> Backtest:
    """Forecast from every origin of the bins ``[begin, stop)`` in one batched pass.

    Parameters
    ----------
    panel:
        At the forecaster's frequency; it knows all the series.
    stride:
        Bins between origins.
    as_consumed:
        Judge what Kapacity's job would serve: every series with id 0, missing bins as zeros.
    beside_as_consumed:
        Show what it would serve with series id 0 beside the model.
    beside:
        Other models by name, of the same frequency and horizon, from the same origins; where one does not
        know a series, the last value stands in for it.
    levels:
        Quantiles, for a forecaster that has intervals.

    Raises
    ------
    DataError
        When there is no origin with half of its context and a target observed.
    ArtifactError
        When a forecast is not a finite number.
    """
    window = forecaster.window
    cells = cells_between(panel, window, begin, stop, stride)
    series, origin = np.divmod(cells, panel.num_bins)
    made = forecaster.forecast_windows(panel, series, origin, as_consumed=as_consumed)
    if not np.isfinite(made.values).all():
        raise ArtifactError(f"{forecaster.name}: its forecasts are not finite numbers")
    forecasts = {MODEL: made.values}
    if beside_as_consumed:
        consumed = forecaster.forecast_windows(panel, series, origin, as_consumed=True)
        forecasts[AS_CONSUMED] = consumed.values
    naive = baselines(panel, cells, window, begin)
    for name, other in (beside or {}).items():
        forecasts[name] = _or_else(naive[LAST_VALUE], other, panel, series, origin)
    models = len(forecasts)
    forecasts |= naive
    checked = tuple(check_levels(levels)) if forecaster.intervals is not None else ()
    found = Backtest(panel, begin, stop, stride, cells, forecasts, models, forecaster, made, checked)
    if not found.observed.any():
        raise DataError(
            "nothing to score: in the chosen span no origin has half of its context and a target observed; "
            "choose another or a longer one"
        )
    return found


def _or_else(
    otherwise: np.ndarray, forecaster: Predictor, panel: Panel, series: np.ndarray, origin: np.ndarray
) -> np.ndarray:
    """Forecasts of another model, and something else for series that it does not know."""
    strangers = set(forecaster.unknown(panel.series))
    known = [row for row, pair in enumerate(panel.series) if pair not in strangers]
    row_among_known = np.full(panel.num_series, -1)
    row_among_known[known] = np.arange(len(known))
    its = row_among_known[series] >= 0
    made = otherwise.copy()
    if its.any():
        of_known = panel if not strangers else panel.rows(known)
        made[its] = forecaster.forecast_windows(of_known, row_among_known[series[its]], origin[its]).values
    if not np.isfinite(made).all():
        raise ArtifactError(f"{forecaster.name}: its forecasts are not finite numbers")
    return made
