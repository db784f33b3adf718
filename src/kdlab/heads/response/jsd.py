"""jsd: student and teacher both approach their mixture: bounded, between forward and reverse KL.

Agarwal et al. On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes. ICLR 2024,
equation 1.

    m = β p_t + (1 − β) p_s,    L = β KL(p_t ‖ m) + (1 − β) KL(p_s ‖ m),    0 < β < 1, one value per row

p are the probabilities at temperature T; as in the paper, no T² follows. L is zero for every pair at β = 0 and β = 1;
forward and reverse KL are its limits after division by β and by 1 − β.
"""

from __future__ import annotations

from math import log, log1p

import torch
from torch import Tensor

from kdlab.core.knowledge import Knowledge, Lesson, Progress, raised
from kdlab.heads.head import ResponseHead
from kdlab.heads.response.kd import kl


def jsd_loss(student: Tensor, teacher: Tensor, beta: float, temperature: float) -> Tensor:
    """The generalised Jensen-Shannon divergence, one value per row [N].

    Args:
        student: the student's logits [N, C].
        teacher: the teacher's log-probabilities [N, C] at the same temperature.
        beta: the teacher's share of the mixture, 0 < β < 1.
        temperature: T > 0.
    """
    student, teacher = (raised(student) / temperature).log_softmax(dim=1), raised(teacher)
    mixture = torch.logaddexp(teacher + log(beta), student + log1p(-beta))
    return beta * kl(teacher, mixture) + (1 - beta) * kl(student, mixture)


class JSD(ResponseHead):
    """The generalised Jensen-Shannon divergence at one temperature.

    Raises:
        ValueError: where β does not lie between 0 and 1.
    """

    paper = "Agarwal et al.: On-Policy Distillation of Language Models, ICLR 2024"
    link = "https://arxiv.org/abs/2306.13649"
    compares = "class probabilities with their mixture"
    rowwise = True

    def __init__(self, beta: float, temperature: float, *, standardize: bool = False) -> None:
        if not 0 < beta < 1:
            raise ValueError(
                f"jsd: beta={beta}; expected a number between 0 and 1, at both of which the loss is zero: "
                "for the limits use kd (0) or reverse_kl (1)"
            )
        super().__init__(temperature, standardize=standardize)
        self.beta, self.temperature = beta, temperature

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        target = self.teacher_log_probabilities(teacher, self.temperature)
        return jsd_loss(self.scale(learner.logits), target, self.beta, self.temperature)
