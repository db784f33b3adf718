"""The state of every random number generator of a process, as plain data that a checkpoint can hold."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

RandomState = dict[str, Any]


def seed_all(seed: int) -> None:
    """Seeds torch on every device, NumPy and Python; zero is a seed like any other."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state() -> RandomState:
    """The generators of this process: torch on the CPU and on its current GPU, NumPy, Python."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": [name, [int(key) for key in keys], *rest],
        "python": random.getstate(),
    }


def set_random_state(state: RandomState) -> None:
    """Restores the generators to what `random_state` returned."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


def gather_random_state() -> list[RandomState]:
    """Every rank's state, in rank order."""
    if not (dist.is_available() and dist.is_initialized()):
        return [random_state()]
    states: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(states, random_state())
    return states


def seed_of(seed: int, *names: str) -> int:
    """A 63-bit seed for one named part of a run, independent of all other parts."""
    digest = hashlib.sha256("/".join((str(seed), *names)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
