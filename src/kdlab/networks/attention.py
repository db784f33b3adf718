"""Attention is caught where it happens: in torch's `scaled_dot_product_attention`, whatever the layers are called.

It is what transformers call when they are built with `attn_implementation="sdpa"`, their default, what torch's own
layers call unless asked for their weights, and what most other modules call. `network.compile()` changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import sqrt
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from kdlab.core.attention import Attention

_TORCH = functional.scaled_dot_product_attention
_LAYERS = functional.multi_head_attention_forward


class AttentionCatcher(TorchFunctionMode):
    """While it is active, every attention is noted in `caught`, in the order of the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.caught: list[Attention] = []

    def __torch_function__(
        self, function: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is _TORCH:
            return self._noted(*args, **kwargs)
        if function is _LAYERS:  # has asked for this mode before it calls attention, by its name in torch's module
            with _instead(self._noted):
                return function(*args, **kwargs)
        return function(*args, **kwargs)

    def _noted(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        self.caught.append(_attention(query, key, value, *args, **kwargs))
        return _TORCH(query, key, value, *args, **kwargs)


@contextmanager
def _instead(function: Callable[..., Any]) -> Iterator[None]:
    functional.scaled_dot_product_attention = function
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = _TORCH


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Attention:
    scale = 1 / sqrt(query.shape[-1]) if scale is None else scale
    if query.ndim == 3:  # one head
        query, key, value = query[:, None], key[:, None], value[:, None]
        attn_mask = attn_mask[:, None] if attn_mask is not None and attn_mask.ndim == 3 else attn_mask
    if is_causal:
        seen = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
        attn_mask = seen if attn_mask is None else attn_mask
    if attn_mask is not None:
        attn_mask = attn_mask.reshape(*(1,) * (4 - attn_mask.ndim), *attn_mask.shape).expand(len(query), -1, -1, -1)
    if enable_gqa:
        key, value = (_repeated(heads, query.shape[1]) for heads in (key, value))
    return Attention(query, key, value, scale, attn_mask)


def _repeated(heads: Tensor, count: int) -> Tensor:
    return heads.repeat_interleave(count // heads.shape[1], dim=1)
