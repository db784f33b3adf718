"""ctkd: `kd` whose temperature is learned against the student, from easy to hard.

Li, Li, Yang, Zhao, Song, Luo, Li, Yang. Curriculum Temperature for Knowledge Distillation. AAAI 2023;
its global form.

    L = T² · KL(softmax(t / T) ‖ softmax(s / T)),    T = floor + span · sigmoid(θ), one value per row
    θ follows −λ ∂L/∂θ: it raises the loss that the student lowers
    λ = ½ (1 − cos(π · min(1, epoch / reversal_epochs))), epochs counted from 1

θ is one learned number for all samples and starts at 1, as in the authors' code.
"""

from __future__ import annotations

from math import cos, pi

import torch
from torch import Tensor, nn

from kdlab.core.knowledge import Context, Example, Knowledge, Lesson, Progress
from kdlab.heads.head import ResponseHead
from kdlab.heads.response.kd import kd_loss


def reversed_gradient(value: Tensor, strength: float) -> Tensor:
    """The same value, whose gradient is multiplied by −strength (Ganin, Lempitsky, ICML 2015)."""
    return value.detach() + strength * (value.detach() - value)


def reversal(epoch: int, epochs: int) -> float:
    """λ of an epoch, counted from 0: rises along a cosine and is 1 from the last of `epochs` on; 1 where `epochs` is
    0."""
    return 0.5 * (1 - cos(pi * min(1.0, (epoch + 1) / max(1, epochs))))


class CTKD(ResponseHead):
    """Soft targets at a learned temperature between `floor` and `floor + span`."""

    paper = "Li et al.: Curriculum Temperature for Knowledge Distillation, AAAI 2023"
    link = "https://arxiv.org/abs/2211.16231"
    compares = "class probabilities at a learned temperature"
    rowwise = True

    def __init__(self, floor: float, span: float, reversal_epochs: int, *, standardize: bool = False) -> None:
        super().__init__(floor, floor + span, standardize=standardize)
        self.floor, self.span, self.reversal_epochs = floor, span, reversal_epochs

    def build(self, learner: Example, teacher: Example, context: Context) -> None:
        super().build(learner, teacher, context)
        self.theta = nn.Parameter(torch.ones(()))

    def temperature(self, strength: float) -> Tensor:
        """T, a scalar, whose gradient reaches θ reversed, with this strength."""
        return self.floor + self.span * reversed_gradient(self.theta, strength).sigmoid()

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        temperature = self.temperature(reversal(progress.epoch, self.reversal_epochs))
        target = self.teacher_log_probabilities(teacher, temperature)
        return kd_loss(self.scale(learner.logits), target, temperature)
