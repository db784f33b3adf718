"""Classification: one class per row."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from kdlab.core.knowledge import raised
from kdlab.tasks.task import Task

if TYPE_CHECKING:  # torchmetrics takes seconds to import; a typo should be reported before
    from torchmetrics import Metric, MetricCollection

FEW = 5
"""Up to this many classes, macro F1 and Matthews' correlation are measured, which tell more where one is rare."""


class Classification(Task):
    """One class per row: targets [N] of classes, -1 where unlabelled, or [N, C] of probabilities."""

    primary = "accuracy"
    has_labels = True
    directions: ClassVar = {
        "accuracy": "max",
        "cross_entropy": "min",
        "calibration_error": "min",
        "f1": "max",
        "matthews": "max",
        "agreement": "max",
        "teacher_kl": "min",
    }
    titles: ClassVar = {
        "accuracy": "accuracy",
        "cross_entropy": "cross-entropy",
        "calibration_error": "calibration error",
        "f1": "macro F1",
        "matthews": "Matthews correlation",
        "agreement": "agreement with teacher",
        "teacher_kl": "KL to teacher",
    }

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def labelled(self, target: Tensor) -> Tensor:
        return target >= 0 if target.ndim == 1 else torch.ones_like(target[:, 0], dtype=torch.bool)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy, in float32 or better."""
        logits = raised(logits)
        if target.ndim == 1:
            return cross_entropy(logits, target, ignore_index=-1, reduction="none")
        return cross_entropy(logits, target.to(logits.dtype), reduction="none")

    def metrics(self) -> MetricCollection:
        from torchmetrics.classification import (
            MulticlassAccuracy,
            MulticlassCalibrationError,
            MulticlassF1Score,
            MulticlassMatthewsCorrCoef,
        )

        from kdlab.tasks.metrics import MeanRowLoss

        few: dict[str, Metric] = {}
        if self.classes <= FEW:
            few["f1"] = MulticlassF1Score(self.classes, average="macro", ignore_index=-1)
            few["matthews"] = MulticlassMatthewsCorrCoef(self.classes, ignore_index=-1)
        return _collection(
            accuracy=MulticlassAccuracy(self.classes, average="micro", ignore_index=-1),
            cross_entropy=MeanRowLoss(self.loss, self.labelled),
            calibration_error=MulticlassCalibrationError(self.classes, n_bins=15, ignore_index=-1),
            **few,
        )

    def comparisons(self) -> MetricCollection:
        from kdlab.tasks.metrics import Agreement, TeacherDivergence

        return _collection(agreement=Agreement(), teacher_kl=TeacherDivergence())

    def labels(self, target: Tensor) -> Tensor:
        return target if target.ndim == 1 else target.argmax(dim=1)


def _collection(**metrics: Metric) -> MetricCollection:
    from torchmetrics import MetricCollection

    return MetricCollection(dict(metrics), compute_groups=False)
