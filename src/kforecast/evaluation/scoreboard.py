"""The scoreboard of a model: scores, skill, ageing and simulated replicas, all from one backtest."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from kforecast.data.panel import Panel
from kforecast.errors import few
from kforecast.evaluation.backtest import Backtest, BacktestSettings, Span, backtest
from kforecast.evaluation.capacity import (
    REACTIVE,
    Capacity,
    Simulation,
    Timeline,
    costs_over_time,
    headroom_curve,
    per_replica,
    simulate,
    timing,
)
from kforecast.evaluation.champion import CHAMPION, Champion, Comparison, compare
from kforecast.evaluation.guarding import dry_run
from kforecast.evaluation.scores import ALL_SERIES, ALL_STEPS, overall, ratio, score
from kforecast.evaluation.skill import CONFIDENCE, RESAMPLES, Skill, aged_at, by_age, saving, skill
from kforecast.guard import DryRun
from kforecast.intervals import LEVELS
from kforecast.models.naive import LAST_VALUE
from kforecast.predictor import Predictor

# The bounds of the intervals of 80, 90 and 95 %, and the median.
QUANTILES = (0.025, 0.05, 0.1, 0.5, 0.9, 0.95, 0.975)
HEADROOMS = tuple(round(0.05 * n, 2) for n in range(21))
# Smaller shares of the largest value of all series are rounding: a network's 1e-11 where there is no traffic.
_TRACE = 1e-6
# A quantile above this multiple of the largest value ever seen is no amount to order; a few may be.
_PLAUSIBLE, _FEW_IMPLAUSIBLE = 2.0, 0.01
ORDER_LEVELS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99)


@dataclass(frozen=True)
class Orders:
    """The replicas that the forecasts would have ordered.

    Attributes
    ----------
    settings, timeline, simulation:
        The scaling rules, the load, and the outcome.
    by_headroom:
        Cost at each of :data:`HEADROOMS`, by model or baseline, float64 ``[headroom]``.
    by_quantile:
        Cost of ordering for the model's quantile at each of :data:`ORDER_LEVELS`, float64 ``[level]``; empty
        without intervals.
    policy:
        The policy of the judged model: it orders for the cheapest quantile according to the costs, or for its
        point forecast without intervals.
    plausible:
        Whether the forecasts of each of those quantiles stay below twice the largest value seen, but for one
        in a hundred, bool ``[level]``; empty without intervals.
    notes:
        Caveats of the simulation.
    """

    settings: Capacity
    timeline: Timeline
    simulation: Simulation
    by_headroom: dict[str, np.ndarray]
    by_quantile: np.ndarray
    policy: str
    plausible: np.ndarray
    notes: tuple[str, ...]

    @property
    def any(self) -> bool:
        """Whether any bin counts; none does if the span is shorter than the lead time."""
        return bool(self.simulation.counted.any())

    def best_headroom(self, policy: str) -> float:
        """The headroom with the lowest cost; meaningful only if :attr:`any` bin counts."""
        return HEADROOMS[int(np.argmin(self.by_headroom[policy]))]

    @property
    def best_level(self) -> float | None:
        """The plausible quantile level with the lowest cost; None without one, or without intervals."""
        if not self.plausible.any():
            return None
        return ORDER_LEVELS[int(np.argmin(np.where(self.plausible, self.by_quantile, np.inf)))]

    @property
    def highest_level(self) -> float | None:
        """The highest plausible quantile level; None without one, or without intervals."""
        return ORDER_LEVELS[int(np.flatnonzero(self.plausible)[-1])] if self.plausible.any() else None

    @property
    def best_level_cost(self) -> float:
        """The cost at that quantile; NaN without one."""
        return float(self.by_quantile[self.plausible].min()) if self.plausible.any() else math.nan


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
        The replicas that it would have ordered.
    saving:
        Saving of these orders over those of the reactive rule.
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
        found, orders, panel = self.backtest, self.orders, self.backtest.panel
        start, end = self.bounds
        names = {row: panel.series[row] for row in found.scored_series}
        by_series = orders.simulation.series
        return {
            "span": {
                "part": self.part,
                "start": start,
                "end": end,
                "stride": found.stride,
                "origins": self.origins,
                "windows": len(found.cells),
                "series": len(names),
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
            "capacity": {
                "settings": orders.settings.model_dump(),
                "policies": {
                    str(row.pop("policy")): row for row in _records(orders.simulation.outcomes.reset_index())
                },
                "saving": {
                    "policy": orders.policy,
                    "over": self.saving.best_baseline,
                    "value": _plain(self.saving.value),
                    "low": _plain(self.saving.low),
                    "high": _plain(self.saving.high),
                    "confidence": CONFIDENCE,
                    "blocks": self.saving.blocks,
                },
                "series": [
                    {"workload": names[row["series"]][0], "metric": names[row["series"]][1]}
                    | {key: value for key, value in row.items() if key != "series"}
                    for row in _records(by_series[by_series["series"].isin(list(names))])
                ],
                "headroom": {
                    "headrooms": list(HEADROOMS),
                    "cost": {name: _plain(cost.tolist()) for name, cost in orders.by_headroom.items()},
                    "best": {
                        name: orders.best_headroom(name) if orders.any else None
                        for name in orders.by_headroom
                    },
                },
                "quantile": {
                    "levels": list(ORDER_LEVELS) if len(orders.by_quantile) else [],
                    "cost": _plain(orders.by_quantile.tolist()),
                    "best": orders.best_level if orders.any else None,
                    "newsvendor": orders.settings.best_quantile,
                },
            },
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
        Seed of the bootstrap.
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
    orders = order(found, capacity)
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


def order(found: Backtest, settings: Capacity) -> Orders:
    """Simulate the replicas that each model and baseline of a backtest would order."""
    panel, bins = found.panel, slice(found.begin, found.stop)
    observed, values = panel.observed, panel.values.astype(np.float64)
    before, within = (_mean_load(values[:, part], observed[:, part]) for part in (slice(found.begin), bins))
    timeline = Timeline(
        load=np.where(observed, values, np.nan)[:, bins],
        # The reactive rule decides at the same moments as all other policies.
        last=_dense(found, found.forecasts[LAST_VALUE])[..., 0].astype(np.float64),
        per_replica=per_replica(settings, np.where(before > 0, before, within)),
        step=panel.frequency.step,
        stride=found.stride,
    )
    notes = []
    unsized = int((~(before > 0))[found.scored_series].sum())
    if unsized and settings.per_replica is None:
        notes.append(
            f"{unsized:,} of {len(found.scored_series):,} series have no traffic before the span: their "
            "replicas are sized by their mean load in it; set capacity.per_replica to avoid this."
        )
    ahead = sum(timing(settings, timeline.step, timeline.stride))
    if ahead > found.horizon:
        notes.append(
            f"Orders are made for up to {ahead:,} bins ahead (capacity.lead_time, capacity.interval, "
            f"evaluate.stride), forecasts reach {found.horizon:,}: their last step is used for later bins."
        )
    forecasts = {name: _dense(found, made) for name, made in found.forecasts.items()}
    policy, policies, order_levels = found.model, forecasts, ORDER_LEVELS if found.levels else ()
    if found.levels:
        at_quantile = _dense_quantile(found, order_level(settings))
        policy = quantile_policy(found.model, settings)
        policies = {found.model: forecasts[found.model], policy: at_quantile} | forecasts
    simulation = simulate(settings, timeline, policies)
    counted = simulation.counted
    by_headroom = {
        name: headroom_curve(settings, timeline, forecast, HEADROOMS, counted)
        for name, forecast in forecasts.items()
    }
    by_quantile, plausible = [], []
    until = slice(found.stop)
    largest = values[:, until].max(axis=1, where=observed[:, until], initial=0.0)[:, None, None]
    largest = np.maximum(largest, _TRACE * largest.max())
    # One level at a time: the quantiles of one level take as much memory as all forecasts of the model.
    for level in order_levels:
        quantile = _dense_quantile(found, level)
        by_quantile.append(headroom_curve(settings, timeline, quantile, [0.0], counted)[0])
        too_high = np.count_nonzero(quantile > _PLAUSIBLE * largest)
        plausible.append(too_high <= _FEW_IMPLAUSIBLE * np.count_nonzero(~np.isnan(quantile)))
    return Orders(
        settings=settings,
        timeline=timeline,
        simulation=simulation,
        by_headroom=by_headroom,
        by_quantile=np.array(by_quantile, np.float64),
        policy=policy,
        plausible=np.array(plausible, bool),
        notes=tuple(notes),
    )


def _saving(orders: Orders, block: int, seed: int) -> Skill:
    """Saving of the judged model's orders over those of the reactive rule."""
    cost, reactive = (
        costs_over_time(orders.settings, orders.timeline, orders.simulation, policy)
        for policy in (orders.policy, REACTIVE)
    )
    return saving(cost, reactive, np.logical_or.reduce(orders.simulation.counted), block, seed)


def order_level(settings: Capacity) -> float:
    """The cheapest quantile level according to the costs, within the levels of the intervals."""
    return float(np.clip(settings.best_quantile, LEVELS[0], LEVELS[-1]))


def quantile_policy(model: str, settings: Capacity) -> str:
    """The name of the policy that orders for that quantile."""
    return f"{model} at quantile {order_level(settings):.3g}"


def _mean_load(values: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Mean absolute value of the observed bins, float64 ``[series]``; NaN if there are none."""
    return ratio(np.where(observed, np.abs(values), 0.0).sum(axis=1), observed.sum(axis=1))


def _dense(found: Backtest, forecast: np.ndarray) -> np.ndarray:
    """Forecasts ``[windows, horizon]`` as ``[series, bins, horizon]``; NaN where none was made."""
    dense = np.full((found.panel.num_series, found.stop - found.begin, found.horizon), np.nan, np.float32)
    dense[found.series, found.origin - found.begin] = forecast
    return dense


def _dense_quantile(found: Backtest, level: float) -> np.ndarray:
    return _dense(found, found.quantiles_at([level])[..., 0])


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
