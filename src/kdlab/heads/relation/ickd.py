"""ickd: which channels of a map fire together matches the teacher.

Liu et al. Exploring Inter-Channel Correlation for Diversity-preserved Knowledge Distillation. ICCV 2021.

    G = F Fᵀ per sample, F [D, HW] after a 1×1 convolution and batch normalisation on the student's side,
    rows ℓ2-normalised
    L = Σ (G_s − G_t)² / (D · N)

Positions are summed over, so the two maps may have any height and width.
"""

from __future__ import annotations

from torch import Tensor

from kdlab.core.knowledge import Context, Example, Fields, Knowledge, Lesson, Needs, Progress, raised
from kdlab.heads.head import Head
from kdlab.heads.relation._rows import unit
from kdlab.heads.shapes import Align, mapped, on_line, read_map, stage_map


def correlation(features: Tensor) -> Tensor:
    """The channels' correlations [N, D, D] in maps [N, D, H, W], rows of unit length."""
    flat = raised(features).flatten(2)
    return unit(flat @ flat.mT)


def ickd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared differences of the channels' correlations in maps [N, D, ., .], over D · N. A scalar."""
    difference = correlation(student) - correlation(teacher)
    return difference.square().sum(dim=2).mean()


class ICKD(Head):
    """Channels' correlations at one stage, in the teacher's channels."""

    kind = "relation"
    paper = "Liu et al.: Exploring Inter-Channel Correlation for Diversity-preserved Knowledge Distillation, ICCV 2021"
    link = "https://arxiv.org/abs/2202.03680"
    compares = "correlations between channels at one stage"

    def __init__(self, stage: int) -> None:
        super().__init__()
        self.stage = stage

    def needs(self) -> Needs:
        return Needs(learner=Fields(stages=(self.stage,)), teacher=Fields(stages=(self.stage,)))

    def build(self, learner: Example, teacher: Example, context: Context) -> None:
        self.line = on_line(learner, teacher)
        ours, theirs = (stage_map(example, self.stage, line=True) for example in (learner, teacher))
        self.align = Align(ours.shape[1], theirs.shape[1], norm=True)

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        ours, theirs = (read_map(knowledge, self.stage, line=self.line) for knowledge in (learner, teacher))
        return ickd_loss(mapped(self.align, ours, learner.valid if self.line else None), theirs)
