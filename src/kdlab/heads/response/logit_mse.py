"""logit_mse: the student's logits match the teacher's.

Ba, Caruana. Do Deep Nets Really Need to be Deep? NeurIPS 2014, equation 2; Kim et al. Comparing
Kullback-Leibler Divergence and Mean Squared Error Loss in Knowledge Distillation. IJCAI 2021.

    L = mean over classes of (s − t)², one value per row
"""

from __future__ import annotations

from torch import Tensor

from kdlab.core.knowledge import Knowledge, Lesson, Progress, raised
from kdlab.heads.head import ResponseHead


def logit_mse_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of logits [N, C] over classes, one value per row [N]."""
    return (raised(student) - raised(teacher)).square().mean(dim=1)


class LogitMSE(ResponseHead):
    """Regression on logits; an ensemble's logits are the logarithm of its mean probability."""

    paper = "Ba, Caruana: Do Deep Nets Really Need to be Deep?, NeurIPS 2014"
    link = "https://arxiv.org/abs/1312.6184"
    compares = "logits"
    outputs = ("categorical", "real")
    rowwise = True

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        return logit_mse_loss(self.scale(learner.logits), self.teacher_logits(teacher))
