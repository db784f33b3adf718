"""Further metrics besides the primary one: a loss by rows, and closeness to the teacher."""

from __future__ import annotations

from collections.abc import Callable
from math import log

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


class TokenLoss(MeanRowLoss):
    """The cross-entropy of next tokens, said in three ways; bits per byte only where batches say how many bytes.

    nats per token; perplexity, its exponential; bits per byte of text, which compares models of different tokenizers
    (Gao et al. The Pile. arXiv:2101.00027, 2020).
    """

    bytes: Tensor

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor], labelled: Callable[[Tensor], Tensor]) -> None:
        super().__init__(loss, labelled)
        self.add_state("bytes", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, target: Tensor, bytes: Tensor | None = None) -> None:
        """Adds a batch: logits [N, V], next tokens [N], and the bytes of text [B] that they stand for."""
        super().update(logits, target)
        if bytes is not None:
            self.bytes += bytes.sum(dtype=torch.float64).to(self.bytes.device)

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]
        """By name, the mean over all tokens; NaN where there were none."""
        nats = super().compute()
        found = {"nats_per_token": nats, "perplexity": nats.exp()}
        return found | ({"bits_per_byte": self.total / log(2) / self.bytes} if self.bytes > 0 else {})


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
