"""Further metrics besides the primary one: a loss by rows, and closeness to the teacher."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import kl_div
from torchmetrics import Metric

from kdlab.core.knowledge import raised


class _RowMean(Metric):
    """The mean of one value per row, over batches and ranks."""

    full_state_update = False
    total: Tensor
    rows: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("rows", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def add(self, values: Tensor, rows: Tensor | int) -> None:
        """Adds one batch's values [N], counted as `rows`."""
        self.total += values.double().sum()
        self.rows += rows

    def compute(self) -> Tensor:
        """The mean over all rows; NaN where there were none."""
        return self.total / self.rows


class MeanRowLoss(_RowMean):
    """The mean over labelled rows of a loss that gives one value per row."""

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor], labelled: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.loss = loss
        self.labelled = labelled

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Adds a batch: logits [N, C] and its targets."""
        self.add(self.loss(logits, target), self.labelled(target).sum())


class Agreement(_RowMean):
    """The share of rows for which student and teacher name the same class, right or wrong."""

    def update(self, logits: Tensor, teacher: Tensor) -> None:
        """Adds a batch: logits [N, C] of both."""
        self.add(logits.argmax(1) == teacher.argmax(1), len(logits))


class TeacherDivergence(_RowMean):
    """The mean over rows of KL(teacher ‖ student), in nats, at temperature 1."""

    def update(self, logits: Tensor, teacher: Tensor) -> None:
        """Adds a batch: logits [N, C] of both."""
        student, target = raised(logits).log_softmax(1), raised(teacher).log_softmax(1)
        self.add(kl_div(student, target, reduction="none", log_target=True).sum(1), len(logits))
