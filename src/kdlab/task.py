"""What is supervised: the type of the targets, the supervised loss, the metrics and which of them is primary."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from kdlab.knowledge import raised

if TYPE_CHECKING:  # torchmetrics takes seconds to import, and whoever mistyped a key shall not wait for it
    from torchmetrics import Metric, MetricCollection


class Task(ABC):
    """What supervises a network. `primary` decides which epoch, and which run, is the best."""

    primary: ClassVar[str]
    directions: ClassVar[Mapping[str, Literal["max", "min"]]]
    titles: ClassVar[Mapping[str, str]]
    has_labels: ClassVar[bool] = False
    """Whether targets have hard class labels, which some heads need."""

    @abstractmethod
    def labelled(self, target: Tensor) -> Tensor:
        """[N] bool: the rows that have a target."""

    @abstractmethod
    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """The supervised loss, one value per row [N], 0 where there is no target."""

    @abstractmethod
    def metrics(self) -> MetricCollection:
        """Metrics of predictions against targets, updated with (logits, target)."""

    @abstractmethod
    def comparisons(self) -> MetricCollection:
        """Metrics of a student against its teacher, updated with (logits, teacher logits)."""

    def labels(self, target: Tensor) -> Tensor:
        """Hard labels [N] of targets, for heads that need them.

        Raises:
            ValueError: where the task has none.
        """
        raise ValueError(f"{type(self).__name__} has no class labels")

    def better(self, value: float, best: float | None) -> bool:
        """Whether a value of the primary metric is better than the best so far."""
        if best is None:
            return value == value
        return value > best if self.directions[self.primary] == "max" else value < best


class Classification(Task):
    """One class per row: targets [N] of classes, -1 where unlabelled, or [N, C] of probabilities."""

    primary = "accuracy"
    has_labels = True
    directions: ClassVar = {
        "accuracy": "max",
        "cross_entropy": "min",
        "calibration_error": "min",
        "agreement": "max",
        "teacher_kl": "min",
    }
    titles: ClassVar = {
        "accuracy": "accuracy",
        "cross_entropy": "cross-entropy",
        "calibration_error": "calibration error",
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
        from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

        from kdlab.metrics import MeanRowLoss

        return _collection(
            accuracy=MulticlassAccuracy(self.classes, average="micro", ignore_index=-1),
            cross_entropy=MeanRowLoss(self.loss, self.labelled),
            calibration_error=MulticlassCalibrationError(self.classes, n_bins=15, ignore_index=-1),
        )

    def comparisons(self) -> MetricCollection:
        from kdlab.metrics import Agreement, TeacherDivergence

        return _collection(agreement=Agreement(), teacher_kl=TeacherDivergence())

    def labels(self, target: Tensor) -> Tensor:
        return target if target.ndim == 1 else target.argmax(dim=1)


def _collection(**metrics: Metric) -> MetricCollection:
    from torchmetrics import MetricCollection

    return MetricCollection(dict(metrics), compute_groups=False)
