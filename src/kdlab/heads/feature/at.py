"""at: the student is active at the places of the map where the teacher is.

Zagoruyko, Komodakis. Paying More Attention to Attention: Improving the Performance of Convolutional
Neural Networks via Attention Transfer. ICLR 2017, equation 2.

    L = Σ_stages mean (Q(F_s) − Q(F_t))²,  Q(F) = q / ‖q‖₂,  q = vec(mean over channels of F²)

The paper's ‖Q_s − Q_t‖₂ is taken squared and averaged over samples and positions, as in the authors' code
and in that of Tian et al. (2020), whose weight this is. On a sequence the positions are its tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import mse_loss, normalize

from kdlab.core.knowledge import Context, Example, Fields, Knowledge, Lesson, Needs, Progress, raised
from kdlab.heads.head import Head
from kdlab.heads.layers import token_mean
from kdlab.heads.shapes import on_line, paired_stages, read_map, same_size, spatial_pairs


def attention(features: Tensor) -> Tensor:
    """Q: how active a map [N, D, H, W] is at each position, [N, H·W] of unit length; zero where the map is."""
    return normalize(raised(features).square().mean(dim=1).flatten(1), dim=1)


def at_loss(student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean squared difference of the attention of two maps [N, D, H, W] of any channels. A scalar.

    Where the maps differ in height and width, the larger is average-pooled first. On a line [N, D, 1, L], padding is
    zero and the mean is over the positions that are valid [N, L].
    """
    student, teacher = same_size(raised(student), raised(teacher))
    if valid is None:
        return mse_loss(attention(student), attention(teacher))
    return token_mean((attention(student) - attention(teacher)).square(), valid)


class AT(Head):
    """Attention at every pair of stages; nothing is learned."""

    kind = "feature"
    paper = "Zagoruyko, Komodakis: Paying More Attention to Attention, ICLR 2017"
    link = "https://arxiv.org/abs/1612.03928"
    compares = "where each stage is active"

    def needs(self) -> Needs:
        return Needs(learner=Fields(stages="all"), teacher=Fields(stages="all"))

    def build(self, learner: Example, teacher: Example, context: Context) -> None:
        self.pairs = spatial_pairs(learner, teacher, paired_stages(learner, teacher), line=True)
        self.line = on_line(learner, teacher)

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        valid = learner.valid if self.line else None
        losses = [
            at_loss(read_map(learner, ours, line=self.line), read_map(teacher, theirs, line=self.line), valid)
            for ours, theirs in self.pairs
        ]
        return torch.stack(losses).sum()
