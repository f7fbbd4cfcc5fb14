"""Rows of the table, and tools for measuring."""

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


@dataclass(frozen=True)
class Row:
    """A line of the table: kforecast and a reference, measured in the same run."""

    what: str
    ours: str
    other: str = ""
    ratio: str = ""
    target: str = ""


def seconds(work: Callable[[], object]) -> float:
    """Return the seconds of one call."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def median_seconds(work: Callable[[], object], repeats: int = 5, warm_up: int = 1) -> float:
    """Return the median of several times."""
    for _ in range(warm_up):
        work()
    return statistics.median(seconds(work) for _ in range(repeats))


def alternately(works: dict[str, Callable[[], object]], repeats: int = 5) -> dict[str, float]:
    """Return the medians of several tasks that take turns, so that all run under the same conditions."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(repeats):
        for name, work in works.items():
            times[name].append(seconds(work))
    return {name: statistics.median(found) for name, found in times.items()}


def peak_megabytes() -> float:
    """Return the peak resident memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


class Ended(NamedTuple):
    """A command that has ended."""

    code: int
    seconds: float
    megabytes: float
    output: str


def peak_of_command(command: Sequence[str | Path], cwd: Path) -> Ended:
    """Run a command and record its peak resident memory."""
    with tempfile.TemporaryFile("w+") as output:
        begun = time.perf_counter()
        process = subprocess.Popen(command, cwd=cwd, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        elapsed = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        return Ended(process.returncode, elapsed, usage.ru_maxrss / 1024, output.read())
