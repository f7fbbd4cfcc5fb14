"""Evaluation: a model judged on a span of history, as frames, figures and a report."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import pandas as pd
from matplotlib.figure import Figure
from pydantic import ValidationError

from kforecast.data.edges import edge_values
from kforecast.data.findings import SERIOUS, panel_findings, refuse_coarse, warnings_of
from kforecast.data.freshness import StaleRule, next_origins
from kforecast.data.panel import Panel
from kforecast.data.reading import read_panel
from kforecast.errors import ConfigError, DataError, few
from kforecast.evaluation.backtest import BacktestSettings, Span
from kforecast.evaluation.report.figures import figures
from kforecast.evaluation.report.files import forecasts_frame, publish
from kforecast.evaluation.report.words import summary
from kforecast.evaluation.scoreboard import QUANTILES, Scoreboard, judge
from kforecast.evaluation.scores import ALL_STEPS
from kforecast.evaluation.skill import Skill
from kforecast.evaluation.verdict import verdict
from kforecast.intervals import check_levels
from kforecast.metrics.source import MetricSource
from kforecast.metrics.timerange import utc
from kforecast.models import Network, Pretrained
from kforecast.predictor import Predictor
from kforecast.simulation.capacity import Capacity
from kforecast.validation import list_problems, problems_of
from kforecast.window import parse_instant

log = logging.getLogger(__name__)

# If neither a start nor the end of the training data is known, the newest fifth of the history is judged. The
# same share of the history, right before the judged span, calibrates intervals.
_SHARE = 0.2


@dataclass(frozen=True, repr=False)
class Evaluation:
    """The result of an evaluation; ``print`` shows the table and the verdict of kforecast-evaluate.

    Attributes
    ----------
    board:
        All results, from the forecasts to the replicas that they would have ordered.
    source:
        Name of the history in the report.
    seed:
        Seed of the bootstrap.
    warnings:
        Caveats, such as a judged span that overlaps the training data.
    """

    board: Scoreboard
    source: str
    seed: int
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        return summary(self.board)

    def __repr__(self) -> str:
        return f"Evaluation({self.verdict!r})"

    @property
    def verdict(self) -> str:
        """Whether the model is good enough to scale production, in one sentence."""
        return verdict(self.board).words

    @property
    def skill(self) -> Skill:
        """Skill over the best baseline with its interval of 95 %: ``value``, ``low``, ``high``."""
        return self.board.skill

    @property
    def scores(self) -> pd.DataFrame:
        """Scores over the whole horizon, one row per model or baseline and series; ``*`` means all series.

        Returns
        -------
        DataFrame ``model, workload, metric, mae, rmse, wape, mase, bias, ...``: the columns of scores.csv
        (docs/evaluate.md), the judged model first.
        """
        found = self.board.scores
        whole = found[found["step"] == ALL_STEPS]
        return whole.drop(columns="step").reset_index(drop=True)

    @property
    def steps(self) -> pd.DataFrame:
        """The same scores for each step of the horizon; the column ``step`` counts from 1."""
        found = self.board.scores
        single = found[found["step"] != ALL_STEPS]
        return single.assign(step=single["step"].astype(int)).reset_index(drop=True)

    @property
    def forecasts(self) -> pd.DataFrame:
        """Forecasts and observed values: see :func:`kforecast.evaluation.report.files.forecasts_frame`."""
        return forecasts_frame(self.board)

    def figures(self) -> dict[str, Figure]:
        """The figures of the report, by name."""
        return figures(self.board)

    def report(self, directory: Path | str) -> Path:
        """Write ``report.html`` with its data and figures into a directory; return the path of the page.

        Raises
        ------
        OSError
            When the file system refuses.
        """
        self.publish(Path(directory), self.board.backtest.predictor.name)
        return Path(directory) / "report.html"

    def publish(self, directory: Path, artifact: str) -> dict[str, Figure]:
        """Write the report, with another name for the judged artifact; return its figures."""
        return publish(
            self.board,
            directory,
            artifact=artifact,
            source=self.source,
            seed=self.seed,
            warnings=self.warnings,
        )


@dataclass(frozen=True)
class EvaluationSettings:
    """Span and settings of an evaluation.

    Attributes
    ----------
    start, end:
        Unix seconds of the first and the last judged bin; None for the defaults of
        :meth:`kforecast.forecaster.Forecaster.evaluate`.
    backtest:
        How the span is backtested.
    capacity:
        Scaling rules of the simulated replicas.
    seed:
        Seed of the bootstrap.
    """

    start: int | None = None
    end: int | None = None
    backtest: BacktestSettings = field(default_factory=lambda: BacktestSettings(levels=QUANTILES))
    capacity: Capacity = field(default_factory=Capacity)
    seed: int = 42

    @classmethod
    def checked(
        cls,
        *,
        start: str | int | None,
        end: str | int | None,
        stride: int,
        as_consumed: bool,
        quantiles: Sequence[float] | None,
        capacity: Mapping[str, Any] | None,
        seed: int,
    ) -> Self:
        """Settings from the arguments of :meth:`kforecast.forecaster.Forecaster.evaluate`.

        Raises
        ------
        ConfigError
            When one of them is wrong.
        """
        try:
            levels = QUANTILES if quantiles is None else check_levels(quantiles)
            moments = [None if moment is None else parse_instant(moment) for moment in (start, end)]
            rules = Capacity(**(capacity or {}))
        except ValidationError as error:
            raise ConfigError(list_problems("evaluate()", problems_of(error, "capacity"))) from error
        except (TypeError, ValueError) as error:
            raise ConfigError(f"evaluate(): {error}") from error
        if isinstance(stride, bool) or not isinstance(stride, int) or stride < 1:
            raise ConfigError(f"evaluate(): stride is {stride!r}; use a positive integer")
        if None not in moments and moments[1] < moments[0]:  # type: ignore[operator]
            raise ConfigError(f"evaluate(): the end, {end}, is before the start, {start}")
        backtest = BacktestSettings(stride, as_consumed, levels=levels)
        return cls(moments[0], moments[1], backtest, rules, seed)


def evaluate_source(predictor: Predictor, source: MetricSource, settings: EvaluationSettings) -> Evaluation:
    """Judge a model on the history of a source, see :meth:`kforecast.forecaster.Forecaster.evaluate`."""
    frequency, rows = predictor.window.frequency, None
    if settings.backtest.as_consumed:  # Kapacity's job sees the rows of a bin that has just begun, and UTC
        rows = source.fetch()
        panel = Panel.from_frame(rows, frequency)
    else:
        panel = read_panel(source, frequency, predictor.bin_calendar)
    return evaluate_panel(predictor, panel, settings, str(source), rows=rows)


def evaluate_panel(
    predictor: Predictor,
    panel: Panel,
    settings: EvaluationSettings,
    source: str,
    calibrate: bool = False,
    rows: pd.DataFrame | None = None,
) -> Evaluation:
    """Judge a model on the series that it knows; caveats are also logged as warnings.

    Parameters
    ----------
    source:
        Name of the history in the report.
    calibrate:
        Calibrate intervals on the history before the span, even if the predictor already has intervals.
    rows:
        The rows of the panel. With them, ``as_consumed`` judges a job that starts at the beginning of a bin.

    Raises
    ------
    DataError
        When there is nothing to judge.
    """
    refuse_coarse(panel, predictor.name)
    panel = _known_series(panel, predictor)
    if predictor.plan is not None:
        # Values that say nothing about the traffic judge nobody.
        panel = predictor.plan.without_incidents(panel)
    trained_until, used_until = (None, None)
    if predictor.artifact is not None:
        trained_until, used_until = predictor.artifact.training_span
    begin, stop = _judged_bins(panel, predictor.window.prediction_length, settings, used_until)
    warnings = warnings_of(panel_findings(panel, predictor.window), SERIOUS)
    if predictor.plan is not None:
        warnings += predictor.plan.warnings(panel)
        if settings.backtest.as_consumed:
            warnings.append("Kapacity's job knows no events: its forecasts are those without data.events.")
    warnings += _training_warnings(panel, begin, used_until, predictor.net)
    warnings += _silent_warnings(panel, begin, stop, predictor)
    backtest = settings.backtest
    if backtest.as_consumed and rows is not None:
        backtest = replace(backtest, edge=edge_values(rows, panel))
    if predictor.intervals is None or calibrate:
        predictor, more = _calibrated(predictor, panel, begin, used_until, backtest)
        warnings += more
    for warning in warnings:
        log.warning(warning)
    span = Span(begin, stop, trained_until=trained_until)
    board = judge(predictor, panel, span, backtest, settings.capacity, settings.seed)
    return Evaluation(board, source, settings.seed, tuple(warnings))


def _training_warnings(panel: Panel, begin: int, used_until: int | None, net: Network) -> list[str]:
    """Warnings if the model may have been trained on the judged span."""
    if used_until is None and isinstance(net, Pretrained) and not net.fine_tune:
        return []
    if used_until is None:
        return [
            "The training data of the model is not known: if it includes the history given here, the scores "
            "flatter the model, and intervals calibrated on that history are too narrow."
        ]
    if panel.seconds(begin) < used_until:
        return ["A part of the span was used in training: the scores flatter the model."]
    return []


def _silent_warnings(panel: Panel, begin: int, stop: int, predictor: Predictor) -> list[str]:
    """A warning that names the series that ended before the span or within it."""
    origins = next_origins(panel, panel.seconds(stop))
    stale = StaleRule().stale(origins, predictor.window)
    if not stale.any():
        return []
    early = int((stale & (origins.newest < begin)).sum())
    ended = f", {early:,} of them before it begins" if early else ""
    return [f"Series that end before the end of the span{ended}: {origins.names(stale)}."]


def _calibrated(
    predictor: Predictor, panel: Panel, begin: int, used_until: int | None, backtest: BacktestSettings
) -> tuple[Predictor, list[str]]:
    """The predictor with intervals calibrated on the history before the span, and warnings about them."""
    before = max(0, begin - round(_SHARE * panel.num_bins))
    as_consumed, edge = backtest.as_consumed, backtest.edge
    predictor = predictor.calibrated(panel, before, begin, as_consumed=as_consumed, edge=edge)
    if predictor.intervals is None:
        return predictor, ["No intervals: the history before the span is too short to calibrate them on."]
    if used_until is not None and panel.seconds(before) < used_until:
        return predictor, ["The intervals are calibrated on training data and may be too narrow."]
    return predictor, []


def _known_series(panel: Panel, predictor: Predictor) -> Panel:
    """The series of a panel that the predictor can forecast; the others are logged."""
    unknown = predictor.unknown(panel.series)
    if not unknown:
        return panel
    names = few([" ".join(pair) for pair in unknown])
    if len(unknown) == panel.num_series:
        raise DataError(
            f"none of the series is in the artifact: {names}; it knows {few(list(predictor.item_ids))}"
        )
    log.warning("%d of %d series are not in the artifact: %s", len(unknown), panel.num_series, names)
    strangers = set(unknown)
    return panel.rows([row for row, pair in enumerate(panel.series) if pair not in strangers])


def _judged_bins(
    panel: Panel, horizon: int, settings: EvaluationSettings, used_until: int | None
) -> tuple[int, int]:
    """The judged bins ``[begin, stop)``."""
    start, end = settings.start, settings.end
    first, last = panel.start, panel.seconds(panel.num_bins - 1)
    has = f"the history has bins of {panel.frequency.name} from {utc(first)} to {utc(last)}"
    named = start is not None
    start = used_until if start is None else start
    if start is None:
        start = panel.seconds(round((1 - _SHARE) * panel.num_bins))
    if start > last:
        used = "evaluate.start" if named else "the end of the data used by training"
        remedy = "" if named else "; give newer history, or name an evaluate.start"
        raise DataError(f"nothing to judge: {used} is {utc(start)}, but {has}{remedy}")
    end = last if end is None else end
    if end < first:
        raise DataError(f"nothing to judge: evaluate.end is {utc(end)}, but {has}")
    # The first bin that begins at or after the start, and the last that begins at or before the end.
    begin = max(panel.bin_at(start - 1) + 1, 0)
    stop = min(panel.bin_at(end) + 1, panel.num_bins)
    if stop - begin < horizon:
        raise DataError(
            f"nothing to judge: {max(stop - begin, 0)} bins from {utc(start)} to {utc(end)} are less than "
            f"a horizon of {horizon}; {has}"
        )
    return begin, stop
