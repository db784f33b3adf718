"""uld: sorted probabilities match the teacher's, whatever the classes mean.

Boizard et al. Towards Cross-Tokenizer Distillation: the Universal Logit Distillation Loss for LLMs. TMLR 2025 (2024),
equation 7.

    L = Σ_i |p_s^(i) − p_t^(i)|, both sorted in descending order, one value per row

It is the Wasserstein distance between the two distributions where moving a probability to any other class costs the
same. The shorter vocabulary is filled up with zeros. The k-th row of a sample learns from the teacher's k-th; one that
the teacher does not have costs nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from kdlab.core.knowledge import Context, Example, Knowledge, Lesson, Progress, raised
from kdlab.heads.head import ResponseHead


def uld_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The distance of sorted probabilities, one value per row [N].

    Args:
        student: the student's logits [N, C].
        teacher: the teacher's log-probabilities [N, D] at the same temperature.
        temperature: T > 0.
    """
    ours, theirs = (raised(student) / temperature).softmax(dim=1), raised(teacher).exp()
    ours, theirs = (values.sort(dim=1, descending=True).values for values in (ours, theirs))
    wider = ours.shape[1] - theirs.shape[1]
    return (pad(ours, (0, max(0, -wider))) - pad(theirs, (0, max(0, wider)))).abs().sum(dim=1)


def counterparts(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """For each row [N], the teacher's row of the same sample and place within it, and whether there is one.

    Args:
        ours, theirs: the sample of each row, ascending, [N] and [K].
    """
    place = torch.arange(len(ours), device=ours.device) - torch.searchsorted(ours, ours)
    row = torch.searchsorted(theirs, ours) + place
    there = row < torch.searchsorted(theirs, ours, right=True)
    return row.clamp(max=len(theirs) - 1), there


class ULD(ResponseHead):
    """Sorted probabilities at one temperature; the networks may have other classes, and other rows."""

    paper = (
        "Boizard et al.: Towards Cross-Tokenizer Distillation: the Universal Logit Distillation Loss for LLMs, "
        "TMLR 2025"
    )
    link = "https://arxiv.org/abs/2402.12030"
    compares = "sorted probabilities, of any two vocabularies"
    rowwise = True

    def __init__(self, temperature: float, *, standardize: bool = False) -> None:
        super().__init__(temperature, standardize=standardize)
        self.temperature = temperature

    def build(self, learner: Example, teacher: Example, context: Context) -> None:
        """Any numbers of classes can be compared."""

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        student, target = self.scale(learner.logits), self.teacher_log_probabilities(teacher, self.temperature)
        if len(student) == len(target):
            return uld_loss(student, target, self.temperature)
        row, there = counterparts(learner.rows, teacher.rows)
        return uld_loss(student, target[row], self.temperature) * there
