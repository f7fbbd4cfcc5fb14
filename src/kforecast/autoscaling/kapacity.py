"""Kapacity's IntelligentHorizontalPodAutoscaler (IHPA), over many services at once.

From ``intelligenthorizontalpodautoscaler_controller.go`` and the types ``v1alpha1`` of Kapacity: portraits
with priorities, limits, and gray changes. The portrait of the highest priority that has a value counts; of
equal ones, the one with more replicas. Gray changes are its stabilisation: it has no windows of its own.
From contract 7: the newest point of a series at or before now counts until the next one, 0 replicas are no
value, and without a value nothing changes. A reactive portrait is Kubernetes' arithmetic of metrics without
windows, as Kapacity's algorithm KubeHPA computes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from kforecast.autoscaling.hpa import HpaPolicy, Metric
from kforecast.autoscaling.manifest import KAPACITY, from_manifest
from kforecast.autoscaling.policy import MOST_REPLICAS, Pods, Reading

_CONFIG = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


@dataclass(frozen=True)
class TimeSeries:
    """Replicas over time, as a predictive portrait holds them.

    Attributes
    ----------
    moments:
        Seconds, int64 ``[points]``, ascending; each point counts until the next one.
    replicas:
        float64 ``[lanes, points]``.
    end:
        The second at which the last point expires; None for never.
    """

    moments: np.ndarray
    replicas: np.ndarray
    end: int | None = None

    def at(self, second: int) -> np.ndarray:
        """Replicas at a second, float64 ``[lanes]``; NaN before the first point, after the end, and for 0."""
        point = int(np.searchsorted(self.moments, second, side="right")) - 1
        if point < 0 or (self.end is not None and second >= self.end):
            return np.full(len(self.replicas), np.nan)
        found = self.replicas[:, point].astype(np.float64)
        return np.where(found > 0, found, np.nan)


class Portrait(BaseModel):
    """One of ``spec.portraitProviders``."""

    model_config = _CONFIG

    type: Literal["Predictive", "Reactive", "Static"]
    priority: int = 0
    replicas: Annotated[int, Field(ge=0, le=MOST_REPLICAS)] | None = None
    """Of a static portrait."""

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Self:
        if (self.type == "Static") != (self.replicas is not None):
            raise ValueError("replicas belong to a Static portrait, and only there")
        return self


class Gray(BaseModel):
    """``grayStrategy``: a change of replicas in steps, in Kapacity's names."""

    model_config = _CONFIG

    changeIntervalSeconds: Annotated[int, Field(ge=1)]  # noqa: N815
    changePercent: Annotated[int, Field(ge=1, le=100)]  # noqa: N815


@dataclass(slots=True)
class KapacityState:
    """What the controller remembers, each float64 ``[lanes]``.

    Attributes
    ----------
    least, most:
        Limits of an order.
    previous, current:
        The portrait values before and after the newest change; NaN for none.
    percent:
        How much of the change is made.
    changed:
        Second of the newest step.
    """

    least: np.ndarray
    most: np.ndarray
    previous: np.ndarray
    current: np.ndarray
    percent: np.ndarray
    changed: np.ndarray


class KapacityPolicy(BaseModel):
    """An IHPA.

    Readings of kind ``replicas`` are its predictive portrait, all others its reactive one.
    """

    model_config = _CONFIG

    min_replicas: Annotated[int, Field(ge=0)] = 1
    """Lower limit of an order."""
    max_replicas: Annotated[int, Field(ge=1, le=MOST_REPLICAS)] = 100
    """Upper limit of an order."""
    portraits: Annotated[list[Portrait], Field(min_length=1)] = [
        Portrait(type="Predictive", priority=1),
        Portrait(type="Reactive", priority=0),
    ]
    """Where replicas come from; one of each type at most."""
    metrics: list[Metric] = []
    """Metrics of the reactive portrait; none if the caller chooses them."""
    scale_up: Gray | None = None
    """``behavior.scaleUp.grayStrategy``; None to change at once."""
    scale_down: Gray | None = None
    """``behavior.scaleDown.grayStrategy``; None to change at once."""
    tolerance: Annotated[float, Field(ge=0)] = 0.1
    """Of the reactive portrait (``algorithm.kubeHPA.tolerance``)."""
    interval: Annotated[int, Field(ge=1, le=3600)] = 15
    """Seconds between decisions (``algorithm.kubeHPA.syncPeriod``)."""
    manifest: str | None = None
    """File with an IHPA; keys that are given count in its place."""

    _hpa: HpaPolicy = PrivateAttr()

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        return from_manifest(given, KAPACITY)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(
                f"max_replicas ({self.max_replicas}) is less than min_replicas ({self.min_replicas})"
            )
        types = [portrait.type for portrait in self.portraits]
        for kind in {*types}:
            if types.count(kind) > 1:
                raise ValueError(f"portraits: {kind} appears twice")
        self._hpa = HpaPolicy(tolerance=self.tolerance, interval=self.interval)
        return self

    def begin(self, replicas: np.ndarray, least: np.ndarray | None = None) -> KapacityState:
        """The state before the first decision; see :class:`~kforecast.autoscaling.policy.Policy`."""
        lanes = len(replicas)
        lowest = np.full(lanes, self.min_replicas) if least is None else least
        none = np.full(lanes, np.nan)
        return KapacityState(
            least=np.minimum(lowest, self.max_replicas).astype(np.float64),
            most=np.full(lanes, float(self.max_replicas)),
            previous=none.copy(),
            current=none.copy(),
            percent=np.zeros(lanes),
            changed=none.copy(),
        )

    def decide(
        self, state: KapacityState, second: int, pods: Pods, readings: Sequence[Reading]
    ) -> np.ndarray:
        """The replicas to order now; see :class:`~kforecast.autoscaling.policy.Policy`."""
        value = self._value(pods, readings)
        differs = np.isfinite(value) & (value != state.current)
        state.previous = np.where(differs, state.current, state.previous)
        state.current = np.where(differs, value, state.current)
        state.percent = np.where(differs, 0.0, state.percent)
        state.changed = np.where(differs, float(second), state.changed)
        wanted = self._in_steps(state, second)
        ordered = np.where(np.isfinite(value), wanted, pods.spec)
        return ordered.astype(np.int64)

    def _value(self, pods: Pods, readings: Sequence[Reading]) -> np.ndarray:
        """The replicas of the portrait that counts, float64 ``[lanes]``; NaN for none."""
        lanes = len(pods.spec)
        found: dict[str, np.ndarray] = {}
        predicted = [reading.value for reading in readings if reading.kind == "replicas"]
        if predicted:
            whole = [np.where(np.isfinite(one) & (one > 0), np.ceil(one), -np.inf) for one in predicted]
            found["Predictive"] = np.max(whole, axis=0)
        reactive = [reading for reading in readings if reading.kind != "replicas"]
        if reactive:
            found["Reactive"] = self._hpa.recommendation(pods, reactive)
        best, rank = np.full(lanes, -np.inf), np.full(lanes, -np.inf)
        for portrait in self.portraits:
            if portrait.replicas is not None:
                one = np.full(lanes, float(portrait.replicas))
            else:
                one = found.get(portrait.type, np.full(lanes, -np.inf))
            wins = np.isfinite(one) & (
                (portrait.priority > rank) | ((portrait.priority == rank) & (one > best))
            )
            best, rank = np.where(wins, one, best), np.where(wins, float(portrait.priority), rank)
        return np.where(np.isfinite(best), best, np.nan)

    def _in_steps(self, state: KapacityState, second: int) -> np.ndarray:
        """Replicas of the current value, as far as a gray change has come; advances the change."""
        target = np.minimum(np.maximum(state.current, state.least), state.most)
        before = np.minimum(np.maximum(state.previous, state.least), state.most)
        for gray, moves in ((self.scale_up, target > before), (self.scale_down, target < before)):
            if gray is None:
                continue
            due = (state.percent == 0) | (second - state.changed >= gray.changeIntervalSeconds)
            steps = moves & (state.percent < 100) & due
            state.percent = np.where(
                steps, np.minimum(100.0, state.percent + gray.changePercent), state.percent
            )
            state.changed = np.where(steps, float(second), state.changed)
            part = np.maximum(1.0, np.floor(np.abs(target - before) * state.percent / 100))
            sign = np.where(target > before, 1.0, -1.0)
            target = np.where(moves & (state.percent < 100), before + sign * part, target)
        return np.asarray(target)
