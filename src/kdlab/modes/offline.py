"""offline: frozen teachers teach one student.

Hinton, Vinyals, Dean. Distilling the Knowledge in a Neural Network. 2015. Several teachers are heard as

- `probabilities`: one ensemble; its members' probabilities are averaged at each head's own temperature
  (Hinton et al. 2015, section 3; You et al. Learning from Multiple Teacher Networks. KDD 2017);
- `logits`: one ensemble of averaged logits;
- `confidence`: each for itself, weighted per sample by how well it knows the label (Zhang, Chen, Wang.
  Confidence-Aware Multi-Teacher Knowledge Distillation. ICASSP 2022, equation 3):

      w_k = (1 − exp(CE_k) / Σ_j exp(CE_j)) / (K − 1),   L = 1/K Σ_k w_k KL_k

  with the 1/K of the authors' code (Rorozhl/CA-MKD helper/loops.py:229), which the paper leaves out: its published
  settings are labels 1 and KL 1 at T 4. Their hints have weights of their own, from what every teacher's
  classifier says of the student's mapped features. Here a feature head hears one teacher and none of the others, so
  it counts by the batch's mean of the weights above;
- `separate`: each for itself, with weights of the user's.

Feature and relation heads always hear each teacher for itself, with an adapter of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Batch, Knowledge, Lesson, Progress
from kdlab.core.soft_targets import soft_logits
from kdlab.modes.mode import Cast, Edge, Mode
from kdlab.networks.teacher import Observed, Teacher

Combine = Literal["probabilities", "logits", "confidence", "separate"]


def confidence_weights(teachers: Sequence[Tensor], target: Tensor) -> Tensor:
    """[K, N] weights of K ≥ 2 teachers' logits [N, C], each row's summing to 1.

    Args:
        target: [N] classes; rows of -1 give every teacher the same weight.
    """
    losses = torch.stack([cross_entropy(logits.float(), target, ignore_index=-1, reduction="none")
                          for logits in teachers])  # fmt: skip
    return (1 - losses.softmax(dim=0)) / (len(teachers) - 1)


def _weigh(weights: Any, count: int) -> bool:
    if not isinstance(weights, Sequence) or not all(isinstance(weight, int | float) for weight in weights):
        return False
    return len(weights) == count and min(weights) >= 0 and sum(weights) > 0


class Offline(Mode):
    """One student, and one or more frozen teachers.

    Args:
        cast: who is there.
        combine: how response heads hear several teachers.
        weights: of separate teachers, in their order; they count relative to each other.
        teacher_view: the view of a sample that the teachers are shown, one of `data.views`; None: the student's.
    """

    def __init__(
        self,
        cast: Cast,
        combine: Combine = "probabilities",
        weights: Sequence[float] | None = None,
        teacher_view: str | None = None,
    ) -> None:
        if combine not in get_args(Combine):
            raise UsageError(f"mode.combine={combine}: expected {' or '.join(get_args(Combine))}")
        if weights is not None and (combine != "separate" or not _weigh(weights, len(cast.teachers))):
            raise UsageError(
                f"mode.weights={weights}: expected {len(cast.teachers)} numbers, 0 or more, in a list, and "
                "mode.combine=separate"
            )
        if combine != "separate" and len(cast.teachers) > 1 and any(t.known is not None for t in cast.teachers):
            raise UsageError(f"mode.combine={combine}: teachers of other classes are heard one by one; type separate")
        super().__init__(cast.learners())
        self._classes = cast.context.classes
        self._teachers = cast.teachers
        self._combine = combine if len(cast.teachers) > 1 else "separate"
        self._weights = None if weights is None else torch.tensor(weights) * len(weights) / sum(weights)
        self._teacher_view = teacher_view

    @property
    def teachers(self) -> tuple[Teacher, ...]:
        return self._teachers

    @property
    def _ensemble(self) -> bool:
        return self._combine in ("probabilities", "logits")

    @property
    def shows(self) -> tuple[str, ...]:
        return () if self._teacher_view is None else (self._teacher_view,)

    @property
    def edges(self) -> tuple[Edge, ...]:
        count = len(self._teachers)
        if not self._ensemble:
            return tuple(Edge(0, place, f"student-{place}") for place in range(count))
        each = [Edge(0, place, f"student-{place}", ("feature", "relation")) for place in range(count)]
        return (*each, Edge(0, count, "student-ensemble", ("response",)))

    def source(self, edge: Edge) -> Observed | None:
        return self._teachers[edge.teacher] if edge.teacher < len(self._teachers) else None

    def lessons(self, batch: Batch, progress: Progress) -> list[Lesson]:
        (lesson,) = self.taught(batch, progress)
        return [replace(lesson, learner=self.observed[0](batch["input"]), target=batch["target"])]

    def taught(self, batch: Batch, progress: Progress) -> list[Lesson]:
        """The student is not asked: it would cost its time, and move its normalisations."""
        shown = batch if self._teacher_view is None else batch["views"][self._teacher_view]
        said = tuple(teacher(shown["input"]) for teacher in self._teachers)
        heard = (*said, self._together(said)) if self._ensemble else said
        weight = self._weight(said, batch["target"])
        return [Lesson(Knowledge(said[0].logits[:0]), heard, None, batch["index"], weight)]

    def reference(self, input: Tensor) -> Tensor | None:
        said = tuple(teacher(input) for teacher in self._teachers)
        if any(teacher.known is not None for teacher in self._teachers):
            return self._spread(said)
        return said[0].logits if len(said) == 1 else soft_logits(self._together(said))

    def _spread(self, said: Sequence[Knowledge]) -> Tensor:
        """The mean probability that the teachers who know a class give it, as logits of every class."""
        total = said[0].logits.new_zeros(len(said[0].logits), self._classes)
        known_by = total.new_zeros(self._classes)
        for teacher, knowledge in zip(self._teachers, said, strict=True):
            known = torch.arange(self._classes) if teacher.known is None else teacher.known
            total[:, known] += knowledge.logits.softmax(1)
            known_by[known] += 1
        return (total / known_by.clamp(min=1)).clamp(min=1e-30).log()

    def _together(self, said: Sequence[Knowledge]) -> Knowledge:
        members = tuple(knowledge.logits for knowledge in said)
        mean = torch.stack(members).mean(0)
        return Knowledge(mean, rows=said[0].rows, members=() if self._combine == "logits" else members)

    def _weight(self, said: Sequence[Knowledge], target: Tensor) -> Tensor | None:
        if self._combine == "confidence":
            hard = target if target.ndim == 1 else target.argmax(1)
            return confidence_weights([knowledge.logits for knowledge in said], hard)
        if self._weights is None:
            return None
        self._weights = self._weights.to(target.device)
        return self._weights[:, None].expand(-1, len(target))
