"""Keeps page faults out of what is timed."""

from __future__ import annotations

import ctypes
import sys

# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_memory() -> None:
    """Has glibc keep whatever it was given, in one place for all threads; does nothing where there is no glibc.

    By default it gives large tensors back to the system when they are freed, or does not, as the thread and the
    history of the process have it; fetching their pages anew can take a third of a step on a CPU, in either loop.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_ARENA_MAX, 1)):
            mallopt(option, value)
