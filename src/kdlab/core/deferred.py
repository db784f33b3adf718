"""Logits that are computed where they are read, so that those of a vocabulary need never be whole in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor


class Deferred:
    """Logits [N, C] not yet computed.

    Args:
        count: N.
        compute: those of the rows from `start` up to `stop`, [stop − start, C].
    """

    def __init__(self, count: int, compute: Callable[[int, int], Tensor]) -> None:
        self._count = count
        self._compute = compute
        self._whole: dict[bool, Tensor] = {}

    def __len__(self) -> int:
        return self._count

    @property
    def whole(self) -> Tensor:
        """All of them, computed once with gradients, and once where none are asked for."""
        grads = torch.is_grad_enabled()
        if grads not in self._whole:
            self._whole[grads] = self._compute(0, self._count)
        return self._whole[grads]

    def __getitem__(self, rows: slice) -> Tensor:
        """Those of some rows, computed at each call: a pass that recomputes them must find what the first one did."""
        return self._compute(rows.start, rows.stop)

    def map(self, function: Callable[[Tensor], Tensor]) -> Deferred:
        """A function of each row's logits, deferred too."""

        def compute(start: int, stop: int) -> Tensor:
            return function(self.whole if (start, stop) == (0, self._count) else self._compute(start, stop))

        return Deferred(self._count, compute)


class Logits:
    """A field of a dataclass that may be deferred when it is set, and is whole when it is read."""

    @overload
    def __get__(self, owner: None, kind: type) -> Logits: ...

    @overload
    def __get__(self, owner: Any, kind: type) -> Tensor: ...

    def __get__(self, owner: Any, kind: type) -> Tensor | Logits:
        if owner is None:
            raise AttributeError("logits")  # so that the dataclass sees no default
        found = unread(owner)
        return found.whole if isinstance(found, Deferred) else found

    def __set__(self, owner: Any, value: Tensor | Deferred) -> None:
        vars(owner)["logits"] = value


def unread(owner: Any) -> Tensor | Deferred:
    """The logits of a Knowledge as they were set."""
    found: Tensor | Deferred = vars(owner)["logits"]
    return found
