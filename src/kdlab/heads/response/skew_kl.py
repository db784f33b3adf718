"""skew_kl: KL to a mixture with a small share of the distribution that it is taken of.

Ko, Kim, Chen, Yun. DistiLLM: Towards Streamlined Distillation for Large Language Models. ICML 2024, equations 4 and 5.

    forward: L = KL(p ‖ λ p + (1 − λ) q),  reverse: L = KL(q ‖ (1 − λ) p + λ q), one value per row

p and q are the teacher's and the student's probabilities at temperature T; as in the paper, no T² follows. The mixture
bounds the gradient where the second distribution has almost no mass. At λ = 0 they are forward and reverse KL. The
authors' code leaves out the entropy of the reverse loss' first distribution; here it counts, as in the paper.
"""

from __future__ import annotations

from math import log, log1p
from typing import Literal, get_args

import torch
from torch import Tensor

from kdlab.core.knowledge import Knowledge, Lesson, Progress, raised
from kdlab.heads.head import ResponseHead
from kdlab.heads.response.kd import kl

Direction = Literal["forward", "reverse"]


def skew_kl_loss(student: Tensor, teacher: Tensor, skew: float, direction: Direction, temperature: float) -> Tensor:
    """The skew divergence, one value per row [N].

    Args:
        student: the student's logits [N, C].
        teacher: the teacher's log-probabilities [N, C] at the same temperature.
        skew: the paper's α, here λ: 0 < λ < 1.
        direction: `forward` from the teacher, `reverse` from the student.
        temperature: T > 0.
    """
    student, teacher = (raised(student) / temperature).log_softmax(dim=1), raised(teacher)
    one, other = (teacher, student) if direction == "forward" else (student, teacher)
    return kl(one, torch.logaddexp(one + log(skew), other + log1p(-skew)))


class SkewKL(ResponseHead):
    """Skew KL in one direction at one temperature.

    Raises:
        ValueError: where λ does not lie between 0 and 1, or the direction is none.
    """

    paper = "Ko et al.: DistiLLM: Towards Streamlined Distillation for Large Language Models, ICML 2024"
    link = "https://arxiv.org/abs/2402.03898"
    compares = "class probabilities with a mixture, by forward or reverse KL"
    rowwise = True

    def __init__(self, direction: Direction, skew: float, temperature: float, *, standardize: bool = False) -> None:
        if not 0 < skew < 1:
            raise ValueError(
                f"skew_kl: skew={skew}; expected a number between 0 and 1; for 0 use kd (forward) or reverse_kl"
            )
        if direction not in get_args(Direction):
            raise ValueError(f"skew_kl: direction={direction}; expected {' or '.join(get_args(Direction))}")
        super().__init__(temperature, standardize=standardize)
        self.direction: Direction = direction
        self.skew, self.temperature = skew, temperature

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        target = self.teacher_log_probabilities(teacher, self.temperature)
        return skew_kl_loss(self.scale(learner.logits), target, self.skew, self.direction, self.temperature)
