"""What an attention compares: its queries, keys and values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Attention:
    """One attention of a network over a batch.

    queries: [B, H, L, E].
    keys, values: [B, H, S, E]; those that several heads share (grouped queries) are repeated for each.
    scale: what the products of queries and keys are multiplied by.
    mask: [B, 1 or H, 1 or L, S]; bool, True where a query sees a key, or numbers added to the scores; None where every
        query sees every key.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    scale: float
    mask: Tensor | None = None

    def scores(self) -> Tensor:
        """What the softmax over keys receives, [B, H, L, S]: the type's lowest number where a key is not seen."""
        scores = self.scale * (self.queries @ self.keys.mT)
        if self.mask is None:
            return scores
        lowest = torch.finfo(scores.dtype).min
        if self.mask.dtype == torch.bool:
            return scores.masked_fill(~self.mask, lowest)
        return (scores + self.mask).clamp(min=lowest)

    def seen(self) -> Tensor | None:
        """Which keys each query sees, bool [B, 1 or H, 1 or L, S]; None where all."""
        if self.mask is None or self.mask.dtype == torch.bool:
            return self.mask
        return self.mask > -1e4  # the least that is written for a key that is not seen, in any type

    def map(self, function: Callable[[Tensor], Tensor]) -> Attention:
        """The same with a function applied to every tensor."""
        return replace(
            self,
            queries=function(self.queries),
            keys=function(self.keys),
            values=function(self.values),
            mask=None if self.mask is None else function(self.mask),
        )
