"""A whole replay: a setting chosen on the older part of a span, and every driver on the newest part."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kforecast.autoscaling.kapacity import KapacityPolicy
from kforecast.autoscaling.policy import Kind, Policy
from kforecast.data.panel import Panel
from kforecast.evaluation.skill import Skill, saving
from kforecast.guard import DryRun, GuardRules
from kforecast.models.online import ORIGINS
from kforecast.predictor import Predictor
from kforecast.replay.jobs import LANES, Job, run_all
from kforecast.replay.recommend import Advice, Aim, Choice, Grid, advice
from kforecast.simulation.drivers import (
    BOTH,
    FORECAST,
    MIMIR,
    PERFECT,
    REACTIVE,
    SCHEDULED,
    Driver,
    Served,
)
from kforecast.simulation.forecasts import Guarding, Question, answers
from kforecast.simulation.load import Load
from kforecast.simulation.outcomes import Outcomes, Prices
from kforecast.simulation.seen import Other
from kforecast.simulation.service import Service
from kforecast.simulation.simulation import Services, Setting, Signal, lead

log = logging.getLogger(__name__)

# Steps of lanes that a search simulates at most: about a minute on one core.
_SEARCH_STEPS = 400_000_000
_DAY = 86_400
_SAID_EVERY = 10.0


@dataclass(frozen=True)
class Model:
    """An artifact and its view of the history.

    Attributes
    ----------
    name:
        In tables.
    predictor, panel:
        The panel holds the replayed series, in the order of the load.
    """

    name: str
    predictor: Predictor
    panel: Panel


@dataclass(frozen=True)
class Plan:
    """What is replayed.

    Attributes
    ----------
    models:
        The artifacts.
    load:
        The load of every service, at the finest step of the history.
    capacity, share, units, others:
        See :class:`~kforecast.simulation.simulation.Services`.
    policy, kind, metric, service, signal, prices, triggers:
        See :class:`~kforecast.simulation.simulation.Setting`.
    settle:
        Seconds after the end of a bin until its forecast is ready.
    grid, aim:
        What is tried, and what for.
    bounds:
        Unix seconds at which the older part begins, the newest part begins, and it ends.
    seed:
        Of starting times, movements inside bins, and the bootstrap.
    processes:
        How many processes simulate.
    guard:
        Whether a guard withdraws forecasts, as that of a server does.
    """

    models: Sequence[Model]
    load: Load
    capacity: np.ndarray
    share: np.ndarray
    policy: Policy
    kind: Kind
    metric: str
    units: np.ndarray
    service: Service
    signal: Signal
    prices: Prices
    settle: int
    grid: Grid
    aim: Aim
    bounds: tuple[int, int, int]
    seed: int = 0
    processes: int = 1
    guard: bool = True
    others: Sequence[Other] = ()
    triggers: tuple[str, str] | None = None

    @property
    def bins(self) -> tuple[int, int, int]:
        """The bounds as bins of the load."""
        first, middle, end = ((moment - self.load.start) // self.load.width for moment in self.bounds)
        return first, middle, end

    @property
    def lead(self) -> int:
        """Seconds from a decision until the pods of the next decision serve."""
        return lead(self.service, self.policy)


@dataclass(frozen=True)
class Replay:
    """The result.

    Attributes
    ----------
    plan:
        What was replayed.
    advice:
        The setting for the fleet, and for single services.
    floors:
        Lower limits of replicas by the grid's floors, int64 ``[floors, series]``.
    outcomes:
        Every driver on the newest part.
    chosen:
        Number of the driver with the recommended setting.
    saving:
        Its saving over the autoscaler as it is, on the newest part, with an interval over days.
    searched:
        Number of services that the search looked at.
    """

    plan: Plan
    advice: Advice
    floors: np.ndarray
    outcomes: Outcomes
    chosen: int
    saving: Skill
    searched: int

    def saving_of(self, series: int | None = None) -> Skill:
        """The saving of one service, or of all."""
        return _saving(self.outcomes, self.chosen, self.plan, series)


def replay(plan: Plan) -> Replay:
    """Choose a setting on the older part, and show every driver on the newest part.

    Raises
    ------
    ArtifactError
        When a forecast is not a finite number.
    """
    grid, choices = plan.grid, plan.grid.choices()
    begin, middle, end = plan.bins
    searched = _sample(plan, len(choices), middle - begin)
    tried = Part([grid.driver(choice) for choice in choices], grid.questions, begin, middle, "older part")
    older = outcomes_of(plan, tried, searched)
    found = advice(choices, older, plan.prices, plan.aim, searched)
    drivers, questions, chosen = _shown(plan, found.fleet)
    part = Part(drivers, questions, middle, end, "newest part")
    outcomes = outcomes_of(plan, part, np.arange(len(plan.capacity)), trace=True)
    saved = _saving(outcomes, chosen, plan, None)
    return Replay(plan, found, floors_of(plan), outcomes, chosen, saved, len(searched))


def floors_of(plan: Plan) -> np.ndarray:
    """Lower limits of replicas, from the load before the span: int64 ``[floors, series]``."""
    load, least, begin = plan.load, plan.policy.min_replicas, plan.bins[0]
    found = np.full((len(plan.grid.floors), len(plan.capacity)), least, np.int64)
    for number, level in enumerate(plan.grid.floors):
        if level is None or begin < 1:
            continue
        for row, (values, known) in enumerate(zip(load.values, load.observed, strict=True)):
            seen = values[:begin][known[:begin]]
            if len(seen):
                per_replica = plan.capacity[row] * plan.share[row]
                needed = np.ceil(np.quantile(seen, level) / per_replica - 1e-9)
                found[number, row] = np.clip(needed, least, plan.policy.max_replicas)
    return found


def _sample(plan: Plan, settings: int, bins: int) -> np.ndarray:
    """Services that the search looks at: all, or as many as it has time for, evenly spaced; int64."""
    steps = settings * bins * (plan.load.width // plan.load.step)
    count = min(len(plan.capacity), max(1, _SEARCH_STEPS // max(steps, 1)))
    return np.unique(np.linspace(0, len(plan.capacity) - 1, count).round().astype(np.int64))


def _shown(plan: Plan, best: Choice) -> tuple[list[Driver], list[Question], int]:
    """The drivers of the newest part, the questions of their forecasts, and the number of the chosen one.

    Where the newest load alone is best, its usual companion is shown: the forecast at the cheapest quantile
    over the lead.
    """
    grid = plan.grid
    question = best.question if best.artifact is not None else _usual(plan)
    floor, target = list(grid.floors).index(best.floor), best.target
    drivers = [Driver(REACTIVE)]
    if target != 1.0:
        drivers.append(Driver(f"{REACTIVE}, target x {target:g}", target=target))
    both: dict[int, int] = {}
    for number, model in enumerate(plan.models):
        name = f": {model.name}" if len(plan.models) > 1 else ""
        alone = Driver(FORECAST + name, "forecast", False, number, target, floor)
        drivers.append(alone)
        both[number] = len(drivers)
        drivers.append(replace(alone, name=BOTH + name, reactive=True))
    drivers += [
        Driver(MIMIR, "mimir"),
        Driver(SCHEDULED, "schedule"),
        Driver(PERFECT, "perfect", reactive=False),
    ]
    chosen = both[best.artifact] if best.artifact is not None else int(target != 1.0)
    return drivers, [question], chosen


def _usual(plan: Plan) -> Question:
    """The quantile nearest to the newsvendor's, over the shortest window."""
    worth = plan.prices.under / (plan.prices.under + plan.prices.over)
    questions = plan.grid.questions
    return min(
        questions, key=lambda one: (abs((0.5 if one.level is None else one.level) - worth), one.window)
    )


@dataclass(frozen=True)
class Part:
    """A part of the span: its drivers, the questions that number their forecasts, and its bins."""

    drivers: Sequence[Driver]
    questions: Sequence[Question]
    begin: int
    stop: int
    name: str


def outcomes_of(plan: Plan, part: Part, rows: np.ndarray, *, trace: bool = False) -> Outcomes:
    """The outcomes of some services on a part, in the order of ``rows``, int64 ``[series]``."""
    setting = Setting(
        policy=plan.policy,
        kind=plan.kind,
        service=plan.service,
        signal=plan.signal,
        drivers=part.drivers,
        lead=plan.lead,
        prices=plan.prices,
        seed=plan.seed,
        trace=trace,
        metric=plan.metric,
        portraits=isinstance(plan.policy, KapacityPolicy),
        triggers=plan.triggers,
    )
    blocks = max(1, -(-len(rows) * len(part.drivers) // LANES))
    if len(rows) * len(part.drivers) * (part.stop - part.begin) > 10_000_000:
        blocks = -(-blocks // plan.processes) * plan.processes
    groups = [group for group in np.array_split(rows, blocks) if len(group)]
    floors, judged = floors_of(plan), list[list[DryRun]]()

    def jobs() -> Iterable[Job]:
        for some in groups:
            forecasts = _forecasts(plan, part, some)
            if trace:
                judged.append([DryRun(one.states, one.width) for one in forecasts if one.states is not None])
            services = Services(
                plan.load.of(some),
                plan.capacity[some],
                plan.share[some],
                floors[:, some],
                plan.units[some],
                forecasts,
                [other.of(some) for other in plan.others],
            )
            yield Job(setting, services, part.begin, part.stop)

    processes = plan.processes if len(groups) > 1 else 1
    found = Outcomes.joined(list(_told(part.name, len(rows), run_all(jobs(), processes))))
    for number, parts in enumerate(zip(*judged, strict=True)):
        states = np.concatenate([one.states for one in parts])
        found.withdrawn[number] = DryRun(states, parts[0].step)
    return found


def _forecasts(plan: Plan, part: Part, rows: np.ndarray) -> list[Served]:
    """The answers to a part's questions for some services, by artifact and question."""
    found: list[Served] = []
    if not any(driver.rule == "forecast" for driver in part.drivers):
        return found
    load = plan.load
    begin, end = load.start + part.begin * load.width, load.start + part.stop * load.width
    for model in plan.models:
        bins = model.panel.bin_at(begin), model.panel.bin_at(end - 1) + 1
        some = model.panel.rows(rows.tolist())
        guarding = _guarding(plan, model, bins[0]) if plan.guard else None
        found += answers(model.predictor, some, bins, part.questions, plan.settle, load.step, guarding)
    return found


def _guarding(plan: Plan, model: Model, begin: int) -> Guarding:
    """The guard of a server that was started at a bin, but judges no forecast from before the replay."""
    window, prices = model.predictor.window, plan.prices
    rules = GuardRules.of(
        window.frequency.step,
        window.frequency.day,
        window.prediction_length,
        plan.service.start,
        prices.under / (prices.under + prices.over),
    )
    return Guarding(rules, max(model.panel.bin_at(plan.bounds[0]), begin - ORIGINS))


def _told(name: str, services: int, parts: Iterable[Outcomes]) -> Iterable[Outcomes]:
    """The parts as they come, with a line on the progress of long work."""
    done, said = 0, time.monotonic()
    for part in parts:
        done += part.load.shape[1]
        if done < services and time.monotonic() - said > _SAID_EVERY:
            said = time.monotonic()
            log.info("%s: %d of %d services replayed", name, done, services)
        yield part


def _saving(outcomes: Outcomes, chosen: int, plan: Plan, series: int | None) -> Skill:
    """Saving of a driver over the autoscaler as it is (driver 0), with an interval over days."""
    cost, seconds = outcomes.by_day(plan.prices), outcomes.seconds
    if series is None:
        total, counted = cost.sum(axis=2), seconds.sum(axis=1) > 0
    else:
        total, counted = cost[:, :, series], seconds[:, series] > 0
    if not counted.any():
        return Skill(np.nan, np.nan, np.nan, REACTIVE, 1, 0)
    return replace(saving(total[:, chosen], total[:, 0], counted, 1, plan.seed), best_baseline=REACTIVE)
