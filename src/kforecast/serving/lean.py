"""A lean process: a resident server shares its machine, and works for a second at the end of a bin."""

import ctypes
from typing import Any

import torch

# Larger arrays are mapped one by one, and given back when they are freed; glibc keeps smaller ones.
_LARGE = 4 << 20
_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h


def lean() -> None:
    """Use one thread of torch, and keep little freed memory; for the rest of the process.

    A new bin has few windows for each thread. On a busy machine, several threads take more CPU time, because
    they wait for each other by spinning.
    """
    torch.set_num_threads(1)
    _glibc("mallopt", _MMAP_THRESHOLD, _LARGE)


def give_back() -> None:
    """Give freed memory back to the system."""
    _glibc("malloc_trim", 0)


def _glibc(name: str, *given: int) -> None:
    """Call a function of glibc; nothing happens with another C library."""
    try:
        function: Any = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return
    function(*given)
