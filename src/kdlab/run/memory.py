"""Refuses networks of kdlab's own, any width and depth of which can be typed, that no memory holds."""

from __future__ import annotations

import os

import torch
from torch import nn

from kdlab.config.instantiate import build
from kdlab.config.schema import Component
from kdlab.core.errors import UsageError

ORDINARY = {"width": 16, "depth": 500}
"""Up to these, every network of kdlab's fits into any machine."""


def refuse_giant(settings: Component, key: str) -> None:
    """Refuses a network whose weights do not fit into the machine, by building it without memory for them.

    Raises:
        UsageError: with both sizes.
    """
    if all(float(settings.get(name) or 0) <= most for name, most in ORDINARY.items()):
        return
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        parameters = build(settings, nn.Module, key).parameters()
    needed = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise UsageError(
            f"{key} takes {needed / 2**30:,.0f} GiB, and this machine has {there / 2**30:,.0f} GiB of memory; type a "
            f"smaller {key}.width or {key}.depth"
        )
