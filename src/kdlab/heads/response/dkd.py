"""dkd: the teacher's probability of the target class, and those of the others among themselves, as separate losses.

Zhao, Cui, Song, Qiu, Liang. Decoupled Knowledge Distillation. CVPR 2022, equation 7.

    L = T² · (α TCKD + β NCKD), one value per row
    TCKD = KL(b_t ‖ b_s), b = (p_y, 1 − p_y), p the probabilities at temperature T and y the target
    NCKD = KL(p̂_t ‖ p̂_s), p̂ = p over the classes other than y, renormalised

α is `target_weight`, β `nontarget_weight`. With α = 1 and β = 1 − p_t,y of each row it would be `kd`. All in
log-probabilities: 1 − p_y is a log-sum over the other classes, so that a fully confident network gives no infinity.
"""

from __future__ import annotations

from torch import Tensor

from kdlab.core.knowledge import Knowledge, Lesson, Needs, Progress, raised
from kdlab.heads.head import ResponseHead
from kdlab.heads.response._labels import binary, hard_labels, others
from kdlab.heads.response.kd import kl


def dkd_loss(
    student: Tensor, teacher: Tensor, label: Tensor, temperature: float, target_weight: float, nontarget_weight: float
) -> Tensor:
    """T² · (target_weight · TCKD + nontarget_weight · NCKD), one value per row [N].

    Args:
        student: the student's logits [N, C].
        teacher: the teacher's log-probabilities [N, C] at the same temperature.
        label: the class of each row [N]; rows of −1 give 0.
        temperature: T > 0.
        target_weight: the paper's α.
        nontarget_weight: the paper's β.
    """
    known = label.clamp(min=0)
    student, teacher = raised(student) / temperature, raised(teacher)
    target = kl(binary(teacher, known), binary(student.log_softmax(dim=1), known))
    nontarget = kl(others(teacher, known).log_softmax(dim=1), others(student, known).log_softmax(dim=1))
    loss = temperature**2 * (target_weight * target + nontarget_weight * nontarget)
    return loss.masked_fill(label < 0, 0.0)


class DKD(ResponseHead):
    """Target and non-target knowledge, decoupled; soft labels count as their largest class."""

    paper = "Zhao et al.: Decoupled Knowledge Distillation, CVPR 2022"
    link = "https://arxiv.org/abs/2203.08679"
    compares = "the target's probability, and the other classes among themselves"
    rowwise = True

    def __init__(
        self, temperature: float, target_weight: float, nontarget_weight: float, *, standardize: bool = False
    ) -> None:
        super().__init__(temperature, standardize=standardize)
        self.temperature, self.target_weight, self.nontarget_weight = temperature, target_weight, nontarget_weight

    def needs(self) -> Needs:
        return Needs(labels=True)

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        return dkd_loss(
            self.scale(learner.logits),
            self.teacher_log_probabilities(teacher, self.temperature),
            hard_labels(lesson),
            self.temperature,
            self.target_weight,
            self.nontarget_weight,
        )
