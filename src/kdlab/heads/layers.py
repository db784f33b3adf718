"""Which transformer blocks of two networks are compared, and how: over the positions that hold tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from kdlab.core.knowledge import Example

Named = Literal["uniform", "skip", "last"]
Layers = Named | Sequence[Sequence[int]]
"""Pairs of blocks: uniform, skip, last, or [[student's, teacher's], ...]; see `paired_blocks`."""


def paired_blocks(learner: Example, teacher: Example, layers: Layers) -> tuple[tuple[int, int], ...]:
    """(learner's block, teacher's block), shallow to deep; blocks count from 1, 0 is what the first one reads.

    With M blocks of the learner and N of the teacher:

    uniform: block m learns from m · N / M, rounded up; the last from the last (Jiao et al. 2020).
    skip: the same without the last, which the prediction teaches (PKD-Skip of Sun et al. 2019).
    last: the M − 1 blocks before the last learn from as many of the teacher (PKD-Last).

    Raises:
        ValueError: where there is no such pair.
    """
    ours, theirs = len(learner.knowledge.blocks) - 1, len(teacher.knowledge.blocks) - 1
    if isinstance(layers, str):
        pairs = _named(layers, ours, theirs)
    else:
        pairs = [(int(one), int(other)) for one, other in layers]
    for one, other in pairs:
        if not (0 <= one <= ours and 0 <= other <= theirs):
            raise ValueError(
                f"layers={layers}: there is no pair ({one}, {other}): {learner.name} has blocks 0 to {ours} and "
                f"{teacher.name} 0 to {theirs}"
            )
    if not pairs:
        raise ValueError(f"layers={layers}: {learner.name} has {ours} block, and none is left: set layers=uniform")
    return tuple(pairs)


def check_layers(layers: Layers) -> None:
    """Refuses what is neither a name nor a list of pairs.

    Raises:
        ValueError: with what may be written.
    """
    named = isinstance(layers, str) and layers in get_args(Named)
    pairs = not isinstance(layers, str) and all(
        isinstance(pair, Sequence) and len(pair) == 2 and all(isinstance(each, int) for each in pair) for pair in layers
    )
    if not named and not pairs:
        raise ValueError(
            f"layers={layers}: expected {', '.join(get_args(Named))} or pairs of blocks [[student, teacher], ...]"
        )


def refuse_other_tokens(method: str, learner: Example, teacher: Example) -> None:
    """Refuses networks whose sequences are not of the same tokens.

    Raises:
        ValueError: where they are of another length.
    """
    ours, theirs = (_length(example) for example in (learner, teacher))
    if ours != theirs:
        raise ValueError(
            f"{method} compares token by token: {learner.name} has {ours} and {teacher.name} {theirs} of the same "
            "samples; give both the same input, or choose a loss on predictions, such as loss=uld"
        )


def token_mean(values: Tensor, valid: Tensor | None) -> Tensor:
    """The mean of values [B, L] over the positions that hold tokens, [B, L] bool; None: all. A scalar."""
    if valid is None:
        return values.mean()
    return torch.where(valid, values, 0.0).sum() / valid.sum().clamp(min=1)


def projection(source: int, target: int) -> nn.Module:
    """A learned linear layer between the widths of two networks; nothing where they are the same."""
    return nn.Identity() if source == target else nn.Linear(source, target)


def _named(layers: str, ours: int, theirs: int) -> list[tuple[int, int]]:
    if layers == "last":
        return [(block, theirs - ours + block) for block in range(1, ours)]
    last = ours if layers == "uniform" else ours - 1
    return [(block, -(-block * theirs // ours)) for block in range(1, last + 1)]


def _length(example: Example) -> int:
    seen = [attention.queries.shape[2] for attention in example.knowledge.attention if attention is not None]
    return next((block.shape[1] for block in example.knowledge.blocks if block is not None), seen[0] if seen else 0)
