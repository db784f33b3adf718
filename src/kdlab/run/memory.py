"""Refuses networks of kdlab's own, any width and depth of which can be typed, that no memory holds."""

from __future__ import annotations

import os

import torch
from torch import nn

from kdlab.config.instantiate import build
from kdlab.config.ranges import leaves
from kdlab.config.schema import Component
from kdlab.core.errors import UsageError

ORDINARY = {"width": 16, "depth": 500, "vocabulary": 0}
"""Up to these, every network of kdlab's fits into any machine; one that reads text is always measured."""

DIALS = ("width", "depth", "layers", "hidden", "vocabulary", "length")
"""What makes a network larger."""


def refuse_giant(settings: Component, key: str) -> None:
    """Refuses a network whose weights do not fit into the machine, by building it without memory for them.

    Raises:
        UsageError: with both sizes.
    """
    sizes = [(path.rpartition(".")[2], value) for path, value in leaves(settings)]
    if all(isinstance(size, int | float) and size <= ORDINARY[name] for name, size in sizes if name in ORDINARY):
        return
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        network = build(settings, nn.Module, key)
    needed = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        dials = " or ".join(f"{key}.{name}" for name in DIALS if name in settings) or key
        raise UsageError(
            f"{key} takes {needed / 2**30:,.0f} GiB, and this machine has {there / 2**30:,.0f} GiB of memory; type a "
            f"smaller {dials}"
        )
