"""The horizontal pod autoscaler of Kubernetes (``autoscaling/v2``), over many services at once.

The arithmetic is that of ``horizontal.go`` and ``replica_calculator.go`` in Kubernetes 1.33 and later. Two
things differ from a cluster. Time is exact: decisions are ``interval`` seconds apart, while a controller
takes a little longer; so a recommendation or change exactly as old as its window no longer counts here. And
a reading is one number for each service, so all pods of a service have the same request.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from kforecast.autoscaling.behavior import Behavior, Rules
from kforecast.autoscaling.calculator import UNKNOWN, Band, Counts, wanted
from kforecast.autoscaling.manifest import HPA, from_manifest
from kforecast.autoscaling.policy import MOST_REPLICAS, Kind, Pods, Reading
from kforecast.autoscaling.stabilisation import Changes, Extreme


class Metric(BaseModel):
    """A metric that an autoscaler reads.

    Attributes
    ----------
    name:
        Name of the resource or metric, or of KEDA's trigger.
    kind:
        As in :class:`~kforecast.autoscaling.policy.Reading`.
    target:
        In the units of the metric; in percent for ``utilization``.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    name: Annotated[str, Field(min_length=1)]
    kind: Kind
    target: Annotated[float, Field(gt=0)]


@dataclass(slots=True)
class HpaState:
    """What the controller remembers of each lane.

    Attributes
    ----------
    least, most:
        Limits of an order, float64 ``[lanes]``.
    highest, lowest:
        Recommendations of the windows down and up; None for a window without earlier ones.
    ups, downs:
        Changes made; None if no policy looks back further than one decision.
    """

    least: np.ndarray
    most: np.ndarray
    highest: Extreme | None
    lowest: Extreme | None
    ups: Changes | None
    downs: Changes | None
    first: bool = True


class HpaPolicy(BaseModel):
    """A HorizontalPodAutoscaler and the flags of its controller.

    The defaults are Kubernetes'; it has none for ``max_replicas``.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    min_replicas: Annotated[int, Field(ge=0)] = 1
    """Lower limit of an order; 0 needs the feature gate HPAScaleToZero."""
    max_replicas: Annotated[int, Field(ge=1, le=MOST_REPLICAS)] = 100
    """Upper limit of an order."""
    metrics: list[Metric] = []
    """The metrics it reads; none if the caller chooses them."""
    behavior: Behavior | None = None
    """``spec.behavior``; without it an order is at most the larger of 4 and twice the replicas."""
    tolerance: Annotated[float, Field(ge=0)] = 0.1
    """``--horizontal-pod-autoscaler-tolerance``, where ``behavior`` has none."""
    downscale_stabilization: Annotated[int, Field(ge=0, le=3600)] = 300
    """``--horizontal-pod-autoscaler-downscale-stabilization`` in seconds, where ``behavior`` has none."""
    interval: Annotated[int, Field(ge=1, le=86_400)] = 15
    """``--horizontal-pod-autoscaler-sync-period`` in seconds."""
    manifest: str | None = None
    """File with a HorizontalPodAutoscaler; keys that are given count in its place."""

    _rules: tuple[Rules, Rules] | None = PrivateAttr()
    _band: Band = PrivateAttr()

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        return from_manifest(given, HPA)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(
                f"max_replicas ({self.max_replicas}) is less than min_replicas ({self.min_replicas})"
            )
        self._rules = up = down = None
        if self.behavior is not None:
            self._rules = up, down = self.behavior.completed(self.downscale_stabilization)
        self._band = Band.of(_or(down, self.tolerance), _or(up, self.tolerance))
        return self

    def begin(self, replicas: np.ndarray, least: np.ndarray | None = None) -> HpaState:
        """The state before the first decision; see :class:`~kforecast.autoscaling.policy.Policy`."""
        lanes = len(replicas)
        lowest = np.full(lanes, self.min_replicas) if least is None else least
        up_window, down_window, ups, downs = 0, self.downscale_stabilization, None, None
        if self._rules is not None:
            up, down = self._rules
            up_window, down_window = up.stabilizationWindowSeconds or 0, down.stabilizationWindowSeconds or 0
            if max(up.longest, down.longest) > self.interval:
                ups = Changes(up.longest, self.interval, lanes)
                downs = Changes(down.longest, self.interval, lanes)
        return HpaState(
            least=np.minimum(lowest, self.max_replicas).astype(np.float64),
            most=np.full(lanes, float(self.max_replicas)),
            highest=self._window(down_window, lanes, np.maximum),
            lowest=self._window(up_window, lanes, np.minimum),
            ups=ups,
            downs=downs,
        )

    def decide(self, state: HpaState, second: int, pods: Pods, readings: Sequence[Reading]) -> np.ndarray:
        """The replicas to order now; see :class:`~kforecast.autoscaling.policy.Policy`."""
        counts = _counts(pods)
        spec = counts.spec
        desired = self._desired(counts, readings)
        # Lanes outside their limits return there, whatever their metrics are.
        limited = np.minimum(np.maximum(spec, state.least), state.most)
        active = (limited == spec) & (desired != UNKNOWN)
        counted = None if active.all() else active
        if state.first:  # the controller begins with the replicas that it finds as its first recommendation
            state.first = False
            high = _first(state.highest, np.maximum, desired, active, spec)
            low = _first(state.lowest, np.minimum, desired, active, spec)
        else:
            high = desired if state.highest is None else state.highest.add(desired, counted)
            low = desired if state.lowest is None else state.lowest.add(desired, counted)
        if self._rules is None:
            most = np.minimum(state.most, np.maximum(2.0 * spec, 4.0))
            found: np.ndarray = np.minimum(np.maximum(high, state.least), most)
        else:
            found = np.minimum(np.maximum(spec, low), high)
            self._limit(found, state, second, spec, np.flatnonzero((found != spec) & active))
        if counted is not None:
            found = np.where(active, found, limited)
            found[(spec == 0) & (state.least > 0)] = 0  # a service scaled to zero is not scaled
        if state.ups is not None and state.downs is not None:
            state.ups.add(second, found - spec)
            state.downs.add(second, spec - found)
        return found.astype(np.int64)

    def recommendation(self, pods: Pods, readings: Sequence[Reading]) -> np.ndarray:
        """What the metrics ask for, before windows and limits, float64 ``[lanes]``; -inf where unknown."""
        return self._desired(_counts(pods), readings)

    def _window(self, seconds: int, lanes: int, pick: np.ufunc) -> Extreme | None:
        return Extreme(-(-seconds // self.interval), lanes, pick) if seconds > 0 else None

    def _desired(self, counts: Counts, readings: Sequence[Reading]) -> np.ndarray:
        """The largest of what the metrics ask for; ``UNKNOWN`` where that cannot be told."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            each = [wanted(reading, counts, self._band) for reading in readings]
        if not each:
            return np.full(len(counts.spec), UNKNOWN)
        desired = each[0]
        for one in each[1:]:
            desired = np.maximum(desired, one)
        if len(each) > 1:
            unknown = np.any([one == UNKNOWN for one in each], axis=0)
            if unknown.any():  # the unknown metric might be the one that asks for more
                desired = np.where(unknown & (desired < counts.spec), UNKNOWN, desired)
        return desired

    def _limit(
        self, found: np.ndarray, state: HpaState, second: int, spec: np.ndarray, moving: np.ndarray
    ) -> None:
        """Apply the policies to lanes that would change, in place."""
        assert self._rules is not None
        up, down = self._rules
        rises = found[moving] > spec[moving]
        lanes = moving[rises]
        if lanes.size:
            most = _reach(up, state, second, lanes, spec[lanes])
            found[lanes] = np.minimum(found[lanes], np.minimum(state.most[lanes], most))
        lanes = moving[~rises]
        if lanes.size:
            least = _reach(down, state, second, lanes, spec[lanes], down=True)
            found[lanes] = np.maximum(found[lanes], np.maximum(state.least[lanes], least))


def _counts(pods: Pods) -> Counts:
    return Counts(*(one.astype(np.float64) for one in (pods.spec, pods.ready, pods.total)))


def _first(
    window: Extreme | None, pick: np.ufunc, desired: np.ndarray, active: np.ndarray, spec: np.ndarray
) -> np.ndarray:
    if window is None:
        return desired
    return window.add(np.where(active, pick(desired, spec), spec))


def _reach(
    rules: Rules, state: HpaState, second: int, lanes: np.ndarray, spec: np.ndarray, down: bool = False
) -> np.ndarray:
    """The farthest number of replicas that the policies of one direction allow now."""
    if rules.selectPolicy == "Disabled":
        return spec
    found = []
    for rate in rules.policies or ():
        start = spec
        if state.ups is not None and state.downs is not None:
            start = start - state.ups.within(rate.periodSeconds, second, lanes)
            start = start + state.downs.within(rate.periodSeconds, second, lanes)
        if rate.type == "Pods":
            found.append(start - rate.value if down else start + rate.value)
        elif down:
            found.append(np.trunc(start * (1 - rate.value / 100)))
        else:
            found.append(np.ceil(start * (1 + rate.value / 100)))
    farthest = rules.selectPolicy == "Max"
    picked = np.min(found, axis=0) if farthest == down else np.max(found, axis=0)
    allowed: np.ndarray = np.minimum(picked, spec) if down else np.maximum(picked, spec)
    return allowed


def _or(rules: Rules | None, tolerance: float) -> float:
    return tolerance if rules is None or rules.tolerance is None else rules.tolerance
