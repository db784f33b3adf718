"""kd: the student matches the teacher's softened probabilities.

Hinton, Vinyals, Dean. Distilling the Knowledge in a Neural Network. 2015 (NIPS Deep Learning Workshop 2014).

    L = T² · KL(softmax(t / T) ‖ softmax(s / T)), summed over classes, one value per row

The T² is inside the loss (section 2 of the paper), so that the gradient keeps its size when T changes.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import kl_div

from kdlab.core.knowledge import Knowledge, Lesson, Progress, raised
from kdlab.heads.head import ResponseHead


def kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p ‖ q) of log-probabilities [N, C], summed over classes, one value per row [N]."""
    return kl_div(q, p, reduction="none", log_target=True).sum(dim=1)


def kd_loss(student: Tensor, teacher: Tensor, temperature: float | Tensor) -> Tensor:
    """T² · KL(teacher ‖ student), one value per row [N].

    Args:
        student: the student's logits [N, C].
        teacher: the teacher's log-probabilities [N, C] at the same temperature.
        temperature: T > 0.
    """
    return temperature**2 * kl(raised(teacher), (raised(student) / temperature).log_softmax(dim=1))


class KD(ResponseHead):
    """Soft targets at one temperature."""

    paper = "Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015"
    link = "https://arxiv.org/abs/1503.02531"
    compares = "softened class probabilities"
    rowwise = True

    def __init__(self, temperature: float, *, standardize: bool = False) -> None:
        super().__init__(temperature, standardize=standardize)
        self.temperature = temperature

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        target = self.teacher_log_probabilities(teacher, self.temperature)
        return kd_loss(self.scale(learner.logits), target, self.temperature)
