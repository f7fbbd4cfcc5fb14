"""How many CPU threads a training uses."""

import os
from pathlib import Path
from typing import Literal

import torch

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
# The user's limit on the threads of a process. Launchers set it too, to 1, and Lightning reads it.
_ALLOWED = "OMP_NUM_THREADS"


def choose_threads(
    wanted: Literal["auto"] | int, batch_size: int, processes: int = 1, windows_per_thread: int = 512
) -> int:
    """Set the number of torch's CPU threads, and return it.

    Parameters
    ----------
    wanted:
        A number, or ``auto``: as many as the batch keeps busy, at most the cores of this process. A CPU quota
        below the number of cores limits them too: more threads would mostly wait for each other.
    batch_size:
        Windows per training step, over all processes.
    processes:
        Processes that share the batch.
    windows_per_thread:
        Fewest windows that keep a thread busy: with fewer, starting the threads takes longer than their work.
    """
    threads = _suitable(batch_size // processes // windows_per_thread) if wanted == "auto" else wanted
    torch.set_num_threads(threads)
    if processes > 1:
        # Where it is unset, Lightning's strategies for several processes set more threads, which is many
        # times slower here. Set for the rest of a process that trains once.
        os.environ[_ALLOWED] = str(threads)
    return threads


def _suitable(worth: int) -> int:
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "0"))
    cores = min(_cores(), _quota()) // max(here, 1)
    allowed = os.environ.get(_ALLOWED, "")
    if not here and allowed.isdecimal():  # beside others on this machine it is the launcher's
        cores = min(cores, int(allowed))
    return max(1, min(cores, worth))


def _cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quota() -> int:
    """Whole cores that the control group of this process may use; a large number where it has no limit."""
    try:
        quota, period = _QUOTA.read_text().split()
        return max(1, round(int(quota) / int(period)))
    except (OSError, ValueError):
        return 1 << 16
