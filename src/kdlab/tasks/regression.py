"""Regression: one or several real values per row."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from kdlab.core.errors import UsageError
from kdlab.core.knowledge import raised
from kdlab.tasks.task import Task

if TYPE_CHECKING:  # torchmetrics takes seconds to import; a typo should be reported before
    from torchmetrics import MetricCollection


class Regression(Task):
    """Real values per row: targets [N, C], or [N] where there is one output; NaN where there is no target."""

    kind = "real"
    primary = "mean_squared_error"
    directions: ClassVar = {
        "mean_squared_error": "min",
        "mean_absolute_error": "min",
        "teacher_squared_distance": "min",
    }
    titles: ClassVar = {
        "mean_squared_error": "mean squared error",
        "mean_absolute_error": "mean absolute error",
        "teacher_squared_distance": "squared distance to teacher",
    }

    def labelled(self, target: Tensor) -> Tensor:
        return ~target.flatten(1).isnan().any(1) if target.ndim > 1 else ~target.isnan()

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """The squared error, its mean over outputs, in float32 or better."""
        return self._distance(logits, target).square().mean(1)

    def metrics(self) -> MetricCollection:
        from torchmetrics import MetricCollection

        from kdlab.tasks.metrics import MeanRowLoss

        return MetricCollection(
            {
                "mean_squared_error": MeanRowLoss(self.loss, self.labelled),
                "mean_absolute_error": MeanRowLoss(self._absolute, self.labelled),
            },
            compute_groups=False,
        )

    def comparisons(self) -> MetricCollection:
        from torchmetrics import MetricCollection

        from kdlab.tasks.metrics import MeanRowLoss

        return MetricCollection({"teacher_squared_distance": MeanRowLoss(self.loss, self.labelled)})

    def _absolute(self, logits: Tensor, target: Tensor) -> Tensor:
        return self._distance(logits, target).abs().mean(1)

    def _distance(self, logits: Tensor, target: Tensor) -> Tensor:
        """Logits minus target [N, C], 0 where there is no target."""
        logits = raised(logits)
        target = target.to(logits.dtype).view(len(target), -1)
        if target.shape != logits.shape:
            raise UsageError(
                f"the network has {logits.shape[1]} outputs, and a target {target.shape[1]} values; expected as many"
            )
        return torch.where(self.labelled(target)[:, None], logits - target, 0.0)
