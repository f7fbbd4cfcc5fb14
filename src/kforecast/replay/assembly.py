"""Assembly of a replay's plan from typed wishes: the span, the services, and the settings to try."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kforecast.autoscaling.hpa import Metric
from kforecast.autoscaling.policy import Policy
from kforecast.errors import ConfigError, DataError
from kforecast.metrics.timerange import utc
from kforecast.predictor import Predictor
from kforecast.replay.others import Known, Roles, first_metric, metrics_of, others_of, roles_of
from kforecast.replay.recommend import MOST_SHARE, Aim, Grid
from kforecast.replay.recorded import (
    History,
    finest,
    load_of,
    models_of,
    only,
    services_of,
    with_intervals,
)
from kforecast.replay.sizes import (
    Sizing,
    gives_load,
    learned_at_target,
    mean_before,
    sizes,
)
from kforecast.replay.study import Model, Plan
from kforecast.simulation.forecasts import Question
from kforecast.simulation.load import Load
from kforecast.simulation.outcomes import Prices
from kforecast.simulation.service import Service
from kforecast.simulation.simulation import Signal, lead

if TYPE_CHECKING:
    from kforecast.metrics.source import MetricSource

_HOUR, _DAY = 3600, 86_400
# Without a start and without the end of the training data, this share of the history is replayed.
_SHARE = 0.2
# A forecast of longer bins is no number to order pods by.
_LONGEST = 12 * _HOUR
# A share of the time that is worth a note.
_NOTABLE = 0.0005


@dataclass(frozen=True)
class Span:
    """The replayed span.

    Attributes
    ----------
    start, end:
        Unix seconds of the first and the last bin; None for the end of the training data, and the newest bin.
    newest:
        Share of the span that shows the result.
    """

    start: int | None = None
    end: int | None = None
    newest: float = 0.5


@dataclass(frozen=True)
class Trials:
    """What is tried.

    Attributes
    ----------
    quantiles, targets, floors:
        See :class:`~kforecast.replay.recommend.Choice`.
    windows:
        Seconds over which the largest forecast counts; None for the lead, twice the lead, and the horizon.
    """

    quantiles: Sequence[float]
    windows: Sequence[int] | None
    targets: Sequence[float]
    floors: Sequence[float | None]


@dataclass(frozen=True)
class Wishes:
    """A replay as it is wished for, before artifacts and history are looked at.

    Attributes
    ----------
    policy, service, signal, prices, settle, aim, seed, processes, guard:
        See :class:`~kforecast.replay.study.Plan`.
    span, sizing, trials:
        The span, the size of pods, and what is tried.
    variability:
        See :class:`~kforecast.simulation.load.Load`.
    traffic, forecast:
        Triggers of a formula; see :func:`~kforecast.replay.others.roles_of`.
    """

    policy: Policy
    service: Service
    signal: Signal
    prices: Prices
    span: Span
    sizing: Sizing
    trials: Trials
    aim: Aim
    settle: int = 15
    variability: float = 0.1
    seed: int = 0
    processes: int = 1
    guard: bool = True
    traffic: str | None = None
    forecast: str | None = None


@dataclass(frozen=True)
class Assembled:
    """A plan, and what is to be said about it.

    Attributes
    ----------
    targets:
        The autoscaler's own target of each service, in the units of its metric, float64 ``[series]``.
    notes:
        What had to be assumed.
    """

    plan: Plan
    targets: np.ndarray
    notes: list[str]


def assembled(
    wishes: Wishes, predictors: Sequence[tuple[str, Predictor]], source: MetricSource, run_dir: Path
) -> Assembled:
    """Read the history and assemble the plan.

    Parameters
    ----------
    predictors:
        The artifacts, by name.
    run_dir:
        Where a history is kept that cannot be read again.

    Raises
    ------
    ConfigError, DataError
        When the artifacts, the policy and the history do not fit together.
    """
    notes = list[str]()
    policy = wishes.policy
    for name, predictor in predictors:
        _check_bins(name, predictor)
    history = History(source, run_dir, rows=wishes.sizing.teaching is not None)
    models = models_of(predictors, history)
    roles = roles_of(policy, wishes.traffic, wishes.forecast)
    metric = first_metric(policy, {name for _, name in models[0].panel.series})
    models = services_of(models, _besides(wishes, metric, roles), notes)
    fine = finest(models, history)
    if not {*models[0].panel.series} <= {*fine.series}:
        raise DataError("the series of the history differ between bins; check their newest rows")
    services = only(fine, models[0].panel.series)
    load = load_of(services, wishes.variability, wishes.seed, notes)
    if load.width > _HOUR:
        notes.append(
            f"The rows are {load.width / _HOUR:g} hours apart. The load between them is taken to follow a "
            "straight line, so that peaks are not seen; give finer rows."
        )
    bounds = bounds_of(models, load, wishes.span)
    models = [with_intervals(model, bounds[0], notes) for model in models]
    at_target = _at_target(wishes, metric, models[0].panel.series, history)
    sized = sizes(wishes.sizing, metric, at_target, mean_before(load, bounds[0]), notes)
    known = Known(fine, _requests(wishes), load)
    others, said = others_of(policy, metric, roles, models[0].panel.series, known)
    notes += said
    questions = _questions(wishes, models, notes)
    lacking = float((load.values > policy.max_replicas * sized.capacity[:, None]).mean())
    if lacking >= _NOTABLE:
        notes.append(
            f"In {lacking:.2%} of the time the load is more than the largest order, "
            f"{policy.max_replicas} pods, can serve, whatever the driver."
        )
    most = max(1.0, MOST_SHARE / float(sized.share.max()))
    targets = [factor for factor in dict.fromkeys([1.0, *wishes.trials.targets]) if factor <= most]
    if roles is not None:
        targets = [1.0]
        notes.append(
            f"The policy orders by a formula, whose target is not varied. For drivers without a forecast, "
            f"{roles.forecast} says the newest load."
        )
    plan = Plan(
        models=models,
        load=load,
        capacity=sized.capacity,
        share=sized.share,
        policy=policy,
        kind=sized.kind,
        metric=sized.metric,
        units=sized.units,
        others=others,
        triggers=None if roles is None else (roles.traffic, roles.forecast),
        service=wishes.service,
        signal=wishes.signal,
        prices=wishes.prices,
        settle=wishes.settle,
        grid=Grid(len(models), questions, targets, list(dict.fromkeys([None, *wishes.trials.floors]))),
        aim=wishes.aim,
        bounds=bounds,
        seed=wishes.seed,
        processes=wishes.processes,
        guard=wishes.guard,
    )
    return Assembled(plan, sized.targets, notes)


def _check_bins(name: str, predictor: Predictor) -> None:
    if predictor.window.frequency.step > _LONGEST:
        raise ConfigError(
            f"{name}: a forecast of bins of {predictor.window.frequency.name} is the mean of a day, which "
            "says nothing about the minutes in which pods start; replay an artifact with bins of at most 12H"
        )


def bounds_of(models: Sequence[Model], load: Load, span: Span) -> tuple[int, int, int]:
    """Unix seconds at which the older part begins, the newest part begins, and it ends.

    Raises
    ------
    DataError
        When less than two days are left.
    """
    widest = max(model.panel.frequency.step for model in models)
    last = min(model.panel.seconds(model.panel.num_bins) for model in models)
    last = min(last, load.start + load.values.shape[1] * load.width)
    first = max(model.panel.start for model in models)
    used = [model.predictor.artifact.training_span[1] for model in models if model.predictor.artifact]
    known = [moment for moment in used if moment is not None]
    begin = span.start
    named = "replay.start" if begin is not None else "the end of the data used by training"
    if begin is None:
        begin = max(known) if known else first + round((1 - _SHARE) * (last - first))
    end = last if span.end is None else min(last, span.end + widest)
    begin = -(-max(begin, first) // widest) * widest
    end = end // widest * widest
    if end - begin < 2 * _DAY:
        raise DataError(
            f"nothing to replay: from {named}, {utc(begin)}, to {utc(end)} are less than two days, one to "
            f"choose a setting on and one to show it on; the history reaches from {utc(first)} to "
            f"{utc(last)}; give newer history, or an earlier replay.start"
        )
    middle = begin + round((1 - span.newest) * (end - begin))
    # Whole days are compared; each part keeps at least one.
    middle = min(max(round(middle / _DAY) * _DAY, begin + _DAY), end - _DAY)
    return begin, middle // widest * widest, end


def _besides(wishes: Wishes, metric: Metric | None, roles: Roles | None) -> set[str]:
    """Names of metrics that belong to the services and are none of their traffic."""
    teaching = wishes.sizing.teaching
    names = {other.name for other in metrics_of(wishes.policy) if other is not metric}
    if roles is not None:
        names.discard(roles.traffic)
    learned = {teaching.replicas, teaching.resource} if teaching is not None else set()
    return {name for name in names | learned if name is not None}


def _requests(wishes: Wishes) -> dict[str, float]:
    """What a pod requests of each resource: given, or as much as its target is a percentage of."""
    found, teaching = dict(wishes.sizing.requests), wishes.sizing.teaching
    if teaching is not None and teaching.resource is not None and teaching.target is not None:
        for metric in metrics_of(wishes.policy):
            if metric.name == teaching.resource and metric.kind == "utilization":
                found.setdefault(metric.name, 100 * teaching.target / metric.target)
    return found


def _at_target(
    wishes: Wishes, metric: Metric | None, series: Sequence[tuple[str, str]], history: History
) -> np.ndarray | None:
    """Load per replica at the target, float64 ``[series]``; None if it is not to be learned."""
    teaching = wishes.sizing.teaching
    if teaching is None or gives_load(metric):
        return None
    assert history.frame is not None
    return learned_at_target(history.frame, series, teaching, wishes.seed)


def _questions(wishes: Wishes, models: Sequence[Model], notes: list[str]) -> list[Question]:
    """Quantiles and windows to try."""
    windows_of = [model.predictor.window for model in models]
    horizon = min(window.prediction_length * window.frequency.step for window in windows_of)
    ahead = lead(wishes.service, wishes.policy)
    if ahead > horizon:
        notes.append(
            f"The forecast reaches {horizon:,} s, less than the {ahead:,} s until pods serve "
            "(capacity.lead_time): it cannot be early enough."
        )
    given = wishes.trials.windows
    too_far = [window for window in given or () if window > horizon]
    if too_far:
        raise ConfigError(
            f"replay.windows: {too_far[0]} is beyond the horizon of the artifact, {horizon} seconds"
        )
    windows = given if given is not None else [ahead, 2 * ahead, horizon]
    windows = list(dict.fromkeys(min(window, horizon) for window in windows))
    sure = all(model.predictor.intervals is not None for model in models)
    levels: list[float | None] = [*wishes.trials.quantiles] if sure else [None]
    return [Question(level, window) for level in levels for window in windows]
