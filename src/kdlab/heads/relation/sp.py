"""sp: which samples of a batch activate a network alike matches the teacher.

Tung, Mori. Similarity-Preserving Knowledge Distillation. ICCV 2019.

    G = F Fᵀ over flattened maps [N, DHW], its rows ℓ2-normalised
    L = ‖G_s − G_t‖² / N²

Only samples are compared with samples, so the two maps may have any shapes.
"""

from __future__ import annotations

from torch import Tensor

from kdlab.core.knowledge import Fields, Knowledge, Lesson, Needs, Progress, raised
from kdlab.heads.head import Head
from kdlab.heads.relation._rows import refuse_single, unit
from kdlab.heads.shapes import line_map


def similarity(features: Tensor) -> Tensor:
    """The similarities [N, N] of the samples of a batch of features [N, ...], rows of unit length."""
    flat = raised(features).flatten(1)
    return unit(flat @ flat.T)


def sp_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the similarities in two batches of features [N, ...]. A scalar.

    Raises:
        ValueError: for a batch of one sample.
    """
    refuse_single("sp", student)
    return (similarity(student) - similarity(teacher)).square().mean()


class SP(Head):
    """Similarities of samples at one stage."""

    kind = "relation"
    paper = "Tung, Mori: Similarity-Preserving Knowledge Distillation, ICCV 2019"
    link = "https://arxiv.org/abs/1907.09682"
    compares = "similarities between samples at one stage"

    def __init__(self, stage: int) -> None:
        super().__init__()
        self.stage = stage

    def needs(self) -> Needs:
        return Needs(learner=Fields(stages=(self.stage,)), teacher=Fields(stages=(self.stage,)))

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        return sp_loss(without_padding(learner, self.stage), without_padding(teacher, self.stage))


def without_padding(knowledge: Knowledge, position: int) -> Tensor:
    """One stage, whose padding is zero where it is a sequence of tokens."""
    stage, valid = knowledge.stage(position), knowledge.valid
    return stage if valid is None or stage.ndim != 3 else line_map(stage, valid)
