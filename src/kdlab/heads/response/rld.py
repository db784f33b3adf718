"""rld: the teacher's confidence goes to the true class, and its order only to classes it ranks below that.

Sun, Chen, Lyu, Chen, Chen, Wang. Knowledge Distillation with Refined Logits. ICCV 2025 (arXiv 2024).

    L = α T_α² · SCD + β T² · MCD, one value per row
    SCD = KL(b_t ‖ b_s) at temperature T_α, b_t = (max p_t, the rest), b_s = (p_s of the target, the rest)
    MCD = KL(p̂_t ‖ p̂_s) at temperature T, p̂ = p over the classes that the teacher ranks below the target,
          renormalised; 0 where there is none

α is `confidence_weight`, T_α `confidence_temperature`, β `correlation_weight`.
"""

from __future__ import annotations

from torch import Tensor

from kdlab.core.knowledge import Knowledge, Lesson, Needs, Progress, raised
from kdlab.heads.head import ResponseHead
from kdlab.heads.response._labels import binary, hard_labels
from kdlab.heads.response.kd import kl

# Below any logit, yet finite: where a row has no class left, both sides are uniform and their divergence is 0.
_ABSENT = -1e9


def confidence_loss(student: Tensor, teacher: Tensor, label: Tensor, temperature: float) -> Tensor:
    """T² · SCD, one value per row [N].

    Args:
        student: the student's logits [N, C].
        teacher: the teacher's log-probabilities [N, C] at the same temperature.
        label: the class of each row [N]; rows of −1 give 0.
        temperature: T > 0.
    """
    student, teacher = (raised(student) / temperature).log_softmax(dim=1), raised(teacher)
    loss = kl(binary(teacher, teacher.argmax(dim=1)), binary(student, label.clamp(min=0)))
    return (temperature**2 * loss).masked_fill(label < 0, 0.0)


def correlation_loss(student: Tensor, teacher: Tensor, label: Tensor, temperature: float) -> Tensor:
    """T² · MCD, one value per row [N]; arguments as in `confidence_loss`."""
    student, teacher = raised(student) / temperature, raised(teacher)
    masked = teacher >= teacher.gather(1, label.clamp(min=0)[:, None])
    ours = student.masked_fill(masked, _ABSENT).log_softmax(dim=1)
    theirs = teacher.masked_fill(masked, _ABSENT).log_softmax(dim=1)
    return (temperature**2 * kl(theirs, ours)).masked_fill(label < 0, 0.0)


class RLD(ResponseHead):
    """Sample confidence and masked correlation; soft labels count as their largest class."""

    paper = "Sun et al.: Knowledge Distillation with Refined Logits, ICCV 2025"
    link = "https://arxiv.org/abs/2408.07703"
    compares = "the teacher's confidence, and the classes it ranks below the target"
    rowwise = True

    def __init__(
        self,
        temperature: float,
        confidence_temperature: float,
        confidence_weight: float,
        correlation_weight: float,
        *,
        standardize: bool = False,
    ) -> None:
        super().__init__(temperature, confidence_temperature, standardize=standardize)
        self.temperature, self.confidence_temperature = temperature, confidence_temperature
        self.confidence_weight, self.correlation_weight = confidence_weight, correlation_weight

    def needs(self) -> Needs:
        return Needs(labels=True)

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        student, label = self.scale(learner.logits), hard_labels(lesson)
        softened = self.teacher_log_probabilities(teacher, self.temperature)
        confident = self.teacher_log_probabilities(teacher, self.confidence_temperature)
        confidence = confidence_loss(student, confident, label, self.confidence_temperature)
        correlation = correlation_loss(student, softened, label, self.temperature)
        return self.confidence_weight * confidence + self.correlation_weight * correlation
