"""reverse_kl: the student puts its probability where the teacher has some, and may leave modes out.

Gu, Dong, Wei, Huang. MiniLLM: Knowledge Distillation of Large Language Models. ICLR 2024.

    L = T² · KL(softmax(s / T) ‖ softmax(t / T)), summed over classes, one value per row

The paper samples sequences from the student and follows the policy gradient; here the sum over the classes
of one prediction is exact. The T² is kdlab's, as in `kd`: the paper has T 1.
"""

from __future__ import annotations

from torch import Tensor

from kdlab.core.knowledge import Knowledge, Lesson, Progress, raised
from kdlab.heads.head import ResponseHead
from kdlab.heads.response.kd import kl


def reverse_kl_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² · KL(student ‖ teacher), one value per row [N].

    Args:
        student: the student's logits [N, C].
        teacher: the teacher's log-probabilities [N, C] at the same temperature.
        temperature: T > 0.
    """
    return temperature**2 * kl((raised(student) / temperature).log_softmax(dim=1), raised(teacher))


class ReverseKL(ResponseHead):
    """Soft targets at one temperature, the divergence weighted by the student's own probabilities."""

    paper = "Gu et al.: MiniLLM: Knowledge Distillation of Large Language Models, ICLR 2024"
    link = "https://arxiv.org/abs/2306.08543"
    compares = "class probabilities, mode-seeking"
    rowwise = True

    def __init__(self, temperature: float, *, standardize: bool = False) -> None:
        super().__init__(temperature, standardize=standardize)
        self.temperature = temperature

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        target = self.teacher_log_probabilities(teacher, self.temperature)
        return reverse_kl_loss(self.scale(learner.logits), target, self.temperature)
