"""pkd: at several blocks, the token that is classified points where the teacher's does.

Sun, Cheng, Gan, Liu. Patient Knowledge Distillation for BERT Model Compression. EMNLP 2019, equation 7.

    L = mean over pairs of blocks, samples and channels of (h_s / ‖h_s‖ − h_t / ‖h_t‖)²

h is the state of the first token, [CLS]; of a network that reads from left to right choose the last one, which has seen
the others. The paper sums; the authors' code, which the weight belongs to, takes the mean. Theirs has the teacher's
width; where ours has not, a learned linear layer for each block maps it.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, normalize

from kdlab.core.knowledge import Context, Example, Fields, Knowledge, Lesson, Needs, Progress, raised
from kdlab.heads.head import Head
from kdlab.heads.layers import Layers, check_layers, paired_blocks, projection

Token = Literal["first", "last"]


def pkd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the directions of states [..., D]. A scalar."""
    return mse_loss(normalize(raised(student), dim=-1), normalize(raised(teacher), dim=-1))


def state(block: Tensor, valid: Tensor | None, token: Token) -> Tensor:
    """The state [B, D] of the first token of a block [B, L, D], or of the last one that is valid [B, L]."""
    if token == "first" or valid is None:
        return block[:, 0 if token == "first" else -1]
    return block[torch.arange(len(block), device=block.device), valid.sum(dim=1) - 1]


class PKD(Head):
    """One token's state at every pair of blocks.

    Args:
        layers: which blocks; see `kdlab.heads.layers`.
        token: `first` or `last`.
    """

    kind = "feature"
    paper = "Sun et al.: Patient Knowledge Distillation for BERT Model Compression, EMNLP 2019"
    link = "https://arxiv.org/abs/1908.09355"
    compares = "directions of one token's state at several blocks"

    def __init__(self, layers: Layers, token: Token) -> None:
        super().__init__()
        check_layers(layers)
        if token not in get_args(Token):
            raise ValueError(f"token={token}: expected {' or '.join(get_args(Token))}")
        self.layers = layers
        self.token: Token = token

    def needs(self) -> Needs:
        return Needs(learner=Fields(blocks="all"), teacher=Fields(blocks="all"))

    def build(self, learner: Example, teacher: Example, context: Context) -> None:
        self.pairs = paired_blocks(learner, teacher, self.layers)
        self.projections = nn.ModuleList(
            projection(learner.knowledge.block(ours).shape[-1], teacher.knowledge.block(theirs).shape[-1])
            for ours, theirs in self.pairs
        )

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        students, teachers = [], []
        for mapped, (ours, theirs) in zip(self.projections, self.pairs, strict=True):
            students.append(mapped(state(learner.block(ours), learner.valid, self.token)))
            teachers.append(state(teacher.block(theirs), teacher.valid, self.token))
        losses = [pkd_loss(student, teacher) for student, teacher in zip(students, teachers, strict=True)]
        return torch.stack(losses).mean()
