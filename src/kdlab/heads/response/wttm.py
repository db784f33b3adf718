"""wttm: only the teacher is softened, by a power transform, and soft samples weigh more.

Zheng, Yang. Knowledge Distillation Based on Transformed Teacher Matching. ICLR 2024.

    L = U · KL(p^γ / U ‖ softmax(s)),    U = Σ p^γ, one value per row

p is the teacher's softmax at T 1, so p^γ / U is the teacher at T = 1 / γ; the student stays at T 1. An
ensemble is averaged before the transform, since the formula reads p.
"""

from __future__ import annotations

from torch import Tensor

from kdlab.core.knowledge import Knowledge, Lesson, Progress, raised
from kdlab.heads.head import ResponseHead
from kdlab.heads.response.kd import kl


def wttm_loss(student: Tensor, teacher: Tensor, gamma: float) -> Tensor:
    """The weighted divergence from the transformed teacher, one value per row [N].

    Args:
        student: the student's logits [N, C].
        teacher: the teacher's log-probabilities [N, C] at T 1.
        gamma: the exponent, 0 < γ ≤ 1.
    """
    power = gamma * raised(teacher)
    return power.logsumexp(dim=1).exp() * kl(power.log_softmax(dim=1), raised(student).log_softmax(dim=1))


class WTTM(ResponseHead):
    """The transformed teacher, each sample weighted by its power sum."""

    paper = "Zheng, Yang: Knowledge Distillation Based on Transformed Teacher Matching, ICLR 2024"
    link = "https://arxiv.org/abs/2402.11148"
    compares = "the student's probabilities with the softened teacher's"
    rowwise = True

    def __init__(self, gamma: float, *, standardize: bool = False) -> None:
        super().__init__(standardize=standardize)
        self.gamma = gamma

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        return wttm_loss(self.scale(learner.logits), self.teacher_log_probabilities(teacher, 1.0), self.gamma)
