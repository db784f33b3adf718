"""Rows of a batch, as relations between samples read them: of unit length, at least two, from every rank."""

from __future__ import annotations

import torch
from torch import Tensor

from kdlab.core.distributed import gathered as gathered

_SHORTEST = 1e-12


def unit(values: Tensor, dim: int = -1) -> Tensor:
    """Vectors along `dim`, scaled to length one; a vector of zeros stays zero, with a moderate gradient.

    `normalize` divides by 1e-12 there: a sample that a dead layer sends to zero would get a gradient of 1e12.
    """
    length = torch.linalg.vector_norm(values, dim=dim, keepdim=True)
    return values / torch.where(length > _SHORTEST, length, 1.0)


def refuse_single(method: str, rows: Tensor) -> None:
    """Refuse a batch of one row.

    Raises:
        ValueError: where there are fewer than two rows to relate.
    """
    if len(rows) < 2:
        raise ValueError(
            f"{method} compares the samples of a batch with each other but got {len(rows)}; choose a "
            "batch size of two or more that leaves no single sample at the end of an epoch"
        )
