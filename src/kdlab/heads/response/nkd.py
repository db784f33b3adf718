"""nkd: cross-entropy with the teacher, its target part unchanged, its other part renormalised.

Yang, Zeng, Li, Zhang, Yuan, Li. From Knowledge Distillation to Self-Knowledge Distillation: A Unified
Approach with Normalized Loss and Customized Soft Labels. ICCV 2023.

    L = −t_y log s_y − γ T² Σ_{i≠y} N(t_i) log N(s_i), one value per row

t_y and s_y are the target's probabilities at T 1; N renormalises the other classes at temperature T. γ is
`nontarget_weight`. Both parts are cross-entropies: with identical networks the loss is not zero, and its target
part still raises the target.
"""

from __future__ import annotations

from torch import Tensor

from kdlab.core.knowledge import Knowledge, Lesson, Needs, Progress, raised
from kdlab.heads.head import ResponseHead
from kdlab.heads.response._labels import hard_labels, others


def nkd_loss(
    student: Tensor, teacher: Tensor, softened: Tensor, label: Tensor, temperature: float, nontarget_weight: float
) -> Tensor:
    """The normalised loss, one value per row [N].

    Args:
        student: the student's logits [N, C].
        teacher: the teacher's log-probabilities [N, C] at T 1.
        softened: the teacher's log-probabilities [N, C] at `temperature`.
        label: the class of each row [N]; rows of −1 give 0.
        temperature: T > 0, of the classes other than the label.
        nontarget_weight: the paper's γ.
    """
    known = label.clamp(min=0)
    student, teacher, softened = raised(student), raised(teacher), raised(softened)
    at_label = known[:, None]
    target = teacher.gather(1, at_label).exp() * student.log_softmax(dim=1).gather(1, at_label)
    nontarget = others(softened, known).softmax(dim=1) * others(student / temperature, known).log_softmax(dim=1)
    loss = -target[:, 0] - nontarget_weight * temperature**2 * nontarget.sum(dim=1)
    return loss.masked_fill(label < 0, 0.0)


class NKD(ResponseHead):
    """The normalised distillation loss; soft labels count as their largest class, as in the authors' code."""

    paper = "Yang et al.: From Knowledge Distillation to Self-Knowledge Distillation, ICCV 2023"
    link = "https://arxiv.org/abs/2303.13005"
    compares = "the target's probability, and the other classes among themselves, by cross-entropy"
    rowwise = True

    def __init__(self, temperature: float, nontarget_weight: float, *, standardize: bool = False) -> None:
        super().__init__(temperature, standardize=standardize)
        self.temperature, self.nontarget_weight = temperature, nontarget_weight

    def needs(self) -> Needs:
        return Needs(labels=True)

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        return nkd_loss(
            self.scale(learner.logits),
            self.teacher_log_probabilities(teacher, 1.0),
            self.teacher_log_probabilities(teacher, self.temperature),
            hard_labels(lesson),
            self.temperature,
            self.nontarget_weight,
        )
