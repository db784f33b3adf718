"""soft_ce: cross-entropy with the teacher's softened probabilities.

Hinton, Vinyals, Dean. Distilling the Knowledge in a Neural Network. 2015 (NIPS Deep Learning Workshop 2014).

    L = −T² Σ softmax(t / T) · log softmax(s / T), one value per row

It has the gradient of `kd`; its value is higher by T² times the teacher's entropy.
"""

from __future__ import annotations

from torch import Tensor

from kdlab.core.knowledge import Knowledge, Lesson, Progress, raised
from kdlab.heads.head import ResponseHead


def soft_ce_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """−T² Σ teacher · log student, one value per row [N].

    Args:
        student: the student's logits [N, C].
        teacher: the teacher's log-probabilities [N, C] at the same temperature.
        temperature: T > 0.
    """
    student = (raised(student) / temperature).log_softmax(dim=1)
    return -(temperature**2) * (raised(teacher).exp() * student).sum(dim=1)


class SoftCE(ResponseHead):
    """Cross-entropy against soft targets at one temperature."""

    paper = "Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015"
    link = "https://arxiv.org/abs/1503.02531"
    compares = "softened class probabilities, by cross-entropy"
    rowwise = True

    def __init__(self, temperature: float, *, standardize: bool = False) -> None:
        super().__init__(temperature, standardize=standardize)
        self.temperature = temperature

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        target = self.teacher_log_probabilities(teacher, self.temperature)
        return soft_ce_loss(self.scale(learner.logits), target, self.temperature)
