"""A task: the type of the targets, the supervised loss, the metrics and which of them is primary."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import Tensor

from kdlab.core.knowledge import Batch, Kind
from kdlab.core.reading import RowPerSample

if TYPE_CHECKING:  # torchmetrics takes seconds to import; a typo should be reported before
    from torchmetrics import MetricCollection


class Task(RowPerSample, ABC):
    """The supervision of a network. `primary` decides which epoch, and which run, is best.

    A task reads rows from what a network returns (`read`, `laid_out`: see `kdlab.core.reading.Reader`), by default one
    for each sample.
    """

    primary: ClassVar[str]
    directions: ClassVar[Mapping[str, Literal["max", "min"]]]
    titles: ClassVar[Mapping[str, str]]
    has_labels: ClassVar[bool] = False
    """Whether targets have hard class labels, which some heads need."""
    kind: ClassVar[Kind] = "categorical"
    """What outputs are: a distribution over classes, or real values, of which heads that compare probabilities make no
    sense."""
    row_per_sample: ClassVar[bool] = True
    """Whether each sample has exactly one row, which some modes need."""

    def targets(self, batch: Batch) -> Tensor:
        """The targets of a batch, by row: [N] or [N, ...]."""
        target: Tensor = batch["target"]
        return target

    def by_row(self, batch: Batch) -> Batch:
        """A batch, and its further views, with the targets by row."""
        made = {**batch, "target": self.targets(batch)}
        if views := batch.get("views"):
            made["views"] = {name: self.by_row(view) for name, view in views.items()}
        return made

    def beside(self, batch: Batch) -> dict[str, Tensor]:
        """What metrics read of a batch besides logits and targets, by the names of their arguments."""
        return {}

    @abstractmethod
    def labelled(self, target: Tensor) -> Tensor:
        """[N] bool: the rows that have a target."""

    @abstractmethod
    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """The supervised loss, one value per row [N], 0 where there is no target."""

    @abstractmethod
    def metrics(self) -> MetricCollection:
        """Metrics of predictions against targets, updated with (logits, target, **beside)."""

    def measured(self) -> tuple[str, ...]:
        """The names of what `metrics` computes."""
        return tuple(map(str, self.metrics()))

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
