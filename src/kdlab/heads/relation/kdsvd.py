"""kdsvd: how the strongest direction of a map changes from stage to stage matches the teacher.

Lee, Kim, Song. Self-supervised Knowledge Distillation Using Singular Value Decomposition. ECCV 2018.

    F [HW, D] = U Σ Vᵀ; from the teacher the first `vectors` columns of V, from the student `candidates`
    v_s = the candidate of largest |cos| with v_t, with its sign; both times the teacher's σ / ‖σ‖
    R_ij = exp(−(v^deep_i − v^shallow_j)² / 8), element by element, between neighbouring stages
    L = Σ over pairs and entries of (R_s − R_t)² / N

Where channels differ, a learned 1×1 convolution brings the student's to the teacher's. R has D × D entries
per sample, 0.5 GB for stages of 1024 and 2048 channels and a batch of 64.

V comes from the eigenvectors of the smaller Gram matrix, which leaves the sign of a column
open. Here the teacher's columns are made to have a positive sum, so that the loss is the same on every device; for maps
after ReLU, whose first column has one sign, so it is in the authors' code.

Singular vectors change infinitely fast where two singular values coincide. Their gradient is written out to first
order, dv_j = Σ_i v_i (v_iᵀ dG v_j) / (λ_j − λ_i), with 1/g replaced by g / (g² + damping²), where the λ of a
sample sum to one: exact far from that point, at most 1/(2 damping) near it, zero at it. On a GPU the
decomposition makes the host wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import normalize

from kdlab.core.knowledge import Context, Example, Fields, Knowledge, Lesson, Needs, Progress, raised
from kdlab.heads.head import Head
from kdlab.heads.relation._rows import unit
from kdlab.heads.relation._stages import StagePairs


def singular(features: Tensor, count: int, damping: float) -> tuple[Tensor, Tensor]:
    """The first right-singular vectors [N, D, K] of maps [N, D, H, W] as [HW, D], and the values [N, K].

    Values are relative to the map's norm. K is `count`, or D or HW where that is less. Vectors whose value
    is below `damping` are shortened rather than amplified, where HW < D.
    """
    columns = raised(features).flatten(2)
    columns = unit(columns.flatten(1)).view_as(columns)
    wide = columns.shape[2] < columns.shape[1]
    gram = columns.mT @ columns if wide else columns @ columns.mT
    values, vectors = (each.flip(-1) for each in torch.linalg.eigh(gram.detach()))
    first = vectors[:, :, :count]
    gaps = values[:, None, :count] - values[:, :, None]
    # Zero in value; its gradient is the rotation of each vector towards the others.
    turn = gaps / (gaps.square() + damping**2) * (vectors.mT @ (gram - gram.detach()) @ first)
    first = first + vectors @ turn
    if wide:
        first = normalize(columns @ first, dim=1, eps=damping)
    return first, values[:, :count].clamp(min=0).sqrt()


def aligned(candidates: Tensor, target: Tensor) -> Tensor:
    """For each column of `target` [N, D, K] that of `candidates` [N, D, M] of largest |cos|, with its sign."""
    cosine = candidates.detach().mT @ target
    chosen = cosine.abs().argmax(dim=1, keepdim=True)
    sign = torch.where(cosine.gather(1, chosen) >= 0, 1.0, -1.0)
    return candidates.gather(2, chosen.expand(-1, candidates.shape[1], -1)) * sign


def kdsvd_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], vectors: int, candidates: int, damping: float
) -> Tensor:
    """Squared differences of the kernels between neighbouring maps [N, D, ., .], over N. A scalar.

    Args:
        student: maps from shallow to deep, with the teacher's channels; height and width are free.
        teacher: as many maps.
        vectors: singular vectors of the teacher, K.
        candidates: singular vectors of the student to choose from.
        damping: of the gradient; greater than 0.
    """
    ours, theirs = [], []
    for student_map, teacher_map in zip(student, teacher, strict=True):
        target, values = singular(teacher_map, vectors, damping)
        target = target * torch.where(target.sum(dim=1, keepdim=True) >= 0, 1.0, -1.0)
        found = aligned(singular(student_map, candidates, damping)[0], target)
        scale = unit(values)[:, None]
        ours.append(found * scale)
        theirs.append(target * scale)
    terms = [
        (_kernel(*one) - _kernel(*other)).square().sum() / len(student[0])
        for one, other in zip(pairwise(ours), pairwise(theirs), strict=True)
    ]
    return torch.stack(terms).sum()


def _kernel(shallow: Tensor, deep: Tensor) -> Tensor:
    count = min(shallow.shape[2], deep.shape[2])
    gaps = deep[:, :, None, :count] - shallow[:, None, :, :count]
    return torch.exp(-gaps.square() / 8)


class KDSVD(Head):
    """Singular vectors of all neighbouring stages."""

    kind = "relation"
    paper = "Lee, Kim, Song: Self-supervised Knowledge Distillation Using Singular Value Decomposition, ECCV 2018"
    link = "https://arxiv.org/abs/1807.06819"
    compares = "singular vectors of neighbouring stages"

    def __init__(self, vectors: int, candidates: int, damping: float) -> None:
        super().__init__()
        self.vectors = vectors
        self.candidates = candidates
        self.damping = damping

    def needs(self) -> Needs:
        return Needs(learner=Fields(stages="all"), teacher=Fields(stages="all"))

    def build(self, learner: Example, teacher: Example, context: Context) -> None:
        self.stages = StagePairs(learner, teacher)

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        ours, theirs = self.stages(learner, teacher)
        return kdsvd_loss(ours, theirs, self.vectors, self.candidates, self.damping)
