"""Asking a network, and reading rows of logits from whatever it returns.

A row is one prediction: a picture's, a token's, a step's, an anchor's. The task (`kdlab.tasks`) is a Reader.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Batch, Input


class Reader(Protocol):
    """Reads rows from what a network returned for a batch."""

    def read(self, output: object, batch: Batch) -> tuple[Tensor, Tensor]:
        """(logits [N, C], rows [N]: the sample of the batch that each belongs to)."""

    def laid_out(self, values: Tensor, batch: Batch) -> Tensor:
        """Values [B, ..., D] at the network's positions, such as what its classifier reads, by row: [N, D]."""


class RowPerSample:
    """Reads one row for each sample of a batch."""

    def read(self, output: object, batch: Batch) -> tuple[Tensor, Tensor]:
        """(logits [B, C], 0 to B - 1).

        Raises:
            UsageError: where the network did not return such logits.
        """
        logits = logits_of(output)
        if logits.ndim != 2:
            several = "; for a row per token type task=language_modeling" if logits.ndim == 3 else ""
            raise UsageError(
                f"the network returns logits {tuple(logits.shape)}; expected [B, C], one row per sample{several}"
            )
        return logits, _places(len(logits), logits.device)

    def laid_out(self, values: Tensor, batch: Batch) -> Tensor:
        """The values as they are."""
        return values


def ask(network: nn.Module, input: Input) -> Any:
    """What a network returns for an input; a mapping is its keyword arguments."""
    return network(**input) if isinstance(input, Mapping) else network(input)


def logits_of(output: object) -> Tensor:
    """The logits of a network's output: a tensor, or an object or mapping with `logits`.

    Raises:
        UsageError: where there are none.
    """
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)
    if not isinstance(logits, Tensor):
        raise UsageError(
            f"the network returns {type(output).__name__} without logits; "
            "expected a tensor [B, C], or an object or mapping with one under `logits`"
        )
    return logits


def cast(input: Input, dtype: torch.dtype) -> Input:
    """An input whose floating tensors are of a type."""
    if isinstance(input, Mapping):
        return {name: value.to(dtype) if value.is_floating_point() else value for name, value in input.items()}
    return input.to(dtype) if input.is_floating_point() else input


def collated(inputs: Sequence[Any]) -> Any:
    """The inputs of several samples, tensors or mappings of tensors, as one of a batch.

    Raises:
        UsageError: where their shapes differ.
    """
    other = next((input for input in inputs if shape_of(input) != shape_of(inputs[0])), None)
    if other is not None:
        raise UsageError(f"data: one input is {shape_of(inputs[0])}, another {shape_of(other)}; expected one shape")
    if isinstance(inputs[0], Mapping):
        return {name: torch.stack([input[name] for input in inputs]) for name in inputs[0]}
    return torch.stack([*inputs])


def moved(input: Any, device: torch.device | str) -> Any:
    """An input, or a column of rows, on a device; does not wait for it where the memory is pinned."""
    if isinstance(input, Mapping):
        return {name: moved(value, device) for name, value in input.items()}
    if isinstance(input, tuple | list):  # the ids of texts come with their mask
        return [moved(value, device) for value in input]
    return input.to(device, non_blocking=True) if isinstance(input, Tensor) else input.to(device)


def first_of(input: Input) -> Tensor:
    """The tensor of an input; the first one of a mapping."""
    return next(iter(input.values())) if isinstance(input, Mapping) else input


def valid_positions(input: Input) -> Tensor | None:
    """The positions that hold tokens [B, L] bool, by an input's `attention_mask`; None where it has none."""
    mask = input.get("attention_mask") if isinstance(input, Mapping) else None
    return mask.bool() if mask is not None and mask.ndim == 2 else None


def shape_of(input: Input) -> str:
    """The shape of an input in words, `[2, 3, 32, 32]` or `tokens [2, 6], mask [2, 6]`."""
    if isinstance(input, Tensor):
        return str(list(input.shape))
    return ", ".join(f"{name} {list(value.shape)}" for name, value in input.items())


@lru_cache(maxsize=64)
def _places(count: int, device: torch.device) -> Tensor:
    # A tensor made in inference mode could not be used in a backward pass later.
    with torch.inference_mode(False):
        return torch.arange(count, device=device)
