"""offline: frozen teachers teach one student.

Hinton, Vinyals, Dean. Distilling the Knowledge in a Neural Network. 2015. Several teachers are read as

- `probabilities`: one ensemble; its members' probabilities are averaged at each head's own temperature
  (Hinton et al. 2015, section 3; You et al. Learning from Multiple Teacher Networks. KDD 2017);
- `logits`: one ensemble of averaged logits;
- `confidence`: separately, weighted per sample by how well each predicts the label (Zhang, Chen, Wang.
  Confidence-Aware Multi-Teacher Knowledge Distillation. ICASSP 2022, equation 3):

      w_k = (1 − exp(CE_k) / Σ_j exp(CE_j)) / (K − 1),   L = 1/K Σ_k w_k KL_k

  with the 1/K of the authors' code (Rorozhl/CA-MKD helper/loops.py:229), which the paper leaves out: its published
  settings are labels 1 and KL 1 at T 4. Their hints have their own weights, from every teacher's classifier on the
  student's mapped features. Here a feature head reads only one teacher, so it is weighted by the batch's mean of the
  weights above;
- `separate`: separately, with the user's weights.

Feature and relation heads always read each teacher separately, with its own adapter.
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
        cast: the networks of the run.
        combine: how response heads read several teachers.
        weights: of separate teachers, in their order; only their ratios matter.
        teacher_view: the view of a sample that the teachers read, one of `data.views`; None: the student's.
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
            raise UsageError(f"mode.combine={combine}: teachers with other classes cannot be combined; type separate")
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
        return [replace(lesson, learner=self.observed[0](batch), target=batch["target"])]

    def taught(self, batch: Batch, progress: Progress) -> list[Lesson]:
        """Skips the student, whose pass would cost time and change its batch statistics."""
        shown = batch if self._teacher_view is None else batch["views"][self._teacher_view]
        outputs = tuple(teacher(shown) for teacher in self._teachers)
        teachers = (*outputs, self._together(outputs)) if self._ensemble else outputs
        weight = self._weight(outputs, batch["target"])
        return [Lesson(outputs[0].between(0, 0), teachers, None, batch["index"], weight)]

    def reference(self, batch: Batch) -> Tensor | None:
        outputs = tuple(teacher(batch) for teacher in self._teachers)
        if any(teacher.known is not None for teacher in self._teachers):
            return self._spread(outputs)
        return outputs[0].logits if len(outputs) == 1 else soft_logits(self._together(outputs))

    def _spread(self, outputs: Sequence[Knowledge]) -> Tensor:
        """The mean probability of each class, over the teachers that know it, as logits of every class."""
        total = outputs[0].logits.new_zeros(len(outputs[0].logits), self._classes)
        known_by = total.new_zeros(self._classes)
        for teacher, knowledge in zip(self._teachers, outputs, strict=True):
            known = torch.arange(self._classes) if teacher.known is None else teacher.known
            total[:, known] += knowledge.logits.softmax(1)
            known_by[known] += 1
        return (total / known_by.clamp(min=1)).clamp(min=1e-30).log()

    def _together(self, outputs: Sequence[Knowledge]) -> Knowledge:
        members = tuple(knowledge.logits for knowledge in outputs)
        mean = torch.stack(members).mean(0)
        return Knowledge(mean, rows=outputs[0].rows, members=() if self._combine == "logits" else members)

    def _weight(self, outputs: Sequence[Knowledge], target: Tensor) -> Tensor | None:
        if self._combine == "confidence":
            hard = target if target.ndim == 1 else target.argmax(1)
            return confidence_weights([knowledge.logits for knowledge in outputs], hard)
        if self._weights is None:
            return None
        self._weights = self._weights.to(target.device)
        return self._weights[:, None].expand(-1, len(target))
