"""The terms of the loss since the last row of the log, left on the device until a row is due."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


class DivergedError(RuntimeError):
    """A term of the loss is no number any more."""


class LossBuffer:
    """The terms of every part of every step since the last row.

    Args:
        parts: in which each rank computes its share of a batch.
    """

    def __init__(self, parts: int) -> None:
        self._parts = parts
        self._said: list[tuple[Tensor, Tensor]] = []

    def add(self, terms: Tensor, loss: Tensor) -> None:
        """The terms [K] of a part of a step and its loss, a scalar, both detached."""
        self._said.append((terms, loss))

    def restore(self, rows: Tensor) -> None:
        """Goes on with what `read` gave."""
        self._said = [(row[:-1], row[-1]) for row in rows]

    def to(self, device: torch.device) -> None:
        """Moves what was restored."""
        self._said = [(terms.to(device), loss.to(device)) for terms, loss in self._said]

    def read(self) -> Tensor | None:
        """[parts of steps, K + 1] in float64, the sum over ranks: terms, and the loss. None where it is empty.

        Waits for the device.
        """
        if not self._said:
            return None
        terms, losses = (torch.stack(said).double() for said in zip(*self._said, strict=True))
        rows = torch.cat([terms, losses[:, None]], dim=1)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(rows)
        return rows

    def clear(self) -> None:
        """After its row was written."""
        self._said.clear()

    def mean(self, rows: Tensor, names: Sequence[str]) -> dict[str, float]:
        """The mean over steps of each term, as `loss/NAME`, and of the whole loss, `loss/total`."""
        means = (rows.sum(0) * self._parts / len(rows)).tolist()
        return {f"loss/{name}": mean for name, mean in zip((*names, "total"), means, strict=True)}

    def refuse_broken(self, rows: Tensor, names: Sequence[str], step: int, steps_per_epoch: int) -> None:
        """Stops where a term was no number.

        Args:
            rows: as `read` gave them.
            names: of the terms.
            step: that of the last row.
            steps_per_epoch: of the run.

        Raises:
            DivergedError: naming the first broken term and its step.
        """
        for row, name in (~rows[:, :-1].isfinite()).nonzero().tolist():
            step -= (len(rows) - 1 - row) // self._parts
            raise DivergedError(
                f"loss/{names[name]} is no finite number at step {step}, in epoch {step / steps_per_epoch:.2f}"
            )
