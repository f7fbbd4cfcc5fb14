"""The scoreboard of a model: scores, skill, ageing and simulated replicas, all from one backtest."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from kforecast.data.panel import Panel
from kforecast.errors import few
from kforecast.evaluation.backtest import Backtest, BacktestSettings, Span, backtest
from kforecast.evaluation.capacity import JUDGED, Orders, order
from kforecast.evaluation.champion import CHAMPION, Champion, Comparison, compare
from kforecast.evaluation.guarding import dry_run
from kforecast.evaluation.scores import ALL_SERIES, ALL_STEPS, overall, score
from kforecast.evaluation.skill import CONFIDENCE, RESAMPLES, Skill, aged_at, by_age, skill
from kforecast.guard import DryRun
from kforecast.predictor import Predictor
from kforecast.simulation.capacity import Capacity
from kforecast.simulation.drivers import PERFECT, REACTIVE

# Policies that reports know by another name than the simulation.
_KEYS = {PERFECT: "perfect"}
# The bounds of the intervals of 80, 90 and 95 %, and the median.
QUANTILES = (0.025, 0.05, 0.1, 0.5, 0.9, 0.95, 0.975)


@dataclass(frozen=True)
class Scoreboard:
    """How good a model is.

    Attributes
    ----------
    backtest:
        The forecasts.
    scores:
        See :func:`kforecast.evaluation.scores.score`.
    skill:
        Skill over the best baseline.
    ages:
        See :func:`kforecast.evaluation.skill.by_age`.
    age_known:
        Whether ages count from the end of the training data; otherwise from the start of the judged span.
    orders:
        The replicas that an autoscaler would have ordered.
    saving:
        Saving of scaling on the larger of the newest load and the forecast, over the newest load alone; NaN
        without a simulation.
    as_consumed:
        Whether it was judged as Kapacity's job serves it.
    part:
        The name of the judged span; may be empty.
    comparison:
        Comparison with the champion; None without one.
    doubts:
        Defects of the history that make every score doubtful, each as a clause of a sentence; the verdict
        names them and the gate refuses the model.
    guard:
        When a server's guard would have withdrawn the forecasts; None if that was not asked.
    """

    backtest: Backtest
    scores: pd.DataFrame
    skill: Skill
    ages: pd.DataFrame
    age_known: bool
    orders: Orders
    saving: Skill
    as_consumed: bool
    part: str
    comparison: Comparison | None = None
    doubts: tuple[str, ...] = ()
    guard: DryRun | None = None

    @property
    def model(self) -> dict[str, float]:
        """The judged model's scores over all series and steps."""
        return overall(self.scores, self.backtest.model)

    @property
    def origins(self) -> int:
        """Number of distinct origins."""
        return len(np.unique(self.backtest.origin))

    @property
    def bounds(self) -> tuple[int, int]:
        """Unix seconds of the first and the last judged bin."""
        panel = self.backtest.panel
        return panel.seconds(self.backtest.begin), panel.seconds(self.backtest.stop - 1)

    def coverages(self) -> dict[str, float]:
        """Share of targets inside each interval, by its nominal coverage in percent (``80``)."""
        named = {name: value for name, value in self.model.items() if name.startswith("coverage_")}
        return {name.removeprefix("coverage_"): value for name, value in named.items()}

    def series_scores(self, model: str | None = None) -> pd.DataFrame:
        """Scores of each series over all steps, of the judged model or another model or baseline."""
        scores = self.scores
        chosen = (scores["model"] == (model or self.backtest.model)) & (scores["workload"] != ALL_SERIES)
        return scores[chosen & (scores["step"] == ALL_STEPS)].drop(columns=["model", "step"])

    def step_scores(self, model: str) -> pd.DataFrame:
        """Scores of each step over all series, of a model or baseline."""
        scores = self.scores
        chosen = (scores["model"] == model) & (scores["workload"] == ALL_SERIES)
        return scores[chosen & (scores["step"] != ALL_STEPS)].drop(columns=["model", "workload", "metric"])

    def as_dict(self) -> dict[str, Any]:
        """The whole scoreboard as plain values, for JSON."""
        found, panel = self.backtest, self.backtest.panel
        start, end = self.bounds
        return {
            "span": {
                "part": self.part,
                "start": start,
                "end": end,
                "stride": found.stride,
                "origins": self.origins,
                "windows": len(found.cells),
                "series": len(found.scored_series),
            },
            "window": {
                "freq": panel.frequency.name,
                "context_length": found.predictor.window.context_length,
                "prediction_length": found.horizon,
            },
            "as_consumed": self.as_consumed,
            "overall": _plain(self.model),
            "series": _records(self.series_scores()),
            "steps": _records(self.step_scores(found.model)),
            "baselines": {name: _plain(overall(self.scores, name)) for name in found.baselines},
            "skill": {
                "value": _plain(self.skill.value),
                "low": _plain(self.skill.low),
                "high": _plain(self.skill.high),
                "confidence": CONFIDENCE,
                "score": "wape",
                "best_baseline": self.skill.best_baseline,
                "block_bins": self.skill.block,
                "blocks": self.skill.blocks,
                "resamples": RESAMPLES,
            },
            "champion": None if self.comparison is None else _plain(self.comparison.as_dict()),
            "guard": None if self.guard is None else self.guard.as_dict(),
            "age": {
                "counted_from": "the end of the training data" if self.age_known else "the start of the span",
                "aged_at": aged_at(self.ages),
                "steps": _records(self.ages),
            },
            "capacity": self._capacity(),
        }

    def _capacity(self) -> dict[str, Any]:
        """The simulated replicas as plain values; without a simulation there are no policies and series."""
        orders, panel, simulation = self.orders, self.backtest.panel, self.orders.simulation
        found: dict[str, Any] = {
            "settings": orders.settings.model_dump(),
            "lacking": orders.lacking or None,
            "quantile": {
                "level": orders.question.level,
                "window": orders.question.window,
                "newsvendor": orders.settings.best_quantile,
            },
            "saving": {
                "policy": JUDGED,
                "over": self.saving.best_baseline,
                "value": _plain(self.saving.value),
                "low": _plain(self.saving.low),
                "high": _plain(self.saving.high),
                "confidence": CONFIDENCE,
                "blocks": self.saving.blocks,
            },
            "policies": {},
            "series": [],
        }
        if simulation is None:
            return found
        series = simulation.by_series.replace({"policy": _KEYS})
        return found | {
            "span": {
                "start": panel.seconds(simulation.begin),
                "end": panel.seconds(simulation.stop - 1),
                "step": simulation.outcomes.step,
                "series": len(simulation.rows),
            },
            "policies": {
                _KEYS.get(str(name), str(name)): _plain(row)
                for name, row in simulation.table.to_dict("index").items()
            },
            "series": [
                dict(zip(("workload", "metric"), panel.series[row.pop("series")], strict=True)) | row
                for row in _records(series)
            ],
        }


def judge(
    predictor: Predictor,
    panel: Panel,
    span: Span,
    settings: BacktestSettings,
    capacity: Capacity,
    seed: int = 0,
    champion: Champion | None = None,
) -> Scoreboard:
    """Backtest a model over a span of a panel and compare it with the baselines.

    Parameters
    ----------
    capacity:
        Scaling rules of the simulated replicas.
    seed:
        Seed of the bootstrap, and of the load inside bins.
    champion:
        The model that serves today, for a comparison.

    Raises
    ------
    DataError
        When there is nothing to score.
    ArtifactError
        When a forecast is not a finite number.
    """
    others = None if champion is None else {CHAMPION: champion.predictor}
    found = backtest(predictor, panel, span, settings, others)
    over_best = skill(found, seed)
    begins, trained_until = panel.seconds(span.begin), span.trained_until
    # A model has no age within its own training data.
    age_known = trained_until is not None and trained_until <= begins
    since = trained_until if trained_until is not None and age_known else begins
    orders = order(found, capacity, seed)
    return Scoreboard(
        backtest=found,
        scores=score(found),
        skill=over_best,
        ages=by_age(found, since, over_best.best_baseline),
        age_known=age_known,
        orders=orders,
        saving=_saving(orders, over_best.block, seed),
        as_consumed=settings.as_consumed,
        part=span.name,
        comparison=None if champion is None else compare(found, champion, over_best.best_baseline, seed),
        doubts=_doubts(panel),
        guard=dry_run(found, capacity.lead_time, capacity.best_quantile),
    )


def _doubts(panel: Panel) -> tuple[str, ...]:
    """Defects of a history that make every score doubtful: a counter is easy to forecast, and no load."""
    if not panel.counters:
        return ()
    names = few(panel.counters)
    return (f"values only grow like a counter in {names}: train on the rate, rate(...[5m]) in PromQL",)


def _saving(orders: Orders, block: int, seed: int) -> Skill:
    if orders.simulation is None:
        return Skill(math.nan, math.nan, math.nan, REACTIVE, block, 0)
    return orders.simulation.saving(block, seed)


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): _plain(value) for name, value in row.items()} for row in frame.to_dict("records")]


def _plain(value: Any) -> Any:
    """Values as JSON types; None for NaN and infinity, which JSON lacks."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
