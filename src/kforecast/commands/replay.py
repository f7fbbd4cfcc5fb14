"""``kforecast-replay``: recorded traffic under a real autoscaler's policy, with and without forecasts."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from kforecast.commands.run import run
from kforecast.commands.zero_shot import PRETRAINED
from kforecast.config.checks import built, check_step, events_of, plain, source_of
from kforecast.config.settings import EventsSection, Instant
from kforecast.console import short_path
from kforecast.errors import ConfigError
from kforecast.intervals import check_levels
from kforecast.validation import validate

if TYPE_CHECKING:
    from kforecast.autoscaling.kapacity import KapacityPolicy
    from kforecast.autoscaling.policy import Policy
    from kforecast.data.events.known import KnownEvents
    from kforecast.metrics.source import MetricSource
    from kforecast.predictor import Predictor
    from kforecast.replay.assembly import Assembled, Wishes
    from kforecast.simulation.capacity import Capacity

log = logging.getLogger(__name__)

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


def _unserved(value: Any) -> Any:
    if value is None or value == "today":
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and 0 <= value <= 1:
        return float(value)
    raise ValueError("give a share of the load from 0 to 1, today, or null")


Share = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, BeforeValidator(_float_or_none), Field(ge=0.5, le=3)]
Seconds = Annotated[int, Field(ge=0, le=7200)]


class LearnSection(BaseModel):
    """``replay.learn``: what the load per replica is learned from."""

    model_config = ConfigDict(extra="forbid", strict=True)

    replicas: Annotated[str, Field(min_length=1)] | None
    resource: Annotated[str, Field(min_length=1)] | None
    target: Annotated[float, BeforeValidator(_float_or_none), Field(gt=0)] | None


class TriggersSection(BaseModel):
    """``replay.triggers``: names of the triggers of a formula."""

    model_config = ConfigDict(extra="forbid", strict=True)

    traffic: Annotated[str, Field(min_length=1)] | None
    forecast: Annotated[str, Field(min_length=1)] | None


class ReplaySection(BaseModel):
    """``replay``: span, services, and the settings that are tried."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    start: Instant
    end: Instant
    newest: Annotated[float, Field(gt=0, lt=1)]
    metric: Literal["traffic", "utilization"]
    target_share: Annotated[float, Field(gt=0, le=1)]
    learn: LearnSection
    triggers: TriggersSection
    requests: dict[str, Annotated[float, BeforeValidator(_float_or_none), Field(gt=0)]] | None
    start_spread: Annotated[float, BeforeValidator(_float_or_none), Field(ge=0, le=2)]
    drain: Seconds
    unserved: Literal["drop", "queue"]
    queue_seconds: Seconds
    busy: Annotated[float, Field(gt=0, le=1)]
    delay: Annotated[int, Field(ge=0, le=3600)]
    average: Annotated[int, Field(ge=1, le=3600)]
    settle: Seconds
    guard: bool
    variability: Annotated[float, BeforeValidator(_float_or_none), Field(ge=0, le=2)]
    quantiles: Annotated[list[float], BeforeValidator(check_levels), Field(min_length=1, max_length=20)]
    windows: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=10)] | None
    targets: Annotated[list[Factor], Field(min_length=1, max_length=10)]
    floors: Annotated[list[Share | None], Field(min_length=1, max_length=10)]
    max_unserved: Annotated[float | Literal["today"] | None, BeforeValidator(_unserved)]
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

    made = plan_of(checked, run_dir)
    plan, targets, notes = made.plan, made.targets, made.notes
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
            known = (
                "; write the weights of the package into one with kforecast-train model=pretrained "
                "trainer.max_epochs=0 artifact_dir=..."
            )
            raise ConfigError(f"artifact_dir: {name}: no such directory{known if name == PRETRAINED else ''}")
    source = source_of(cfg)
    return Checked(
        settings, capacity, _policy(cfg, chosen.triggers), source, events_of(settings.data.events, source)
    )


def _policy(cfg: DictConfig, triggers: TriggersSection) -> Policy:
    """The policy, as far as a replay can stand for it.

    Raises
    ------
    ConfigError
        When a formula combines triggers, and which of them is the forecast cannot be told.
    """
    from kforecast.replay.others import roles_of

    policy: Any = built(cfg.policy, "policy")
    found: Policy = _with_portraits(policy) if hasattr(policy, "portraits") else policy
    roles_of(found, triggers.traffic, triggers.forecast)
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


def plan_of(checked: Checked, run_dir: Path) -> Assembled:
    """What is replayed, and what had to be assumed."""
    from kforecast.replay.assembly import assembled

    return assembled(_wishes(checked), _predictors(checked), checked.source, run_dir)


def _wishes(checked: Checked) -> Wishes:
    from kforecast.replay.assembly import Span, Trials, Wishes
    from kforecast.replay.capacity import Teaching
    from kforecast.replay.recommend import Aim
    from kforecast.replay.sizes import Sizing
    from kforecast.simulation.outcomes import Prices
    from kforecast.simulation.service import Service
    from kforecast.simulation.simulation import Signal

    chosen, capacity, learn = checked.chosen, checked.capacity, checked.chosen.learn
    teaching = None if learn.replicas is None else Teaching(learn.replicas, learn.resource, learn.target)
    return Wishes(
        policy=checked.policy,
        service=Service(
            start=capacity.lead_time,
            start_spread=chosen.start_spread,
            drain=chosen.drain,
            unserved=chosen.unserved,
            queue_seconds=chosen.queue_seconds,
            busy=chosen.busy,
        ),
        signal=Signal(delay=chosen.delay, window=chosen.average),
        prices=Prices(capacity.cost_under, capacity.cost_over),
        span=Span(chosen.start, chosen.end, chosen.newest),
        sizing=Sizing(capacity, chosen.metric, chosen.target_share, teaching, chosen.requests or {}),
        trials=Trials(chosen.quantiles, chosen.windows, chosen.targets, chosen.floors),
        aim=Aim(chosen.max_unserved, chosen.max_replica_hours),
        settle=chosen.settle,
        variability=chosen.variability,
        seed=checked.settings.seed,
        processes=chosen.processes or len(os.sched_getaffinity(0)),
        guard=chosen.guard,
        traffic=chosen.triggers.traffic,
        forecast=chosen.triggers.forecast,
    )


def _predictors(checked: Checked) -> list[tuple[str, Predictor]]:
    from kforecast.forecaster import Forecaster

    found = [(short_path(Path(name)), Forecaster.load(name)) for name in checked.settings.artifact_dir]
    for _, forecaster in found:
        check_step(checked.source, forecaster.window)
    return [(name, forecaster.knowing(checked.events)) for name, forecaster in found]


if __name__ == "__main__":
    main()
