"""KEDA's ScaledObject, over many services at once: from and to zero by KEDA, between by an autoscaler.

From KEDA 2.20 (``scale_scaledobjects.go``, ``fallback.go``, ``formula.go``): activation, cooldown, fallback
and formulas. KEDA passes the metrics on to a horizontal pod autoscaler whose least number of replicas is 1,
or ``min_replicas`` if that is more. Failures are counted at each query of that autoscaler.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from kforecast.autoscaling.behavior import Behavior
from kforecast.autoscaling.formula import Formula
from kforecast.autoscaling.hpa import HpaPolicy, HpaState, Metric
from kforecast.autoscaling.manifest import KEDA, from_manifest
from kforecast.autoscaling.policy import MOST_REPLICAS, Pods, Reading

_CONFIG = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
# Triggers of these kinds (CPU, memory) are the autoscaler's own: they neither activate nor fail for KEDA.
_RESOURCES = ("utilization", "value_per_pod")
_COMPOSITE = "composite-metric"


class Trigger(Metric):
    """A trigger of a ScaledObject."""

    activation: float = 0.0
    """A value above it activates: from zero, and not to zero."""
    forecast: bool = False
    """Whether it reads forecasts of kforecast; in a manifest, because its metadata names kforecast."""


class Fallback(BaseModel):
    """``spec.fallback``, in KEDA's names."""

    model_config = _CONFIG

    failureThreshold: Annotated[int, Field(ge=0)]  # noqa: N815
    replicas: Annotated[int, Field(ge=0, le=MOST_REPLICAS)]
    behavior: Literal[
        "static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower", "scalingModifiers"
    ] = "static"


def _understood(formula: str) -> str:
    Formula(formula)
    return formula


class Modifiers(BaseModel):
    """``spec.advanced.scalingModifiers``: one metric from those of the triggers."""

    model_config = _CONFIG

    formula: Annotated[str, AfterValidator(_understood)]
    target: Annotated[float, Field(gt=0)]
    activation: float = 0.0
    kind: Literal["value_per_pod_total", "value"] = "value_per_pod_total"


@dataclass(slots=True)
class KedaState:
    """What KEDA and its autoscaler remember of each lane.

    Attributes
    ----------
    failures:
        Queries of each trigger that have failed in a row, int64 ``[lanes]``.
    last_active:
        Second of the newest activity; NaN for none.
    begun, next_poll:
        Second of the first decision, and of the next look at the triggers; None before the first.
    """

    hpa: HpaState
    last_active: np.ndarray
    failures: dict[str, np.ndarray] = field(default_factory=dict)
    begun: int | None = None
    next_poll: int = 0


class KedaPolicy(BaseModel):
    """A ScaledObject and the autoscaler behind it.

    The defaults are KEDA's. Readings are matched with triggers by name.
    """

    model_config = _CONFIG

    min_replicas: Annotated[int, Field(ge=0)] = 0
    """``minReplicaCount``."""
    max_replicas: Annotated[int, Field(ge=1, le=MOST_REPLICAS)] = 100
    """``maxReplicaCount``."""
    idle_replicas: Literal[0] | None = None
    """``idleReplicaCount``; KEDA knows 0 alone."""
    polling_interval: Annotated[int, Field(ge=1, le=3600)] = 30
    """Seconds between two looks at the triggers, rounded up to decisions of the autoscaler."""
    cooldown_period: Annotated[int, Field(ge=0)] = 300
    """Seconds without activity before a service goes to zero or idle."""
    initial_cooldown_period: Annotated[int, Field(ge=0)] = 0
    """The same for services that have not been active yet, from the first decision."""
    triggers: list[Trigger] = []
    """The triggers; none if the caller chooses them, with the activation value 0."""
    modifiers: Modifiers | None = None
    """``scalingModifiers`` with a formula over the names of the triggers."""
    fallback: Fallback | None = None
    """``fallback``: replicas for triggers that fail."""
    behavior: Behavior | None = None
    """Rules of the autoscaler, in Kubernetes' names."""
    tolerance: Annotated[float, Field(ge=0)] = 0.1
    """As in ``policy=hpa``."""
    downscale_stabilization: Annotated[int, Field(ge=0, le=3600)] = 300
    """As in ``policy=hpa``."""
    interval: Annotated[int, Field(ge=1, le=3600)] = 15
    """Seconds between decisions of the autoscaler."""
    manifest: str | None = None
    """File with a ScaledObject; keys that are given count in its place."""

    _hpa: HpaPolicy = PrivateAttr()
    _formula: Formula | None = PrivateAttr()

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        return from_manifest(given, KEDA)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        names = [trigger.name for trigger in self.triggers]
        if self.max_replicas < max(self.min_replicas, 1):
            raise ValueError(
                f"max_replicas ({self.max_replicas}) is less than min_replicas ({self.min_replicas})"
            )
        if self.idle_replicas is not None and self.min_replicas == 0:
            raise ValueError("idle_replicas (0) must be less than min_replicas (0)")
        if len({*names}) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"triggers: the name {twice[0]} appears twice")
        if self.fallback is not None and self.fallback.behavior == "scalingModifiers" and not self.modifiers:
            raise ValueError("fallback.behavior: scalingModifiers needs a formula (modifiers.formula)")
        self._formula = None
        if self.modifiers is not None:
            self._formula = Formula(self.modifiers.formula)
            if names and (unknown := sorted(self._formula.names - {*names})):
                raise ValueError(
                    f"modifiers.formula: there is no trigger {unknown[0]}; known: {', '.join(names)}"
                )
        self._hpa = HpaPolicy(
            min_replicas=max(self.min_replicas, 1),
            max_replicas=self.max_replicas,
            behavior=self.behavior,
            tolerance=self.tolerance,
            downscale_stabilization=self.downscale_stabilization,
            interval=self.interval,
        )
        return self

    def begin(self, replicas: np.ndarray, least: np.ndarray | None = None) -> KedaState:
        """The state before the first decision; see :class:`~kforecast.autoscaling.policy.Policy`."""
        lowest = None if least is None else np.maximum(least, 1)
        return KedaState(self._hpa.begin(replicas, lowest), np.full(len(replicas), np.nan))

    def decide(self, state: KedaState, second: int, pods: Pods, readings: Sequence[Reading]) -> np.ndarray:
        """The replicas to order now; see :class:`~kforecast.autoscaling.policy.Policy`."""
        if state.begun is None:
            state.begun = state.next_poll = second
        external = [reading for reading in readings if reading.kind not in _RESOURCES]
        for reading in external:
            before = state.failures.get(reading.name, 0)
            state.failures[reading.name] = np.where(np.isfinite(reading.value), 0, before + 1)
        composite = self._composite(state, pods, external)
        passed = [reading for reading in readings if reading.kind in _RESOURCES]
        if composite is None:
            passed += [self._with_fallback(state, pods, reading, reading.value) for reading in external]
        else:
            passed.append(composite)
        ordered = self._hpa.decide(state.hpa, second, pods, passed)
        if second >= state.next_poll:
            state.next_poll += self.polling_interval * (
                (second - state.next_poll) // self.polling_interval + 1
            )
            self._switch(state, second, pods.spec, ordered, self._activity(external, composite))
        return ordered

    def _composite(self, state: KedaState, pods: Pods, external: list[Reading]) -> Reading | None:
        """The reading that a formula makes of the triggers."""
        if self.modifiers is None or self._formula is None:
            return None
        values = {reading.name: reading.value.astype(np.float64) for reading in external}
        if missing := self._formula.names - {*values}:
            raise ValueError(f"modifiers.formula: no reading is named {sorted(missing)[0]}")
        found = self._formula({name: np.where(np.isfinite(one), one, np.nan) for name, one in values.items()})
        # Without the behaviour of that name, one trigger that fails makes the whole fail. With it, a trigger
        # is nil as soon as it has failed often enough.
        for reading in external:
            waits = ~np.isfinite(reading.value)
            if self.fallback is not None and self.fallback.behavior == "scalingModifiers":
                waits &= state.failures[reading.name] <= self.fallback.failureThreshold
            found = np.where(waits, np.nan, found)
        composite = Reading(found, self.modifiers.kind, self.modifiers.target, name=_COMPOSITE)
        for reading in external:
            composite = self._with_fallback(state, pods, composite, reading.value, reading.name)
        return composite

    def _with_fallback(
        self, state: KedaState, pods: Pods, reading: Reading, value: np.ndarray, name: str | None = None
    ) -> Reading:
        """The reading with a value that stands for the replicas of the fallback, where a trigger failed."""
        fallback = self.fallback
        if fallback is None or fallback.behavior == "scalingModifiers":
            return reading
        failed = ~np.isfinite(value) & (state.failures[name or reading.name] > fallback.failureThreshold)
        if not failed.any():
            return reading
        replicas = np.full(len(value), float(fallback.replicas))
        if fallback.behavior == "currentReplicas":
            replicas = pods.spec.astype(np.float64)
        elif fallback.behavior == "currentReplicasIfHigher":
            replicas = np.maximum(replicas, pods.spec)
        elif fallback.behavior == "currentReplicasIfLower":
            replicas = np.minimum(replicas, pods.spec)
        if reading.kind == "value":
            with np.errstate(divide="ignore", invalid="ignore"):
                replicas = np.where(pods.ready > 0, replicas / pods.ready, np.nan)
        return replace(reading, value=np.where(failed, replicas * reading.target, reading.value))

    def _activity(
        self, external: list[Reading], composite: Reading | None
    ) -> tuple[np.ndarray | bool, np.ndarray | bool]:
        """Whether a trigger is active, and whether one fails, bool ``[lanes]``."""
        fails = np.any([~np.isfinite(one.value) for one in external], axis=0) if external else False
        if composite is not None and self.modifiers is not None:
            usable = np.isfinite(composite.value)
            return usable & (np.where(usable, composite.value, 0.0) > self.modifiers.activation), fails
        levels = {trigger.name: trigger.activation for trigger in self.triggers}
        active = [
            np.where(np.isfinite(one.value), one.value, -np.inf) > levels.get(one.name, 0.0)
            for one in external
        ]
        return (np.any(active, axis=0) if active else False), fails

    def _switch(
        self,
        state: KedaState,
        second: int,
        spec: np.ndarray,
        ordered: np.ndarray,
        activity: tuple[np.ndarray | bool, np.ndarray | bool],
    ) -> None:
        """From and to zero or idle, in place of the autoscaler's order."""
        active, fails = (np.broadcast_to(one, spec.shape) for one in activity)
        least = state.hpa.least.astype(np.int64)
        off = spec == 0
        if self.idle_replicas is not None:
            off = off | (spec < least)
        wakes = active & off
        ordered[wakes] = least[wakes]
        state.last_active = np.where(active & (wakes | ~fails), float(second), state.last_active)
        # A trigger that fails says nothing about activity, unless the fallback asks for no replicas.
        held = fails if self.fallback is None or self.fallback.replicas > 0 else np.zeros_like(fails)
        if self.idle_replicas is not None or self.min_replicas == 0:
            begun = float(state.begun or 0)
            never = np.isnan(state.last_active) & (second - begun >= self.initial_cooldown_period)
            cold = never | (second - state.last_active >= self.cooldown_period)
            sleeps = ~active & ~held & (spec > 0) & cold
            ordered[sleeps] = 0
        if self.idle_replicas is None:
            low = ~active & ~held & (spec < self.min_replicas)
            ordered[low] = self.min_replicas
