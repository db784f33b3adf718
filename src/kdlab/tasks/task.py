"""A task: the type of the targets, the supervised loss, the metrics and which of them is primary."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import Tensor

if TYPE_CHECKING:  # torchmetrics takes seconds to import; a typo should be reported before
    from torchmetrics import MetricCollection


class Task(ABC):
    """The supervision of a network. `primary` decides which epoch, and which run, is best."""

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
