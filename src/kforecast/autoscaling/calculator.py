"""Replicas that one metric asks for: the arithmetic of Kubernetes' replica calculator, over lanes.

The rules are those of ``pkg/controller/podautoscaler/replica_calculator.go`` in Kubernetes 1.33 and later.
Utilisation is cut to whole percents, every other metric to thousandths. Pods that are not ready count as idle
when scaling up; pods without a metric count as idle when scaling up and as busy when scaling down. No
correction turns the direction.
"""

from dataclasses import dataclass

import numpy as np

from kforecast.autoscaling.policy import Reading

# Keeps rounding of floats from cutting a whole unit off a value that is exact in decimal.
_ROUNDING = 1e-6
# Smaller than any number of replicas, so that it never wins.
UNKNOWN = -np.inf


@dataclass(frozen=True, slots=True)
class Band:
    """The ratios of value to target that change nothing."""

    lowest: float
    highest: float

    @classmethod
    def of(cls, down: float, up: float) -> "Band":
        """From the tolerances of scaling down and up."""
        return cls(1.0 - down, 1.0 + up)

    def holds(self, ratio: np.ndarray) -> np.ndarray:
        """Whether each ratio lies in the band; False where it is NaN."""
        return (self.lowest <= ratio) & (ratio <= self.highest)


@dataclass(frozen=True, slots=True)
class Counts:
    """:class:`~kforecast.autoscaling.policy.Pods` as float64, which holds them exactly."""

    spec: np.ndarray
    ready: np.ndarray
    total: np.ndarray


def wanted(reading: Reading, pods: Counts, band: Band) -> np.ndarray:
    """Replicas that a metric asks for, float64 ``[lanes]``; ``UNKNOWN`` where the metric says nothing."""
    if reading.kind == "value_per_pod_total":
        return _by_total(reading, pods, band)
    if reading.kind == "value":
        return _by_value(reading, pods, band)
    if reading.kind == "replicas":
        raise ValueError(f"{reading.name or 'a reading'}: replicas are no metric; only Kapacity takes them")
    return _by_mean(reading, pods, band)


def _by_total(reading: Reading, pods: Counts, band: Band) -> np.ndarray:
    total, target = _thousandths(reading.value), _target(reading)
    within = band.holds(total / (target * pods.total))
    return _known(reading, np.where(within, pods.total, np.ceil(total / target)))


def _by_value(reading: Reading, pods: Counts, band: Band) -> np.ndarray:
    ratio = _thousandths(reading.value) / _target(reading)
    within = band.holds(ratio)
    found = np.where(within, pods.spec, np.ceil(ratio * pods.ready))
    from_zero = pods.spec == 0
    if from_zero.any():
        found = np.where(from_zero, np.ceil(ratio), found)
    no_pods = (pods.total == 0) & ~within & ~from_zero
    if no_pods.any():
        found = np.where(no_pods, UNKNOWN, found)
    return _known(reading, found)


def _by_mean(reading: Reading, pods: Counts, band: Band) -> np.ndarray:
    measured = pods.ready if reading.missing is None else pods.ready - reading.missing
    ratio = _ratio(reading, reading.value)
    found = np.where(band.holds(ratio), pods.spec, np.ceil(ratio * measured))
    corrected = (pods.total > pods.ready) & (ratio > 1.0)
    if reading.missing is not None:
        corrected |= reading.missing > 0
    lanes = np.flatnonzero(corrected)
    if lanes.size:
        found[lanes] = _corrected(_at(reading, lanes), _counts_at(pods, lanes), band)
    found = np.where(measured > 0, found, UNKNOWN)
    return _known(reading, found)


def _corrected(reading: Reading, pods: Counts, band: Band) -> np.ndarray:
    """The same with pods that are not ready, or have no metric, put in."""
    missing = np.zeros(len(pods.spec)) if reading.missing is None else reading.missing
    measured = pods.ready - missing
    before = _ratio(reading, reading.value)
    up, down = before > 1.0, before < 1.0
    # A pod without a metric is taken for busy before its service shrinks.
    busy = np.maximum(100.0, reading.target) if reading.kind == "utilization" else reading.target
    counted = measured + np.where(up | down, missing, 0.0) + np.where(up, pods.total - pods.ready, 0.0)
    total = reading.value * measured + np.where(down, missing * busy, 0.0)
    after = _ratio(reading, total / counted)
    found = np.ceil(after * counted)
    turned = (down & (after > 1.0)) | (up & (after < 1.0))
    against = ((after < 1.0) & (found > pods.spec)) | ((after > 1.0) & (found < pods.spec))
    return np.where(band.holds(after) | turned | against, pods.spec, found)


def _ratio(reading: Reading, value: np.ndarray) -> np.ndarray:
    if reading.kind == "utilization":  # the controller divides integers: whole percents
        return np.floor(value + _ROUNDING) / reading.target
    return _thousandths(value) / _target(reading)


def _thousandths(value: np.ndarray) -> np.ndarray:
    return np.floor(value * 1000.0 + _ROUNDING)


def _target(reading: Reading) -> float | np.ndarray:
    """Thousandths too, rounded up as ``Quantity.MilliValue`` does: a target above 0 is one at least."""
    return np.maximum(np.ceil(np.asarray(reading.target) * 1000.0 - _ROUNDING), 1.0)


def _known(reading: Reading, found: np.ndarray) -> np.ndarray:
    known = np.isfinite(reading.value)
    return found if known.all() else np.where(known, found, UNKNOWN)


def _at(reading: Reading, lanes: np.ndarray) -> Reading:
    target = reading.target if np.ndim(reading.target) == 0 else np.asarray(reading.target)[lanes]
    missing = None if reading.missing is None else reading.missing[lanes]
    return Reading(reading.value[lanes], reading.kind, target, missing)


def _counts_at(pods: Counts, lanes: np.ndarray) -> Counts:
    return Counts(pods.spec[lanes], pods.ready[lanes], pods.total[lanes])
