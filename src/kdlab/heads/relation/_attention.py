"""Relations between the tokens of a sequence, as distributions over keys."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from kdlab.heads.layers import token_mean


def products(vectors: Tensor) -> Tensor:
    """The scaled products [B, H, L, L] of vectors [B, H, L, E] with each other: X Xᵀ / √E."""
    return vectors @ vectors.mT / sqrt(vectors.shape[-1])


def relation_kl(student: Tensor, teacher: Tensor, valid: Tensor | None) -> Tensor:
    """KL(teacher ‖ student) of softmaxes over keys, mean over heads and valid queries. A scalar.

    Args:
        student: scores [B, H, L, L].
        teacher: scores of the same shape.
        valid: [B, L] bool, the positions that hold tokens: no other is a query or a key; None: all.
    """
    if valid is not None:
        student, teacher = (
            scores.masked_fill(~valid[:, None, None, :], torch.finfo(scores.dtype).min) for scores in (student, teacher)
        )
    ours, theirs = student.log_softmax(dim=-1), teacher.log_softmax(dim=-1)
    values = kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=-1)
    return token_mean(values.mean(dim=1), valid)
