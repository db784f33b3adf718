"""fsp: the flow between neighbouring stages, the products of their channels, matches the teacher's.

Yim et al. A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer
Learning. CVPR 2017, equations 1 and 2.

    G_ab = 1/(HW) Σ_hw F^shallow_a · F^deep_b
    L = Σ over pairs of neighbouring stages of mean (G_s − G_t)²

The first flow is from the stem to the first stage, as Tian et al. (2020) have it: three flows in a network of three
stages. Where one network has no stem, or a mode provides none, the flows are those between stages.

Of two neighbours the larger map is average-pooled to the smaller. The paper needs equal channels; here a
learned 1×1 convolution brings the student's to the teacher's where they differ. The authors train first with
this loss alone, then with the task alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from kdlab.core.knowledge import Context, Example, Fields, Knowledge, Lesson, Needs, Progress, raised
from kdlab.heads.head import Head
from kdlab.heads.relation._stages import StagePairs
from kdlab.heads.shapes import same_size


def flow(shallow: Tensor, deep: Tensor, valid: Tensor | None = None) -> Tensor:
    """The flow matrix [N, A, B] between two maps [N, A, ., .] and [N, B, ., .]; equation 1.

    On lines [N, ., 1, L] with padding, which is zero, HW is the number of tokens: of the positions valid [N, L].
    """
    shallow, deep = (features.flatten(2) for features in same_size(raised(shallow), raised(deep)))
    return shallow @ deep.mT / (shallow.shape[2] if valid is None else valid.sum(dim=1)[:, None, None])


def fsp_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], valid: Tensor | None = None) -> Tensor:
    """Mean squared difference of the flows of neighbouring maps [N, D, H, W], summed over pairs. A scalar.

    Args:
        student: maps from shallow to deep, with the teacher's channels; height and width are free.
        teacher: as many maps.
        valid: of lines, the positions that hold tokens.
    """
    terms = [
        mse_loss(flow(*ours, valid), flow(*theirs, valid))
        for ours, theirs in zip(pairwise(student), pairwise(teacher), strict=True)
    ]
    return torch.stack(terms).sum()


class FSP(Head):
    """Flows between all neighbouring maps, the stem's included."""

    kind = "relation"
    paper = "Yim et al.: A Gift from Knowledge Distillation, CVPR 2017"
    link = "https://openaccess.thecvf.com/content_cvpr_2017/html/Yim_A_Gift_From_CVPR_2017_paper.html"
    compares = "products of the channels of neighbouring stages"

    def needs(self) -> Needs:
        whole = Fields(stages="all", stem=True)
        return Needs(learner=whole, teacher=whole)

    def build(self, learner: Example, teacher: Example, context: Context) -> None:
        self.stages = StagePairs(learner, teacher, stem=True)

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        ours, theirs = self.stages(learner, teacher)
        return fsp_loss(ours, theirs, learner.valid if self.stages.line else None)
