"""The losses of a run: their weights, their instances on edges, and the counts that they are divided by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kdlab.core.knowledge import Lesson, Needs
from kdlab.heads.head import Head
from kdlab.modes.mode import Edge
from kdlab.training.ramp import ramp


@dataclass(frozen=True)
class Term:
    """One distillation loss of a run: how to make its head, and its weight."""

    name: str
    make: Callable[[], Head]
    weight: float
    ramp: float = 0
    ramp_shape: str = "linear"

    def weight_at(self, epoch: int, epochs: int = 1) -> float:
        """The weight in an epoch, counted from 0, of a phase of `epochs`; see `kdlab.training.ramp`."""
        return self.weight * ramp(epoch, self.ramp, self.ramp_shape, epochs)


@dataclass(frozen=True, eq=False)
class Placed:
    """One instance of a head: its edge, what it reads, and its share among the teachers of its learner."""

    edge: Edge
    head: Head
    needs: Needs
    share: float

    @property
    def rowwise(self) -> bool:
        """Whether rows can be compared in parts: by their predictions alone."""
        only = Needs(labels=self.needs.labels, index=self.needs.index, row_per_sample=self.needs.row_per_sample)
        return self.head.rowwise and self.needs == only


@dataclass(frozen=True)
class Counts:
    """Counts over the whole batch of an optimizer step, over all ranks and parts.

    rows, labelled: how many there are; share: the fraction of its samples in this part.
    """

    rows: Tensor | float
    labelled: Tensor | float
    share: float = 1.0


def chosen_from(lessons: Sequence[Lesson], classes: Sequence[int] | None) -> Sequence[Lesson]:
    """Lessons, and those of their views, whose supervised loss chooses from these classes; None: as they are."""
    if classes is None:
        return lessons

    def limited(lesson: Lesson) -> Lesson:
        logits = lesson.learner.logits
        mask = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
        mask[list(classes)] = True
        views = {name: limited(view) for name, view in lesson.views.items()}
        return replace(lesson, among=mask, views=views)

    return [limited(lesson) for lesson in lessons]


def among_classes(logits: Tensor, among: Tensor | None) -> Tensor:
    """Logits [N, C] with all but the classes of `among` [C] bool out of the question; None: as they are."""
    # Finite, for targets that are shares of classes: nothing times minus infinity would be NaN.
    return logits if among is None else logits.masked_fill(~among, torch.finfo(logits.dtype).min / 2)
