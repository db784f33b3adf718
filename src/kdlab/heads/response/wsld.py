"""wsld: soft targets, weighted down where the student already fits the label better than the teacher does.

Zhou, Song, Chen, Zhou, Wang, Yuan, Zhang. Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance
Tradeoff Perspective. ICLR 2021.

    L = −T² · w · Σ softmax(t / T) · log softmax(s / T),    w = 1 − exp(−CE_s / CE_t), one value per row

CE_s and CE_t are the two networks' cross-entropies with the label at T 1; w is not differentiated.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdlab.core.knowledge import Knowledge, Lesson, Needs, Progress, raised
from kdlab.heads.head import ResponseHead
from kdlab.heads.response._labels import hard_labels
from kdlab.heads.response.soft_ce import soft_ce_loss


def wsld_loss(student: Tensor, teacher: Tensor, softened: Tensor, label: Tensor, temperature: float) -> Tensor:
    """Weighted soft cross-entropy, one value per row [N].

    Args:
        student: the student's logits [N, C].
        teacher: the teacher's log-probabilities [N, C] at T 1.
        softened: the teacher's log-probabilities [N, C] at `temperature`.
        label: the class of each row [N]; rows of −1 give 0.
        temperature: T > 0.
    """
    at_label = label.clamp(min=0)[:, None]
    ce_student = -raised(student.detach()).log_softmax(dim=1).gather(1, at_label)[:, 0]
    ce_teacher = -raised(teacher).gather(1, at_label)[:, 0]
    weight = -torch.expm1(-ce_student / (ce_teacher + 1e-7))
    return (weight * soft_ce_loss(student, softened, temperature)).masked_fill(label < 0, 0.0)


class WSLD(ResponseHead):
    """Soft targets weighted by the sample; soft labels count as their largest class."""

    paper = "Zhou et al.: Rethinking Soft Labels for Knowledge Distillation, ICLR 2021"
    link = "https://arxiv.org/abs/2102.00650"
    compares = "softened class probabilities, each sample with its own weight"
    rowwise = True

    def __init__(self, temperature: float, *, standardize: bool = False) -> None:
        super().__init__(temperature, standardize=standardize)
        self.temperature = temperature

    def needs(self) -> Needs:
        return Needs(labels=True)

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        return wsld_loss(
            self.scale(learner.logits),
            self.teacher_log_probabilities(teacher, 1.0),
            self.teacher_log_probabilities(teacher, self.temperature),
            hard_labels(lesson),
            self.temperature,
        )
