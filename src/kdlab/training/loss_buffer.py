"""The terms of the loss since the last row of the log, kept on the device until a row is due; and what diverged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn


class DivergedError(RuntimeError):
    """A term of the loss, a weight or a metric became NaN or infinite."""


def refuse_broken_weights(weights: Iterable[Tensor], step: int, epoch: float) -> None:
    """Stops where a weight became NaN or infinite. Waits for the device.

    Args:
        weights: parameters; buffers may be infinite, as the mask of a causal network.
        step: the last.
        epoch: of the step.

    Raises:
        DivergedError: naming the step.
    """
    floating = [weight.detach() for weight in weights if weight.is_floating_point() and weight.numel()]
    if floating and not nn.utils.get_total_norm(floating, float("inf")).isfinite():
        raise DivergedError(f"a weight became NaN or infinite at step {step}, in epoch {epoch:.2f}")


class LossBuffer:
    """The terms of every part of every step since the last row.

    Args:
        parts: that each rank splits its share of a batch into.
    """

    def __init__(self, parts: int) -> None:
        self._parts = parts
        self._terms: list[tuple[Tensor, Tensor]] = []

    def add(self, terms: Tensor, loss: Tensor) -> None:
        """The terms [K] of a part of a step and its loss, a scalar, both detached."""
        self._terms.append((terms, loss))

    def restore(self, rows: Tensor) -> None:
        """Restores what `read` returned."""
        self._terms = [(row[:-1], row[-1]) for row in rows]

    def to(self, device: torch.device) -> None:
        """Moves what was restored."""
        self._terms = [(terms.to(device), loss.to(device)) for terms, loss in self._terms]

    def read(self) -> Tensor | None:
        """[parts of steps, K + 1] in float64, the sum over ranks: terms, and the loss. None where it is empty.

        Waits for the device.
        """
        if not self._terms:
            return None
        terms, losses = (torch.stack(column).double() for column in zip(*self._terms, strict=True))
        rows = torch.cat([terms, losses[:, None]], dim=1)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(rows)
        return rows

    def clear(self) -> None:
        """After its row was written."""
        self._terms.clear()

    def mean(self, rows: Tensor, names: Sequence[str]) -> dict[str, float]:
        """The mean over steps of each term, as `loss/NAME`, and of the whole loss, `loss/total`."""
        means = (rows.sum(0) * self._parts / len(rows)).tolist()
        return {f"loss/{name}": mean for name, mean in zip((*names, "total"), means, strict=True)}

    def refuse_broken(self, rows: Tensor, names: Sequence[str], step: int, epoch: Callable[[int], float]) -> None:
        """Stops where a term became NaN or infinite.

        Args:
            rows: from `read`.
            names: of the terms.
            step: of the last row.
            epoch: of a step.

        Raises:
            DivergedError: naming the first such term and its step.
        """
        for row, name in (~rows[:, :-1].isfinite()).nonzero().tolist():
            step -= (len(rows) - 1 - row) // self._parts
            raise DivergedError(f"loss/{names[name]} became NaN or infinite at step {step}, in epoch {epoch(step):.2f}")
