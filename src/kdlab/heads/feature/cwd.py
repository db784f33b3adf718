"""cwd: each channel of the student has its mass at the positions where the teacher's has it.

Shu, Liu, Gao, Yan, Shen. Channel-wise Knowledge Distillation for Dense Prediction. ICCV 2021.

    L = T² · mean over samples and channels of KL(softmax_p(t / T) ‖ softmax_p(s / T)), p the positions of a map

The student's map passes a learned 1×1 convolution where the channels differ.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div

from kdlab.core.knowledge import Context, Example, Fields, Knowledge, Lesson, Needs, Progress, raised
from kdlab.heads.head import Head
from kdlab.heads.shapes import Align, mapped, on_line, read_map, same_size, spatial_pairs, stage_map


def cwd_loss(student: Tensor, teacher: Tensor, temperature: float, valid: Tensor | None = None) -> Tensor:
    """T² · KL(teacher ‖ student) over the positions of two maps [N, D, H, W], mean over N and D. A scalar.

    Args:
        student: a map [N, D, H, W].
        teacher: a map [N, D, H, W]; where H and W differ, the larger is average-pooled.
        temperature: T > 0.
        valid: on a line [N, D, 1, L], the positions [N, L] that are no padding; None: all.
    """
    student, teacher = same_size(raised(student), raised(teacher))
    student, teacher = (features.flatten(2) / temperature for features in (student, teacher))
    if valid is not None:
        lowest = torch.finfo(student.dtype).min
        student, teacher = (features.masked_fill(~valid[:, None], lowest) for features in (student, teacher))
    ours, theirs = student.log_softmax(dim=2), teacher.log_softmax(dim=2)
    return temperature**2 * kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=2).mean()


class CWD(Head):
    """Channels of one stage as distributions over its positions."""

    kind = "feature"
    paper = "Shu et al.: Channel-wise Knowledge Distillation for Dense Prediction, ICCV 2021"
    link = "https://arxiv.org/abs/2011.13256"
    compares = "where each channel of a map has its mass"

    def __init__(self, stage: int, temperature: float) -> None:
        super().__init__()
        self.stage = stage
        self.temperature = temperature

    def needs(self) -> Needs:
        return Needs(learner=Fields(stages=(self.stage,)), teacher=Fields(stages=(self.stage,)))

    def build(self, learner: Example, teacher: Example, context: Context) -> None:
        spatial_pairs(learner, teacher, ((self.stage, self.stage),), line=True)
        self.line = on_line(learner, teacher)
        ours, theirs = (stage_map(example, self.stage, line=True).shape[1] for example in (learner, teacher))
        self.align = nn.Identity() if ours == theirs else Align(ours, theirs)

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        valid = learner.valid if self.line else None
        ours, theirs = (read_map(knowledge, self.stage, line=self.line) for knowledge in (learner, teacher))
        return cwd_loss(mapped(self.align, ours, valid), theirs, self.temperature, valid)
