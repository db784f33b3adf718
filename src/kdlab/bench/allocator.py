"""Keeps page faults out of the timings."""

from __future__ import annotations

import ctypes
import sys

# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_memory() -> None:
    """Makes glibc keep freed memory, in one arena for all threads; does nothing without glibc.

    By default it returns large freed tensors to the system or not, depending on the thread and the history of
    the process; faulting their pages in again can take a third of a step on a CPU, in either loop.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_ARENA_MAX, 1)):
            mallopt(option, value)
