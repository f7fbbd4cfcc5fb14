"""How many threads a training is worth."""

import os
from pathlib import Path
from typing import Literal

import torch

# With fewer windows a step is over before the threads have met.
_WINDOWS_PER_THREAD = 512
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
# Before any training has chosen: what the process may use, or OMP_NUM_THREADS.
_CORES = torch.get_num_threads()


def choose_threads(wanted: Literal["auto"] | int, batch_size: int) -> int:
    """Set the number of torch's CPU threads, and return it.

    Parameters
    ----------
    wanted:
        A number, or ``auto``: one for each 512 windows of a batch, as far as this process has cores. A CPU
        quota below their number counts: beyond it threads wait for each other most of the time.
    batch_size:
        Windows a training step, over all processes.
    """
    threads = _suitable(batch_size) if wanted == "auto" else wanted
    torch.set_num_threads(threads)
    # Or else Lightning sets a number of its own for DDP, which is many times slower here.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    return threads


def _suitable(batch_size: int) -> int:
    processes_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cores = min(_CORES, _quota()) // processes_here
    return max(1, min(cores, batch_size // _WINDOWS_PER_THREAD))


def _quota() -> int:
    """Cores that the process' control group may use, in whole ones; many where it has no limit."""
    try:
        quota, period = _QUOTA.read_text().split()
        return max(1, round(int(quota) / int(period)))
    except (OSError, ValueError):
        return 1 << 16
