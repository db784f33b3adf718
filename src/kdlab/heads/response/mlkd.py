"""mlkd: predictions match for each sample, between samples and between classes, at several temperatures.

Jin, Wang, Lin. Multi-Level Logit Distillation. CVPR 2023.

    L = Σ_T [ a · KD_T + b · ‖G_s − G_t‖² / N + c · ‖M_s − M_t‖² / C ] + Σ_T KD_T(strong view)
    G = P Pᵀ [N, N] between samples, M = Pᵀ P [C, C] between classes, P the probabilities [N, C] at T

KD_T is `kd`. a, b and c are `instance_weight`, `batch_weight` and `class_weight`; a weight of 0 leaves a term
out, and `strong: false` the second view, so that each term also stands alone.

The authors' code multiplies the terms of the first view by a mask of the less confident half of the batch, but after
they have been averaged, which amounts to a factor of one half: hence the published a = b = c = 0.5. It
reads the first view instead of the strong one at T 2 and 6 of the last sum; here all temperatures read the
strong view. The labels count for both views, as in their code.

A row's value holds its own KD and its own row of G; the class term is spread evenly, so that the mean is L.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdlab.core.knowledge import Knowledge, Lesson, Needs, Progress, raised
from kdlab.heads.head import ResponseHead
from kdlab.heads.response.kd import kd_loss


def batch_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Each row's squared difference of similarities to all rows, [N], whose mean is ‖G_s − G_t‖² / N.

    Args:
        student: the student's logits [N, C].
        teacher: the teacher's log-probabilities [N, C] at the same temperature.
        temperature: T > 0.
    """
    ours, theirs = (raised(student) / temperature).softmax(dim=1), raised(teacher).exp()
    return (ours @ ours.T - theirs @ theirs.T).square().sum(dim=1)


def class_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """‖M_s − M_t‖² / C, a scalar; arguments as in `batch_loss`."""
    ours, theirs = (raised(student) / temperature).softmax(dim=1), raised(teacher).exp()
    return (ours.T @ ours - theirs.T @ theirs).square().sum() / student.shape[1]


class MLKD(ResponseHead):
    """Instance, batch and class level alignment, and the instance level of a strong view."""

    paper = "Jin, Wang, Lin: Multi-Level Logit Distillation, CVPR 2023"
    link = "https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html"
    compares = "softened class probabilities, of samples, between samples and between classes"

    def __init__(
        self,
        temperatures: Sequence[float],
        instance_weight: float,
        batch_weight: float,
        class_weight: float,
        strong: bool,
        *,
        standardize: bool = False,
    ) -> None:
        super().__init__(*temperatures, standardize=standardize)
        self.temperatures, self.strong = tuple(temperatures), strong
        self.instance_weight, self.batch_weight, self.class_weight = instance_weight, batch_weight, class_weight

    def needs(self) -> Needs:
        views = ("strong",) if self.strong else ()
        return Needs(views=views, supervised=views)

    def levels(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """The three weighted terms at one temperature, [N]; arguments as in `batch_loss`."""
        loss = self.instance_weight * kd_loss(student, teacher, temperature)
        if self.batch_weight:  # [N, N] and [C, C] are only computed where they have a weight
            loss = loss + self.batch_weight * batch_loss(student, teacher, temperature)
        if self.class_weight:
            loss = loss + self.class_weight * class_loss(student, teacher, temperature)
        return loss

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        student = self.scale(learner.logits)
        terms = [self.levels(student, self.teacher_log_probabilities(teacher, t), t) for t in self.temperatures]
        if self.strong:
            view = lesson.views["strong"]
            student, (teacher,) = self.scale(view.learner.logits), view.teachers
            terms += [kd_loss(student, self.teacher_log_probabilities(teacher, t), t) for t in self.temperatures]
        return torch.stack(terms).sum(dim=0)
