"""The simulated services: pods that start, serve, drain and go, for many services at once."""

from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from kforecast.simulation.chance import normal

# A step's load above the pods' capacity by less than this share of a pod is rounding.
_TOLERANCE = 1e-9
_MOST_START_FACTOR = 5.0

# What is counted in every step, by its place on the first axis of a count.
COUNTS = ("served", "unserved", "late", "pods", "short", "busy", "scalings")
SERVED, UNSERVED, LATE, PODS, SHORT, BUSY, SCALINGS = range(len(COUNTS))


class Service(BaseModel):
    """How pods start, serve and end."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    start: Annotated[int, Field(ge=0, le=86_400)] = 300
    """Median seconds from an order until a pod serves."""
    start_spread: Annotated[float, Field(ge=0, le=2)] = 0.0
    """Standard deviation of the logarithm of that time; 0: every pod takes the same."""
    drain: Annotated[int, Field(ge=0, le=7200)] = 30
    """Seconds that a pod lives on without new load after it was told to end."""
    unserved: Literal["drop", "queue"] = "drop"
    """Whether load beyond the pods' capacity is lost, or waits."""
    queue_seconds: Annotated[int, Field(ge=0)] = 60
    """Longest queue, in seconds of work of the pods that serve (at least of one pod); the rest is lost."""
    busy: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Utilisation above which requests are slow."""


class Fleet:
    """The pods of every lane: one service under one driver. All loads are in units of a pod's capacity.

    Parameters
    ----------
    replicas:
        Pods that serve at the start, int64 ``[drivers, series]``.
    step:
        Seconds per step.
    seed, rows:
        What random starting times depend on, besides the moment: a number for each series, int64
        ``[series]``.

    Attributes
    ----------
    spec:
        Replicas ordered, int64 ``[drivers, series]``.
    ready, starting, draining:
        Pods that serve, that do not serve yet, and that serve no new load any more; int64.
    queue:
        Load that waits, in pod-steps, float64 ``[drivers, series]``.
    counts:
        Sums since the last :meth:`taken`, in pod-steps and steps, float64 ``[counts, drivers, series]``.
    """

    def __init__(
        self, service: Service, replicas: np.ndarray, step: int, seed: int, rows: np.ndarray
    ) -> None:
        self._service, self._step, self._seed, self._rows = service, step, seed, rows
        shape = replicas.shape
        self._delay = -(-service.start // step)
        longest = self._delay if not service.start_spread else int(_MOST_START_FACTOR * self._delay) + 1
        self._starts = np.zeros((longest + 1, *shape), np.int64)
        self._drain = -(-service.drain // step)
        self._ends = np.zeros((self._drain + 1, *shape), np.int64)
        self.spec = replicas.astype(np.int64)
        self.ready = self.spec.copy()
        self.starting, self.draining = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self.queue = np.zeros(shape)
        self.counts = np.zeros((len(COUNTS), *shape))
        self._now = 0
        self.up = self.ready.astype(np.float64)
        self.served = np.zeros(shape)
        self._flags, self._work = np.zeros(shape, bool), np.zeros(shape)

    def begin_step(self) -> None:
        """Let the pods serve whose start ends now, and those end that have drained."""
        due = self._starts[self._now % len(self._starts)]
        if due.any():
            self.ready += due
            self.starting -= due
            due[...] = 0
        gone = self._ends[self._now % len(self._ends)]
        if gone.any():
            self.draining -= gone
            gone[...] = 0

    def order(self, desired: np.ndarray) -> None:
        """Start or end pods so that ``desired`` remain, int64 ``[drivers, series]``."""
        changed = np.flatnonzero(desired != self.spec)
        if not len(changed):
            return
        self.counts[SCALINGS].reshape(-1)[changed] += 1
        change = (desired.reshape(-1) - self.spec.reshape(-1))[changed]
        more = change > 0
        self._start(changed[more], change[more])
        self._end(changed[~more], -change[~more])
        self.spec[...] = desired

    def _start(self, lanes: np.ndarray, count: np.ndarray) -> None:
        self.starting.reshape(-1)[lanes] += count
        starts = self._starts.reshape(len(self._starts), -1)
        if not self._service.start_spread or not self._delay:
            due = (self._now + self._delay) % len(starts)
            if self._delay:
                starts[due, lanes] += count
            else:
                self.starting.reshape(-1)[lanes] -= count
                self.ready.reshape(-1)[lanes] += count
            return
        lane = np.repeat(lanes, count)
        # The n-th pod that a service orders at a moment takes equally long under every driver.
        nth = np.arange(len(lane)) - np.repeat(np.cumsum(count) - count, count)
        series = self._rows[lane % len(self._rows)]
        chance = normal(self._seed, series, np.full(len(lane), self._now), nth)
        delay = np.ceil(self._delay * np.exp(self._service.start_spread * chance)).astype(np.int64)
        delay = np.clip(delay, 1, len(starts) - 1)
        np.add.at(starts, ((self._now + delay) % len(starts), lane), 1)

    def _end(self, lanes: np.ndarray, count: np.ndarray) -> None:
        """End pods: first those that do not serve yet, the latest first, as Kubernetes does."""
        left = count.copy()
        starts = self._starts.reshape(len(self._starts), -1)
        starting = self.starting.reshape(-1)
        some = starting[lanes] > 0
        if some.any():
            lane, wanted = lanes[some], np.minimum(left[some], starting[lanes[some]])
            left[some] -= wanted
            starting[lane] -= wanted
            for ahead in range(len(starts) - 1, 0, -1):
                slot = starts[(self._now + ahead) % len(starts)]
                taken = np.minimum(slot[lane], wanted)
                slot[lane] -= taken
                wanted = wanted - taken
                if not wanted.any():
                    break
        self.ready.reshape(-1)[lanes] -= left
        if self._drain:
            self.draining.reshape(-1)[lanes] += left
            self._ends.reshape(len(self._ends), -1)[(self._now + self._drain) % len(self._ends), lanes] += (
                left
            )

    def serve(self, demand: np.ndarray) -> None:
        """Serve the demand of one step, float64 ``[series]``, in units of a pod's capacity."""
        counts, work, flags, up, served = self.counts, self._work, self._flags, self.up, self.served
        np.copyto(up, self.ready)
        if self._service.unserved == "drop":
            np.minimum(demand, up, out=served)
            np.subtract(demand, served, out=work)
            counts[UNSERVED] += work
        else:
            self._serve_with_queue(demand)
        np.greater(work, _TOLERANCE, out=flags)
        counts[SHORT] += flags
        counts[SERVED] += served
        np.add(self.ready, self.starting, out=work, casting="unsafe")
        work += self.draining
        counts[PODS] += work
        np.multiply(up, self._service.busy, out=work)
        np.greater(served, work, out=flags)
        counts[BUSY] += flags
        self._now += 1

    def _serve_with_queue(self, demand: np.ndarray) -> None:
        """Serve what waits first; ``_work`` is then what could not be served at once."""
        queue, work, up = self.queue, self._work, self.up
        np.add(queue, demand, out=work)
        np.minimum(work, up, out=self.served)
        work -= self.served
        np.copyto(queue, work)
        most = np.maximum(up, 1.0) * (self._service.queue_seconds / self._step)
        lost = np.maximum(queue - most, 0.0)
        queue -= lost
        self.counts[UNSERVED] += lost
        # Of a step's own demand, what is neither served in it nor lost.
        self.counts[LATE] += np.maximum(np.minimum(work, demand) - lost, 0.0)

    def taken(self) -> np.ndarray:
        """The counts since the last call, which begin anew; float64 ``[counts, drivers, series]``."""
        found = self.counts.copy()
        self.counts[...] = 0
        return found
