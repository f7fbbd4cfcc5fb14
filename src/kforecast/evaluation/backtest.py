"""Rolling-origin backtest: forecasts of a predictor and the baselines from every origin of a span."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from kforecast.data.panel import Panel
from kforecast.data.split import cells_between, running_sum
from kforecast.errors import ArtifactError, DataError
from kforecast.following import WindowForecasts
from kforecast.intervals import check_levels
from kforecast.models.naive import LAST_VALUE, MOVING_AVERAGE, baselines, last_plus_differences
from kforecast.predictor import Predictor

MODEL = "kforecast"
AS_CONSUMED = "the same, with series id 0"


@dataclass(frozen=True)
class Span:
    """The judged part of a panel.

    Attributes
    ----------
    begin, stop:
        Its bins ``[begin, stop)``.
    name:
        Its name in reports; empty for "the span".
    trained_until:
        Unix seconds at which the training data of the judged model ends; None if unknown.
    """

    begin: int
    stop: int
    name: str = ""
    trained_until: int | None = None


@dataclass(frozen=True)
class BacktestSettings:
    """How a span is backtested.

    Attributes
    ----------
    stride:
        Bins between origins.
    as_consumed:
        Judge the forecasts as Kapacity's job makes them: every series with id 0, missing bins as zeros.
    edge:
        The bins as they look when they have just begun, float32 ``[series, time]``
        (:func:`kforecast.data.edges.edge_values`). The newest bin of every context is then such a bin, as for
        a job that starts with it; None judges forecasts from complete bins.
    show_as_consumed:
        Add those forecasts as another model, next to the judged one.
    levels:
        Quantile levels to judge; ignored for a predictor without intervals.
    """

    stride: int = 1
    as_consumed: bool = False
    show_as_consumed: bool = False
    levels: Sequence[float] = ()
    edge: np.ndarray | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Backtest:
    """Forecasts of models and baselines from the same origins for the same targets.

    Attributes
    ----------
    panel:
        The whole history.
    begin, stop:
        The judged bins ``[begin, stop)``.
    stride:
        Bins between origins.
    cells:
        Windows as flat cells ``series * num_bins + origin``, sorted, int64 ``[windows]``.
    forecasts:
        By name, float32 ``[windows, horizon]``: the judged model, other models, then the baselines.
    models:
        Number of models among the forecasts.
    predictor:
        The judged model.
    made:
        Its forecasts with their levels and parts.
    levels:
        Judged quantile levels; none for a predictor without intervals.
    at_edge:
        Whether the newest bin of every context has only just begun.
    """

    panel: Panel
    begin: int
    stop: int
    stride: int
    cells: np.ndarray
    forecasts: dict[str, np.ndarray]
    models: int
    predictor: Predictor
    made: WindowForecasts
    levels: tuple[float, ...] = ()
    at_edge: bool = False

    @property
    def model(self) -> str:
        """The name of the judged model."""
        return next(iter(self.forecasts))

    @property
    def baselines(self) -> tuple[str, ...]:
        """The names of the baselines, which the model must beat."""
        return tuple(self.forecasts)[self.models :]

    @property
    def horizon(self) -> int:
        """Steps per forecast."""
        return int(self.forecasts[self.model].shape[1])

    @cached_property
    def series(self) -> np.ndarray:
        """Panel row of each window, int64 ``[windows]``."""
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
        """Which targets were observed, so that they count, bool ``[windows, horizon]``."""
        observed: np.ndarray = self.panel.observed[self.series[:, None], self.target]
        return observed

    @cached_property
    def actual(self) -> np.ndarray:
        """Actual values, float64 ``[windows, horizon]``; NaN where not observed."""
        values = self.panel.values[self.series[:, None], self.target].astype(np.float64)
        return np.where(self.observed, values, np.nan)

    @cached_property
    def quantiles(self) -> np.ndarray:
        """Quantiles at the judged levels, float32 ``[windows, horizon, level]``."""
        return self.quantiles_at(self.levels)

    def quantiles_at(self, levels: Sequence[float]) -> np.ndarray:
        """Quantiles at any levels, float32 ``[windows, horizon, level]``."""
        return self.predictor.quantiles(self.panel, self.series, self.made, levels)

    @property
    def scored_series(self) -> np.ndarray:
        """Panel rows with at least one observed target, ascending."""
        return np.unique(self.series[self.observed.any(axis=1)])


def backtest(
    predictor: Predictor,
    panel: Panel,
    span: Span,
    settings: BacktestSettings = BacktestSettings(),
    others: Mapping[str, Predictor] | None = None,
) -> Backtest:
    """Forecast from every origin of a span in one batched pass.

    Parameters
    ----------
    panel:
        At the predictor's frequency; the predictor knows all its series.
    others:
        Other models by name, of the same frequency and horizon, forecast from the same origins. The last
        value replaces their forecasts of series that they do not know.

    Raises
    ------
    DataError
        When no origin has half of its context and a target observed.
    ArtifactError
        When a forecast is not a finite number.
    """
    window, begin, stop = predictor.window, span.begin, span.stop
    cells = cells_between(panel, window, begin, stop, settings.stride)
    newest = None
    if settings.edge is not None:
        cells = cells[_follows_a_value(panel, cells)]
        newest = settings.edge.reshape(-1)[cells - 1]
    series, origin = np.divmod(cells, panel.num_bins)
    made = predictor.forecast_windows(panel, series, origin, as_consumed=settings.as_consumed, newest=newest)
    if not np.isfinite(made.values).all():
        raise ArtifactError(f"{predictor.name}: its forecasts are not finite numbers")
    forecasts = {MODEL: made.values}
    if settings.show_as_consumed:
        consumed = predictor.forecast_windows(panel, series, origin, as_consumed=True)
        forecasts[AS_CONSUMED] = consumed.values
    naive = baselines(panel, cells, window, begin)
    if newest is not None:
        naive |= _at_edge(naive, panel, cells, window.context_length, newest)
    for name, other in (others or {}).items():
        forecasts[name] = _forecast_or_fallback(other, naive[LAST_VALUE], panel, series, origin)
    models = len(forecasts)
    forecasts |= naive
    levels = tuple(check_levels(settings.levels)) if predictor.intervals is not None else ()
    found = Backtest(
        panel,
        begin,
        stop,
        settings.stride,
        cells,
        forecasts,
        models,
        predictor,
        made,
        levels,
        at_edge=newest is not None,
    )
    if not found.observed.any():
        raise DataError(
            "nothing to score: in the chosen span no origin has half of its context and a target observed; "
            "choose another or a longer one"
        )
    return found


def _follows_a_value(panel: Panel, cells: np.ndarray) -> np.ndarray:
    """Whether the bin before each origin was observed, so that a job can have seen it begin; bool."""
    series, origin = np.divmod(cells, panel.num_bins)
    follows: np.ndarray = (origin > 0) & panel.observed[series, origin - 1]
    return follows


def _at_edge(
    naive: Mapping[str, np.ndarray], panel: Panel, cells: np.ndarray, context_length: int, newest: np.ndarray
) -> dict[str, np.ndarray]:
    """The baselines that use the newest bin, when it has only just begun."""
    series, origin = np.divmod(cells, panel.num_bins)
    known = running_sum(panel.observed)
    seen = known[series, origin] - known[series, np.maximum(origin - context_length, 0)]
    change = (newest - panel.values[series, origin - 1])[:, None]
    last = naive[LAST_VALUE] + change
    return {
        LAST_VALUE: last,
        MOVING_AVERAGE: naive[MOVING_AVERAGE] + change / seen[:, None].astype(np.float32),
        **last_plus_differences(panel, cells, last),
    }


def _forecast_or_fallback(
    predictor: Predictor, fallback: np.ndarray, panel: Panel, series: np.ndarray, origin: np.ndarray
) -> np.ndarray:
    """Forecasts of another model, with the fallback's for series that it does not know."""
    strangers = set(predictor.unknown(panel.series))
    known = [row for row, pair in enumerate(panel.series) if pair not in strangers]
    row_among_known = np.full(panel.num_series, -1)
    row_among_known[known] = np.arange(len(known))
    its = row_among_known[series] >= 0
    made = fallback.copy()
    if its.any():
        of_known = panel if not strangers else panel.rows(known)
        made[its] = predictor.forecast_windows(of_known, row_among_known[series[its]], origin[its]).values
    if not np.isfinite(made).all():
        raise ArtifactError(f"{predictor.name}: its forecasts are not finite numbers")
    return made
