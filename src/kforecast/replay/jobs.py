"""Simulations in several processes, which end together with the command."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.synchronize import Event

from kforecast.errors import KforecastError
from kforecast.simulation.outcomes import Outcomes
from kforecast.simulation.simulation import Services, Setting, simulate

# Lanes that are simulated together: more take more memory, fewer waste time between operations.
LANES = 2000


@dataclass(frozen=True)
class Job:
    """The arguments of :func:`~kforecast.simulation.simulation.simulate`."""

    setting: Setting
    services: Services
    begin: int
    stop: int

    def run(self) -> Outcomes:
        """Simulate in this process."""
        return simulate(self.setting, self.services, self.begin, self.stop)


class _StoppedError(Exception):
    """The command has ended."""


# Set in a worker process only: whether the command wants it to stop.
_stop: Event | None = None


def run_all(jobs: Iterable[Job], processes: int) -> Generator[Outcomes, None, None]:
    """Run jobs and yield their results in order; the next jobs are made while others run.

    Raises
    ------
    KforecastError
        When a process was killed, for instance because memory ran out.
    """
    if processes == 1:
        for job in jobs:
            yield job.run()
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with torch's threads may hang
    stop = context.Event()
    waiting: deque[Future[Outcomes]] = deque()
    with ProcessPoolExecutor(processes, context, _begin, (stop,)) as pool:
        try:
            for job in jobs:
                if len(waiting) >= processes:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(_run, job))
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise KforecastError(
                "a process of the simulation was killed, perhaps because memory ran out; add "
                "replay.processes=1, or replay a shorter span"
            ) from error
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _begin(stop: Event) -> None:
    global _stop
    _stop = stop
    # Ctrl-C reaches all processes of a terminal; the command itself stops these.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _run(job: Job) -> Outcomes:
    def going_on() -> None:
        if _stop is not None and _stop.is_set():
            raise _StoppedError

    return simulate(job.setting, job.services, job.begin, job.stop, going_on)
