"""The mean of a stage over its positions."""

from __future__ import annotations

from torch import Tensor


def pooled(stage: Tensor, valid: Tensor | None = None) -> Tensor:
    """A map [B, D, H, W], or tokens [B, L, D] without those that are padding, to [B, D].

    Args:
        stage: the map, or the tokens.
        valid: [B, L] bool, the positions that hold tokens; None: all.
    """
    if stage.ndim == 4:
        return stage.mean((2, 3))
    if valid is None:
        return stage.mean(1)
    return stage.masked_fill(~valid[:, :, None], 0.0).sum(1) / valid.sum(1, keepdim=True).clamp(min=1)
