"""``kforecast-replay``: recorded traffic under a real autoscaler's policy, with and without forecasts."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from kforecast.commands.run import run
from kforecast.config.checks import built, check_step, events_of, plain, source_of
from kforecast.config.settings import EventsSection, Instant
from kforecast.console import short_path
from kforecast.data.history import fetch_history
from kforecast.errors import ConfigError, DataError, few
from kforecast.intervals import check_levels
from kforecast.validation import validate

if TYPE_CHECKING:
    import pandas as pd

    from kforecast.autoscaling.hpa import Metric
    from kforecast.autoscaling.kapacity import KapacityPolicy
    from kforecast.autoscaling.policy import Kind, Policy
    from kforecast.data.events.known import KnownEvents
    from kforecast.data.panel import Panel
    from kforecast.metrics.source import MetricSource
    from kforecast.predictor import Predictor
    from kforecast.replay.study import Model, Plan
    from kforecast.simulation.capacity import Capacity
    from kforecast.simulation.load import Load

log = logging.getLogger(__name__)

_DAY = 86_400
# Without a start and without the end of the training data, this share of the history is replayed.
_SHARE = 0.2
# Bins of the load, in seconds: the finest that the rows allow.
_WIDTHS = (15, 30, 60, 120, 300, 600, 900, 1800, 3600)
# What an unknown metric shows for a fully used pod: its values are cut to thousandths.
_UNIT = 1000.0
# A share of the time that is worth a note.
_NOTABLE = 0.0005
# Metrics of pods that are no traffic.
_RESOURCES = ("cpu", "memory")
# Keys of capacity that a policy has in their place.
_OF_POLICY = ("min_replicas", "max_replicas", "interval", "headroom")


def main() -> None:
    """Run the command."""
    flags = ("--config-file", "--dataset-file", "--metrics-server-addr")
    sys.exit(run(replay, config_name="replay", flags=flags, check=check))


def _artifacts(value: Any) -> Any:
    return value if isinstance(value, list) else [str(value)]


def _float_or_none(value: Any) -> Any:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


Share = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, BeforeValidator(_float_or_none), Field(ge=0.5, le=3)]
Seconds = Annotated[int, Field(ge=0, le=7200)]


class LearnSection(BaseModel):
    """``replay.learn``: what the load per replica is learned from."""

    model_config = ConfigDict(extra="forbid", strict=True)

    replicas: Annotated[str, Field(min_length=1)] | None
    resource: Annotated[str, Field(min_length=1)] | None
    target: Annotated[float, BeforeValidator(_float_or_none), Field(gt=0)] | None


class ReplaySection(BaseModel):
    """``replay``: span, services, and the settings that are tried."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    start: Instant
    end: Instant
    newest: Annotated[float, Field(gt=0, lt=1)]
    metric: Literal["traffic", "utilization"]
    target_share: Annotated[float, Field(gt=0, le=1)]
    learn: LearnSection
    start_spread: Annotated[float, BeforeValidator(_float_or_none), Field(ge=0, le=2)]
    drain: Seconds
    unserved: Literal["drop", "queue"]
    queue_seconds: Seconds
    busy: Annotated[float, Field(gt=0, le=1)]
    delay: Annotated[int, Field(ge=0, le=3600)]
    average: Annotated[int, Field(ge=1, le=3600)]
    settle: Seconds
    variability: Annotated[float, BeforeValidator(_float_or_none), Field(ge=0, le=2)]
    quantiles: Annotated[list[float], BeforeValidator(check_levels), Field(min_length=1, max_length=20)]
    windows: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=10)] | None
    targets: Annotated[list[Factor], Field(min_length=1, max_length=10)]
    floors: Annotated[list[Share | None], Field(min_length=1, max_length=10)]
    max_unserved: Annotated[Share | Literal["today"] | None, BeforeValidator(_float_or_none)]
    max_replica_hours: Annotated[Annotated[float, Field(gt=0)] | None, BeforeValidator(_float_or_none)]
    processes: Annotated[int, Field(ge=1, le=256)] | None


def _unique(names: list[str]) -> list[str]:
    if len(set(names)) < len(names) or not all(names) or not names:
        raise ValueError("name each artifact once, and at least one")
    return names


class _Settings(BaseModel):
    artifact_dir: Annotated[list[str], BeforeValidator(_artifacts), AfterValidator(_unique)]
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    data: EventsSection
    replay: ReplaySection


@dataclass(frozen=True)
class Checked:
    """What needs neither an artifact nor the history."""

    settings: _Settings
    capacity: Capacity
    policy: Policy
    source: MetricSource
    events: KnownEvents | None = None

    @property
    def chosen(self) -> ReplaySection:
        """The section ``replay``."""
        return self.settings.replay


def replay(cfg: DictConfig) -> None:
    """Replay as configured: print the table, and write ``replay.json`` and ``replay.html``.

    Raises
    ------
    ConfigError, ArtifactError, DataError
        When a setting, an artifact, the policy or the history cannot be used.
    """
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    checked = check(cfg)

    from kforecast.replay.page import publish
    from kforecast.replay.study import replay as run_replay
    from kforecast.replay.words import moment_words, summary

    plan, targets, notes = plan_of(checked, run_dir)
    for note in notes:
        log.warning(note)
    found = run_replay(plan)
    begin, middle, end = plan.bounds
    facts = {
        "artifact": ", ".join(model.name for model in plan.models),
        "source": str(checked.source),
        "policy": _said(plan.policy),
        "pods": str(plan.service),
        "signal": str(plan.signal),
        "load": f"bins of {plan.load.width} s, steps of {plan.load.step} s, moving by "
        f"{plan.load.variability:.0%} inside a bin",
        "parts": f"{moment_words(begin)}, {moment_words(middle)}, {moment_words(end)} UTC",
        "seed": str(plan.seed),
    }
    publish(found, run_dir, targets, facts, notes)
    print(f"page: {short_path(run_dir / 'replay.html')}")
    print(summary(found, targets))


def _said(policy: Any) -> str:
    """A policy in short: what differs from the defaults."""
    given = ", ".join(f"{name}={value}" for name, value in policy.model_dump(exclude_defaults=True).items())
    return f"{type(policy).__name__}({given})"


def check(cfg: DictConfig) -> Checked:
    """Check the settings as far as that needs neither an artifact nor the history."""
    settings = validate(_Settings, plain(cfg), "configuration")
    capacity = built(cfg.capacity, "capacity")
    defaults = type(capacity)()
    changed = [name for name in _OF_POLICY if getattr(capacity, name) != getattr(defaults, name)]
    if changed:
        raise ConfigError(
            f"capacity.{changed[0]}: not for a replay, where the policy decides; give "
            f"policy.{changed[0]}, or policy.manifest"
        )
    chosen = settings.replay
    learn = chosen.learn
    if (learn.resource is None) != (learn.target is None):
        raise ConfigError("replay.learn: resource and target go together; give both, or neither")
    if learn.resource is not None and learn.replicas is None:
        raise ConfigError("replay.learn.replicas: the resource per replica needs it; give the metric's name")
    if learn.replicas is not None and capacity.per_replica is not None:
        raise ConfigError("capacity.per_replica and replay.learn.replicas: give one of them")
    if chosen.start is not None and chosen.end is not None and chosen.end < chosen.start:
        raise ConfigError(f"replay.end: {chosen.end} is before replay.start, {chosen.start}")
    for name in settings.artifact_dir:
        if not Path(name).is_dir():
            raise ConfigError(f"artifact_dir: {name}: no such directory")
    source = source_of(cfg)
    return Checked(settings, capacity, _policy(cfg), source, events_of(settings.data.events, source))


def _policy(cfg: DictConfig) -> Policy:
    """The policy, as far as a replay can stand for it.

    Raises
    ------
    ConfigError
        When a formula combines triggers of which a history of traffic knows one.
    """
    policy: Any = built(cfg.policy, "policy")
    if getattr(policy, "modifiers", None) is not None:
        raise ConfigError(
            "policy.modifiers: a replay has the traffic and the forecast, and cannot tell which triggers of "
            "the formula they are; leave scalingModifiers out: drivers take the larger of both"
        )
    found: Policy = _with_portraits(policy) if hasattr(policy, "portraits") else policy
    return found


def _with_portraits(policy: KapacityPolicy) -> KapacityPolicy:
    """The policy with both portraits that drivers need: the predictive one ranks above, as by default."""
    from kforecast.autoscaling.kapacity import Portrait

    portraits = list(policy.portraits)
    types, ranks = {one.type for one in portraits}, [one.priority for one in portraits]
    if "Predictive" not in types:
        portraits.append(Portrait(type="Predictive", priority=max(ranks) + 1))
    if "Reactive" not in types:
        portraits.append(Portrait(type="Reactive", priority=min(ranks) - 1))
    return policy.model_copy(update={"portraits": portraits})


def plan_of(checked: Checked, run_dir: Path) -> tuple[Plan, np.ndarray | None, list[str]]:
    """What is replayed, the autoscaler's own targets by service, and what had to be assumed."""
    from kforecast.replay.recommend import MOST_SHARE, Aim, Grid
    from kforecast.replay.study import Plan
    from kforecast.simulation.load import step_of
    from kforecast.simulation.outcomes import Prices
    from kforecast.simulation.service import Service
    from kforecast.simulation.simulation import Signal

    chosen, capacity, notes = checked.chosen, checked.capacity, list[str]()
    predictors = _predictors(checked)
    history = _History(checked.source, run_dir, _needs_rows(checked))
    models, load = _models_and_load(predictors, history, checked, notes)
    bounds = _bounds(models, load, chosen)
    models = [_with_intervals(model, bounds[0], notes) for model in models]
    sized = _sizes(checked, models[0], load, bounds[0], history, notes)
    service = Service(
        start=capacity.lead_time,
        start_spread=chosen.start_spread,
        drain=chosen.drain,
        unserved=chosen.unserved,
        queue_seconds=chosen.queue_seconds,
        busy=chosen.busy,
    )
    questions = _questions(chosen, models, service, checked.policy, notes)
    lacking = float((load.values > checked.policy.max_replicas * sized.capacity[:, None]).mean())
    if lacking >= _NOTABLE:
        notes.append(
            f"In {lacking:.2%} of the time the load is more than the largest order, "
            f"{checked.policy.max_replicas} pods, can serve, whatever the driver."
        )
    most = float(sized.share.max())
    targets = [
        factor for factor in dict.fromkeys([1.0, *chosen.targets]) if factor <= max(1.0, MOST_SHARE / most)
    ]
    plan = Plan(
        models=models,
        load=load,
        capacity=sized.capacity,
        share=sized.share,
        policy=checked.policy,
        kind=sized.kind,
        metric=sized.metric,
        units=sized.units,
        service=service,
        signal=Signal(delay=chosen.delay, window=chosen.average),
        prices=Prices(capacity.cost_under, capacity.cost_over),
        settle=chosen.settle,
        grid=Grid(len(models), questions, targets, list(dict.fromkeys([None, *chosen.floors]))),
        aim=Aim(chosen.max_unserved, chosen.max_replica_hours),
        bounds=bounds,
        seed=checked.settings.seed,
        processes=chosen.processes or len(os.sched_getaffinity(0)),
    )
    assert step_of(load.width) == load.step
    return plan, sized.targets, notes


def _predictors(checked: Checked) -> list[tuple[str, Predictor]]:
    from kforecast.forecaster import Forecaster

    found = [(short_path(Path(name)), Forecaster.load(name)) for name in checked.settings.artifact_dir]
    found = [(name, forecaster.knowing(checked.events)) for name, forecaster in found]
    for name, forecaster in found:
        check_step(checked.source, forecaster.window)
        if forecaster.window.frequency.step > 3600:
            raise ConfigError(
                f"{name}: bins of {forecaster.window.frequency.name} are too long for a replay; use an "
                "artifact of at most 1H"
            )
    return list(found)


def _needs_rows(checked: Checked) -> bool:
    return checked.chosen.learn.replicas is not None


class _History:
    """The history, read as often as needed but asked for once.

    Parameters
    ----------
    rows:
        Whether its rows are needed as a frame.
    """

    def __init__(self, source: MetricSource, run_dir: Path, rows: bool) -> None:
        self._source = source
        self.frame: pd.DataFrame | None = None
        if not source.repeatable:
            self.frame = fetch_history(source, run_dir)
        elif rows:
            self.frame = source.fetch()

    def panel(self, frequency: Any, calendar: Any = None) -> Panel:
        from kforecast.data.panel import Panel
        from kforecast.data.reading import read_panel

        if self.frame is not None:
            return Panel.from_frame(self.frame, frequency, calendar)
        return read_panel(self._source, frequency, calendar)


def _models_and_load(
    predictors: list[tuple[str, Predictor]], history: _History, checked: Checked, notes: list[str]
) -> tuple[list[Model], Load]:
    """The artifacts with their panels, and the load, all of the same series."""
    from kforecast.data.findings import refuse_coarse
    from kforecast.replay.study import Model
    from kforecast.simulation.load import Load, held, step_of
    from kforecast.window import Frequency

    log.info("Reading %s", checked.source)
    panels = []
    for name, predictor in predictors:
        panel = history.panel(predictor.window.frequency, predictor.bin_calendar)
        refuse_coarse(panel, name)
        panels.append(panel)
    unknown = {
        pair for panel, (_, one) in zip(panels, predictors, strict=True) for pair in one.unknown(panel.series)
    }
    kept = [pair for pair in panels[0].series if pair not in unknown]
    if not kept:
        names = few([" ".join(pair) for pair in sorted(unknown)])
        raise DataError(f"none of the series is in every artifact: {names}")
    if unknown:
        log.warning(
            "%d series are not in every artifact: %s",
            len(unknown),
            few([" ".join(one) for one in sorted(unknown)]),
        )

    def rows(panel: Panel) -> Panel:
        number = {pair: row for row, pair in enumerate(panel.series)}
        return panel.rows(sorted(number[pair] for pair in kept))

    models = [
        Model(name, predictor, rows(panel))
        for (name, predictor), panel in zip(predictors, panels, strict=True)
    ]
    finest = min((panel for panel in panels), key=lambda panel: panel.frequency.step)
    width = _width(finest)
    fine = rows(history.panel(Frequency.parse(f"{width}s")))
    try:
        step_of(width)
    except ValueError as error:
        raise DataError(str(error)) from error
    if fine.series != models[0].panel.series:
        raise DataError("the series of the history differ between bins; check their newest rows")
    values = held(fine.values, fine.observed)
    if (values < 0).any():
        notes.append("Some load is below 0 and counts as 0; is this traffic?")
        values = np.maximum(values, 0)
    return models, Load(
        values,
        fine.observed,
        fine.start,
        width,
        checked.chosen.variability,
        checked.settings.seed,
        np.arange(len(values)),
    )


def _width(panel: Panel) -> int:
    """Seconds per bin of the load: as fine as the usual step of the rows."""
    step = panel.frequency.step
    usual = step if panel.measures is None else int(np.median(panel.measures["step"]))
    fitting = [width for width in _WIDTHS if width >= usual and step % width == 0]
    return min(fitting, default=step)


def _bounds(models: list[Model], load: Load, chosen: ReplaySection) -> tuple[int, int, int]:
    """Unix seconds at which the older part begins, the newest part begins, and it ends."""
    from kforecast.metrics.timerange import utc

    widest = max(model.panel.frequency.step for model in models)
    last = min(model.panel.seconds(model.panel.num_bins) for model in models)
    last = min(last, load.start + load.values.shape[1] * load.width)
    first = max(model.panel.start for model in models)
    used = [model.predictor.artifact.training_span[1] for model in models if model.predictor.artifact]
    known = [moment for moment in used if moment is not None]
    begin = chosen.start
    named = "replay.start" if begin is not None else "the end of the data used by training"
    if begin is None:
        begin = max(known) if known else first + round((1 - _SHARE) * (last - first))
    end = last if chosen.end is None else min(last, chosen.end + widest)
    begin = -(-max(begin, first) // widest) * widest
    end = end // widest * widest
    if end - begin < 2 * _DAY:
        raise DataError(
            f"nothing to replay: from {named}, {utc(begin)}, to {utc(end)} are less than two days, one to "
            f"choose a setting on and one to show it on; the history reaches from {utc(first)} to "
            f"{utc(last)}; give newer history, or an earlier replay.start"
        )
    middle = begin + round((1 - chosen.newest) * (end - begin))
    # Whole days are compared; each part keeps at least one.
    middle = min(max(round(middle / _DAY) * _DAY, begin + _DAY), end - _DAY)
    return begin, middle // widest * widest, end


def _with_intervals(model: Model, begin: int, notes: list[str]) -> Model:
    """The model with intervals; without its own they are calibrated on the history before the span."""
    from dataclasses import replace

    if model.predictor.intervals is not None:
        used = None if model.predictor.artifact is None else model.predictor.artifact.training_span[1]
        if used is None:
            notes.append(
                f"{model.name}: its training data is not known; if it includes the replayed span, the replay "
                "flatters it."
            )
        elif used > begin:
            notes.append(
                f"{model.name}: a part of the replayed span was used in training, which flatters it."
            )
        return model
    stop = model.panel.bin_at(begin)
    before = max(0, stop - round(_SHARE * model.panel.num_bins))
    calibrated = model.predictor.calibrated(model.panel, before, stop)
    if calibrated.intervals is None:
        notes.append(
            f"{model.name}: no intervals, and the history before the span is too short to calibrate them "
            "on, so only its point forecast is tried."
        )
    return replace(model, predictor=calibrated)


@dataclass(frozen=True)
class _Sizes:
    """The capacity of a pod and the autoscaler's target, by service."""

    capacity: np.ndarray
    share: np.ndarray
    kind: Kind
    metric: str
    units: np.ndarray
    targets: np.ndarray | None


def _sizes(
    checked: Checked, model: Model, load: Load, begin: int, history: _History, notes: list[str]
) -> _Sizes:
    """What a pod serves at most and at the autoscaler's target, by service."""
    chosen, given = checked.chosen, checked.capacity.per_replica
    metric = _metric(checked.policy, notes)
    kind: Kind = "value_per_pod_total" if chosen.metric == "traffic" else "utilization"
    share, target, name = chosen.target_share, None, "load"
    if metric is not None:
        kind, name = metric.kind, metric.name
        if kind == "utilization":
            share = metric.target / 100
        elif metric.name not in _RESOURCES:
            target = metric.target
    count = len(load.values)
    if target is not None:
        capacity = target / share if given is None else given
        if target >= capacity:
            raise ConfigError(
                f"policy: the target, {target:g} of {name}, is not below what one "
                f"pod serves at most, capacity.per_replica={capacity:g}; the autoscaler would "
                "always be too late"
            )
        if given is None:
            notes.append(
                f"A pod is taken to serve at most {capacity:g}, so that it is used to {share:.0%} at the "
                f"target, {target:g}; set capacity.per_replica or replay.target_share."
            )
        each = np.full(count, capacity)
        return _Sizes(each, np.full(count, target / capacity), kind, name, each, np.full(count, target))
    if chosen.learn.replicas is not None:
        at_target = _learned(checked, model, history)
        each = at_target / share
        own = _own(kind, share, at_target)
        return _Sizes(each, np.full(count, share), kind, name, np.full(count, _UNIT), own)
    if given is not None:
        each = np.full(count, given)
    else:
        each = _by_mean(checked.capacity, load, begin)
        notes.append(
            f"The capacity of a pod is not known: {checked.capacity.mean_replicas:g} fully used pods are "
            "taken to serve each service's mean load; set capacity.per_replica, replay.learn.replicas or "
            "policy.manifest."
        )
    own = _own(kind, share, each * share)
    return _Sizes(each, np.full(count, share), kind, name, np.full(count, _UNIT), own)


def _own(kind: Kind, share: float, at_target: np.ndarray) -> np.ndarray | None:
    """The autoscaler's own target: percent, or the load per pod."""
    return np.full(len(at_target), 100 * share) if kind == "utilization" else at_target


def _metric(policy: Policy, notes: list[str]) -> Metric | None:
    """The metric that the replay stands for; None if the policy has none."""
    metrics = list(getattr(policy, "metrics", getattr(policy, "triggers", [])))
    if not metrics:
        return None
    usable = [metric for metric in metrics if metric.kind != "value"]
    if not usable:
        raise ConfigError(
            f"policy: {metrics[0].name} is compared with a value as it is, and nothing in a history of "
            "traffic says how it would follow the replicas; replay a metric with averageValue or "
            "averageUtilization"
        )
    if len(metrics) > 1:
        notes.append(
            f"The policy has {len(metrics)} metrics; {usable[0].name} is replayed, the others are not: "
            f"{few([metric.name for metric in metrics if metric is not usable[0]])}."
        )
    found: Metric = usable[0]
    return found


def _by_mean(capacity: Capacity, load: Load, begin: int) -> np.ndarray:
    """Load that one pod serves, from the mean load before the span, float64 ``[series]``."""
    from kforecast.simulation.capacity import per_replica

    stop = max(1, (begin - load.start) // load.width)

    def mean(part: slice) -> np.ndarray:
        known = load.observed[:, part]
        total = np.where(known, load.values[:, part], 0).sum(axis=1, dtype=np.float64)
        found: np.ndarray = total / np.maximum(known.sum(axis=1), 1)
        return found

    before = mean(slice(stop))
    each: np.ndarray = per_replica(capacity, np.where(before > 0, before, mean(slice(stop, None))))
    return each


def _learned(checked: Checked, model: Model, history: _History) -> np.ndarray:
    """Load per replica at the target, learned for each service, float64 ``[series]``."""
    from kforecast.replay.capacity import Teaching, learned

    learn = checked.chosen.learn
    assert learn.replicas is not None
    assert history.frame is not None
    frame = history.frame
    teaching = Teaching(learn.replicas, learn.resource, learn.target)
    groups = dict(iter(frame.groupby("workload", observed=True)))
    found = []
    for workload, metric in model.panel.series:
        one = learned(groups[workload], metric, teaching, f"{workload} {metric}", checked.settings.seed)
        log.info(
            "%s %s: %.4g per replica at the target (95 %% interval %.4g to %.4g, %s moments)",
            workload, metric, one.value, one.low, one.high, f"{one.moments:,}",
        )  # fmt: skip
        found.append(one.value)
    return np.array(found)


def _questions(
    chosen: ReplaySection, models: list[Model], service: Any, policy: Policy, notes: list[str]
) -> list[Any]:
    """Quantiles and windows to try."""
    from kforecast.simulation.forecasts import Question
    from kforecast.simulation.simulation import lead

    windows_of = [model.predictor.window for model in models]
    horizon = min(window.prediction_length * window.frequency.step for window in windows_of)
    ahead = lead(service, policy)
    if ahead > horizon:
        notes.append(
            f"The forecast reaches {horizon:,} s, less than the {ahead:,} s until pods serve "
            "(capacity.lead_time): it cannot be early enough."
        )
    windows = chosen.windows if chosen.windows is not None else [ahead, 2 * ahead, horizon]
    too_far = [window for window in chosen.windows or () if window > horizon]
    if too_far:
        raise ConfigError(
            f"replay.windows: {too_far[0]} is beyond the horizon of the artifact, {horizon} seconds"
        )
    windows = list(dict.fromkeys(min(window, horizon) for window in windows))
    sure = all(model.predictor.intervals is not None for model in models)
    levels: list[float | None] = [*chosen.quantiles] if sure else [None]
    return [Question(level, window) for level in levels for window in windows]


if __name__ == "__main__":
    main()
