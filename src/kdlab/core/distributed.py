"""How many ranks a run has, and rows gathered over them, so that memories are the same on every rank."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, distributed


def processes(accelerator: str, devices: int | str | Sequence[int], nodes: int) -> int:
    """How many processes train, one for each device of each node, by the settings of Lightning's Trainer."""
    if devices == "auto":
        devices = 1 if accelerator == "cpu" else max(1, torch.accelerator.device_count())
    return nodes * (devices if isinstance(devices, int) else len(devices))


def gathered(rows: Tensor) -> Tensor:
    """Rows of all ranks, in rank order; shapes must be equal. On one rank: the rows themselves."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return rows
    parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def padded(rows: Tensor) -> Tensor:
    """Rows [B, L, ...] with zeros at the end of each, up to the longest L of all ranks."""
    if rows.ndim < 2 or not (distributed.is_available() and distributed.is_initialized()):
        return rows
    longest = torch.tensor(rows.shape[1], device=rows.device)
    distributed.all_reduce(longest, distributed.ReduceOp.MAX)
    more = rows.new_zeros(len(rows), int(longest) - rows.shape[1], *rows.shape[2:])
    return torch.cat([rows, more], dim=1)


def own_share(rows: Tensor) -> Tensor:
    """This rank's part of the rows that `gathered` put together."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return rows
    return rows.chunk(distributed.get_world_size())[distributed.get_rank()]
