"""nst: over the channels, the student's patterns of positions are distributed like the teacher's.

Huang, Wang. Like What You Like: Knowledge Distill via Neuron Selectivity Transfer. 2017. With the polynomial
kernel of degree 2 without a constant.

    L = Σ_stages mean_ij k(t_i, t_j) + mean_ij k(s_i, s_j) − 2 mean_ij k(s_i, t_j),  k(a, b) = (a·b)²

s_i, t_j are the channels of a sample, flattened over the positions, each of unit length; the mean is over
pairs of channels and samples. This is a squared maximum mean discrepancy, and with this kernel

    L = ‖SᵀS / D_s − TᵀT / D_t‖²_F,  S [D_s, P] and T [D_t, P] the channels as rows

so that the products are P × P or D × D: the smaller is made, and never the D × D × P of the definition.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from kdlab.core.knowledge import Context, Example, Fields, Knowledge, Lesson, Needs, Progress, raised
from kdlab.heads.head import Head
from kdlab.heads.shapes import on_line, paired_stages, read_map, same_size, spatial_pairs


def nst_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared maximum mean discrepancy between the channels of two maps [N, D, H, W]. A scalar.

    D may differ; where H and W do, the larger map is average-pooled. Memory is N · min(P, max D)² numbers.
    """
    student, teacher = same_size(raised(student), raised(teacher))
    student, teacher = normalize(student.flatten(2), dim=2), normalize(teacher.flatten(2), dim=2)
    channels, positions = max(student.shape[1], teacher.shape[1]), student.shape[2]
    if positions <= channels:
        return (_over_positions(student) - _over_positions(teacher)).square().sum(dim=(1, 2)).mean()
    return _kernel(teacher, teacher) + _kernel(student, student) - 2 * _kernel(student, teacher)


class NST(Head):
    """Neuron selectivity at every pair of stages; nothing is learned."""

    kind = "feature"
    paper = "Huang, Wang: Like What You Like: Knowledge Distill via Neuron Selectivity Transfer, 2017"
    link = "https://arxiv.org/abs/1707.01219"
    compares = "the distribution of channels over positions"

    def needs(self) -> Needs:
        return Needs(learner=Fields(stages="all"), teacher=Fields(stages="all"))

    def build(self, learner: Example, teacher: Example, context: Context) -> None:
        self.pairs = spatial_pairs(learner, teacher, paired_stages(learner, teacher), line=True)
        self.line = on_line(learner, teacher)

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        losses = [
            nst_loss(read_map(learner, ours, line=self.line), read_map(teacher, theirs, line=self.line))
            for ours, theirs in self.pairs
        ]
        return torch.stack(losses).sum()


def _over_positions(channels: Tensor) -> Tensor:
    return channels.transpose(1, 2) @ channels / channels.shape[1]


def _kernel(one: Tensor, other: Tensor) -> Tensor:
    return (one @ other.transpose(1, 2)).square().mean()
