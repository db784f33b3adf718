"""Blocks of running text, which a mode continues: prompts taken from a batch, and a batch made of texts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Batch
from kdlab.modes.mode import Cast


def length_of(cast: Cast, mode: str, prompt: int) -> int:
    """The tokens of a text, one more than the predictions of a block.

    Args:
        cast: of the mode.
        mode: its name.
        prompt: how many tokens of a block are kept.

    Raises:
        UsageError: where the data are no blocks of text without padding, or a prompt is longer than a block.
    """
    input, target = cast.batch["input"], cast.batch["target"]
    ids = input.get("input_ids") if isinstance(input, dict) else None
    if ids is None or len(input) > 1 or target.shape != ids.shape:
        raise UsageError(
            f"mode={mode} continues blocks of running text; type data=tiny_shakespeare, or data=corpus with "
            "task=language_modeling"
        )
    length = int(ids.shape[1])
    if prompt > length:
        raise UsageError(f"mode.prompt={prompt}: expected 1 to {length}, the tokens of a block (data.length)")
    return length + 1


def prompts(batch: Batch, size: int) -> Tensor:
    """The first `size` tokens of each block, [B, size]."""
    found: Tensor = batch["input"]["input_ids"][:, :size]
    return found


def as_batch(text: Tensor, like: Batch, *, labelled: bool = True, **others: Any) -> Batch:
    """Texts [B, L + 1] in place of the blocks of a batch; every view shows them.

    Args:
        labelled: the next tokens are targets; else no row has one.
    """
    target = text[:, 1:] if labelled else torch.full_like(text[:, 1:], -1)
    made: Batch = {
        "input": {"input_ids": text[:, :-1]}, "target": target, "index": like["index"], "view": like["view"],
        **others,
    }  # fmt: skip
    return {**made, "views": dict.fromkeys(like["views"], made)} if "views" in like else made


def after(prompt: int, text: Tensor) -> Tensor:
    """[B, L] bool: the positions of texts [B, L + 1] that predict what follows the prompt."""
    places = torch.arange(text.shape[1] - 1, device=text.device)
    return (places >= prompt - 1).expand(len(text), -1)
