"""How many threads a training is worth."""

import os
from pathlib import Path
from typing import Literal

import torch

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
# What the user allows; launchers set it too, to 1.
_ALLOWED = os.environ.get("OMP_NUM_THREADS", "")


def choose_threads(
    wanted: Literal["auto"] | int, batch_size: int, processes: int = 1, windows_per_thread: int = 512
) -> int:
    """Set the number of torch's CPU threads, and return it.

    Parameters
    ----------
    wanted:
        A number, or ``auto``: as many as a batch is worth, as far as this process has cores. A CPU quota
        below their number counts: beyond it threads wait for each other most of the time.
    batch_size:
        Windows a training step, over all processes.
    processes:
        That share them.
    windows_per_thread:
        With fewer windows a step is over before the threads have met.
    """
    threads = _suitable(batch_size // processes // windows_per_thread) if wanted == "auto" else wanted
    torch.set_num_threads(threads)
    if processes > 1:
        # Or else Lightning sets a number of its own for DDP, which is many times slower here.
        os.environ["OMP_NUM_THREADS"] = str(threads)
    return threads


def _suitable(worth: int) -> int:
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "0"))
    cores = min(_cores(), _quota()) // max(here, 1)
    if not here and _ALLOWED.isdecimal():
        cores = min(cores, int(_ALLOWED))
    return max(1, min(cores, worth))


def _cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quota() -> int:
    """Cores that the process' control group may use, in whole ones; many where it has no limit."""
    try:
        quota, period = _QUOTA.read_text().split()
        return max(1, round(int(quota) / int(period)))
    except (OSError, ValueError):
        return 1 << 16
