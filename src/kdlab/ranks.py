"""What every rank of a run must see, so that what it remembers is the same everywhere."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def gathered(rows: Tensor) -> Tensor:
    """Rows of all ranks, in the order of the ranks; shapes must be equal. Alone: the rows themselves."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return rows
    parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def own_share(rows: Tensor) -> Tensor:
    """This rank's part of rows of all ranks, as `gathered` put them together."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return rows
    return rows.chunk(distributed.get_world_size())[distributed.get_rank()]
