"""Evaluation: a forecaster judged on a span of history, as frames, figures and a report."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from pydantic import ValidationError

from kforecast.data.panel import Panel
from kforecast.data.reading import panel_of
from kforecast.errors import ConfigError, DataError, few
from kforecast.evaluation.capacity import Capacity
from kforecast.evaluation.report.figures import figures
from kforecast.evaluation.report.files import forecasts_frame, publish
from kforecast.evaluation.report.words import summary, verdict
from kforecast.evaluation.scoreboard import QUANTILES, Scoreboard, judge
from kforecast.evaluation.scores import ALL_STEPS
from kforecast.evaluation.skill import Skill
from kforecast.intervals import check_levels
from kforecast.metrics.timerange import utc
from kforecast.predictor import Predictor
from kforecast.validation import list_problems, problems_of
from kforecast.window import parse_instant

log = logging.getLogger(__name__)

# Without a start, and without knowledge of the training data, the newest fifth is judged; what calibrates
# intervals is the fifth before it.
_SHARE = 0.2


@dataclass(frozen=True, repr=False)
class Evaluation:
    """What came of judging a forecaster; printed it is the table and the verdict of kforecast-evaluate.

    Attributes
    ----------
    board:
        All that is known, from the forecasts to the replicas that they would have ordered.
    source:
        What the report calls the history.
    seed:
        Of the bootstrap.
    warnings:
        What to know before believing the numbers.
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
        """Whether the model deserves to scale production, in one sentence."""
        return verdict(self.board)[1]

    @property
    def skill(self) -> Skill:
        """Skill over the best baseline with its interval of 95 %: ``value``, ``low``, ``high``."""
        return self.board.skill

    @property
    def scores(self) -> pd.DataFrame:
        """Errors over the whole horizon, a row per forecaster and series; ``*`` stands for all series.

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
        """The same for each step of the horizon, numbered from 1 in ``step``."""
        found = self.board.scores
        single = found[found["step"] != ALL_STEPS]
        return single.assign(step=single["step"].astype(int)).reset_index(drop=True)

    @property
    def forecasts(self) -> pd.DataFrame:
        """Forecasts and observed values: see :func:`kforecast.evaluation.report.files.forecasts_frame`."""
        return forecasts_frame(self.board)

    def figures(self) -> dict[str, Figure]:
        """The pictures of the report, by name."""
        return figures(self.board)

    def report(self, directory: Path | str) -> Path:
        """Write ``report.html`` and the numbers and pictures behind it; return its path.

        Raises
        ------
        OSError
            When the file system refuses.
        """
        self.publish(Path(directory), self.board.backtest.forecaster.name)
        return Path(directory) / "report.html"

    def publish(self, directory: Path, artifact: str) -> dict[str, Figure]:
        """Write the report under another name of what was judged; return its figures."""
        return publish(
            self.board,
            directory,
            artifact=artifact,
            source=self.source,
            seed=self.seed,
            warnings=self.warnings,
        )


def evaluate_frame(
    forecaster: Predictor,
    history: pd.DataFrame,
    *,
    start: str | int | None,
    end: str | int | None,
    stride: int,
    as_consumed: bool,
    quantiles: Sequence[float] | None,
    capacity: Mapping[str, Any] | None,
    seed: int,
) -> Evaluation:
    """See :meth:`kforecast.forecaster.Forecaster.evaluate`."""
    try:
        levels = QUANTILES if quantiles is None else check_levels(quantiles)
        moments = [None if moment is None else parse_instant(moment) for moment in (start, end)]
        settings = Capacity(**(capacity or {}))
    except ValidationError as error:
        raise ConfigError(list_problems("evaluate()", problems_of(error, "capacity"))) from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f"evaluate(): {error}") from error
    if isinstance(stride, bool) or not isinstance(stride, int) or stride < 1:
        raise ConfigError(f"evaluate(): stride is {stride!r}; use a positive integer")
    if None not in moments and moments[1] < moments[0]:  # type: ignore[operator]
        raise ConfigError(f"evaluate(): the end, {end}, is before the start, {start}")
    panel = panel_of(history, forecaster.window.frequency)
    return evaluate_panel(
        forecaster,
        panel,
        settings,
        start=moments[0],
        end=moments[1],
        stride=stride,
        as_consumed=as_consumed,
        levels=levels,
        source="a frame",
        seed=seed,
    )


def evaluate_panel(
    forecaster: Predictor,
    panel: Panel,
    capacity: Capacity,
    *,
    start: int | None,
    end: int | None,
    stride: int,
    as_consumed: bool,
    levels: Sequence[float],
    source: str,
    seed: int,
    calibrate: bool = False,
) -> Evaluation:
    """Judge a forecaster on the series that it knows; what to know of the result is also logged.

    Parameters
    ----------
    start, end:
        Unix seconds of the first and the last judged bin, as in ``Forecaster.evaluate``.
    stride, as_consumed, levels, seed:
        See :func:`kforecast.evaluation.scoreboard.judge`.
    source:
        What the report calls the history.
    calibrate:
        Make intervals of the history before the span, even where the forecaster has some.

    Raises
    ------
    DataError
        When there is nothing to judge.
    """
    panel = _known_series(panel, forecaster)
    trained_until, used_until = (None, None)
    if forecaster.artifact is not None:
        trained_until, used_until = forecaster.artifact.training_span
    begin, stop = _span(panel, forecaster.window.prediction_length, start, end, used_until)
    warnings = _training_warnings(panel, begin, used_until)
    if forecaster.intervals is None or calibrate:
        forecaster, more = _calibrated(forecaster, panel, begin, used_until, as_consumed)
        warnings += more
    for warning in warnings:
        log.warning(warning)
    board = judge(
        forecaster,
        panel,
        begin,
        stop,
        capacity,
        stride=stride,
        as_consumed=as_consumed,
        levels=levels,
        trained_until=trained_until,
        seed=seed,
    )
    return Evaluation(board, source, seed, tuple(warnings))


def _training_warnings(panel: Panel, begin: int, used_until: int | None) -> list[str]:
    """What to know where the judged span may have been trained on."""
    if used_until is None:
        return [
            "What the model was trained on is not known: where it is the history given here, the scores "
            "flatter the model, and intervals calibrated on it are too narrow."
        ]
    if panel.timestamps[begin] < used_until:
        return ["A part of the span was used in training: the scores flatter the model."]
    return []


def _calibrated(
    forecaster: Predictor, panel: Panel, begin: int, used_until: int | None, as_consumed: bool
) -> tuple[Predictor, list[str]]:
    """The forecaster with intervals from the history before the span, and what to know of them."""
    before = max(0, begin - round(_SHARE * panel.num_bins))
    forecaster = forecaster.calibrated(panel, before, begin, as_consumed=as_consumed)
    if forecaster.intervals is None:
        return forecaster, ["No intervals: the history before the span is too short to calibrate them on."]
    if used_until is not None and panel.timestamps[before] < used_until:
        return forecaster, ["The intervals are calibrated on data of the training, and may be too narrow."]
    return forecaster, []


def _known_series(panel: Panel, forecaster: Predictor) -> Panel:
    """The series that the artifact has an id for; the others are said."""
    unknown = forecaster.unknown(panel.series)
    if not unknown:
        return panel
    names = few([" ".join(pair) for pair in unknown])
    if len(unknown) == panel.num_series:
        raise DataError(
            f"none of the series is in the artifact: {names}; it knows {few(list(forecaster.item_ids))}"
        )
    log.warning("%d of %d series are not in the artifact: %s", len(unknown), panel.num_series, names)
    strangers = set(unknown)
    return panel.rows([row for row, pair in enumerate(panel.series) if pair not in strangers])


def _span(
    panel: Panel, horizon: int, start: int | None, end: int | None, used_until: int | None
) -> tuple[int, int]:
    """The judged bins ``[begin, stop)``."""
    step, first, last = panel.frequency.step, int(panel.timestamps[0]), int(panel.timestamps[-1])
    has = f"the history has bins of {panel.frequency.name} from {utc(first)} to {utc(last)}"
    named = start is not None
    start = used_until if start is None else start
    if start is None:
        start = first + round((1 - _SHARE) * panel.num_bins) * step
    if start > last:
        used = "evaluate.start" if named else "the end of what training used"
        remedy = "" if named else "; give newer history, or name an evaluate.start"
        raise DataError(f"nothing to judge: {used} is {utc(start)}, but {has}{remedy}")
    end = last if end is None else end
    if end < first:
        raise DataError(f"nothing to judge: evaluate.end is {utc(end)}, but {has}")
    # The first bin that begins at or after the start, and the last that begins at or before the end.
    begin = max(-(-(start - first) // step), 0)
    stop = min((end - first) // step + 1, panel.num_bins)
    if stop - begin < horizon:
        raise DataError(
            f"nothing to judge: {max(stop - begin, 0)} bins from {utc(start)} to {utc(end)} are less than "
            f"a horizon of {horizon}; {has}"
        )
    return begin, stop
