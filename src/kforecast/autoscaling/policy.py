"""The interface of an autoscaling policy: what it sees at a decision, and what it answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

Kind = Literal["value_per_pod_total", "value", "value_per_pod", "utilization", "replicas"]
MOST_REPLICAS = 2**31 - 1
"""Kubernetes keeps numbers of replicas as int32."""


@dataclass(frozen=True, slots=True)
class Pods:
    """The pods of each lane at a decision; arrays are int64 ``[lanes]``.

    Attributes
    ----------
    spec:
        Replicas ordered.
    ready:
        Pods that run and are ready.
    total:
        Pods that exist and are not being terminated: ready or not yet.
    """

    spec: np.ndarray
    ready: np.ndarray
    total: np.ndarray


@dataclass(frozen=True, slots=True)
class Reading:
    """One metric of every lane at a decision.

    Attributes
    ----------
    value:
        float64 ``[lanes]``; a value that is not finite is unknown.
    kind:
        Kubernetes' type of metric and target:

        - ``value_per_pod_total``: Object or External with ``averageValue``; the value is the total of the
          service, the target its share of one pod;
        - ``value``: Object or External with ``value``; the value is compared with the target as it is;
        - ``value_per_pod``: Pods, or Resource with ``averageValue``; the value is the mean over the ready
          pods that have a metric;
        - ``utilization``: Resource with ``averageUtilization``; the same in percent of the request;
        - ``replicas``: no metric, but replicas wanted now, as a Kapacity portrait holds them.
    target:
        Above 0; one number, or float64 ``[lanes]``.
    missing:
        Ready pods without a metric, int64 ``[lanes]``; None for none. Only kinds that are means know them.
    name:
        The name of the metric, or of KEDA's trigger.
    """

    value: np.ndarray
    kind: Kind
    target: float | np.ndarray
    missing: np.ndarray | None = None
    name: str = ""


class Policy(Protocol):
    """An autoscaler.

    Attributes
    ----------
    interval:
        Seconds between decisions.
    min_replicas, max_replicas:
        Limits of an order.
    """

    @property
    def interval(self) -> int:  # noqa: D102
        ...

    @property
    def min_replicas(self) -> int:  # noqa: D102
        ...

    @property
    def max_replicas(self) -> int:  # noqa: D102
        ...

    def begin(self, replicas: np.ndarray, least: np.ndarray | None = None) -> Any:
        """The state before the first decision, which only this policy reads.

        Parameters
        ----------
        replicas:
            Replicas ordered so far, int64 ``[lanes]``.
        least:
            A lower limit of each lane in the place of ``min_replicas``, int64 ``[lanes]``.
        """
        ...

    def decide(self, state: Any, second: int, pods: Pods, readings: Sequence[Reading]) -> np.ndarray:
        """The replicas to order now, int64 ``[lanes]``; this changes ``state``.

        It is called every ``interval`` seconds, in the order of time.
        """
        ...
