"""vid: the teacher's map is likely under a Gaussian whose mean the student predicts.

Ahn, Hu, Damianou, Lawrence, Dai. Variational Information Distillation for Knowledge Transfer. CVPR 2019.

    L = Σ_stages ½ mean [ (μ(F_s) − F_t)² / σ² + log σ² ],  σ_d² = softplus(a_d) + 1e-5

The negative of a lower bound on the mutual information of the two maps. μ is three 1×1
convolutions with ReLU between; each channel of the teacher has one a, trained with the rest. The constant
log 2π of the density is left out, so the loss may fall below zero.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from kdlab.core.knowledge import Context, Example, Fields, Knowledge, Lesson, Needs, Progress, raised
from kdlab.heads.head import Head
from kdlab.heads.shapes import as_map, on_line, paired_stages, same_size, stage_map, tokens_of


def vid_loss(mean: Tensor, teacher: Tensor, raw_variance: Tensor) -> Tensor:
    """Negative log-likelihood of the teacher's map, averaged over everything. A scalar.

    Args:
        mean: μ, predicted from the student, [N, D, H, W].
        teacher: the teacher's map [N, D, H, W].
        raw_variance: a [D], turned into a variance by softplus.
    """
    variance = (softplus(raised(raw_variance)) + 1e-5)[:, None, None]
    return 0.5 * ((raised(mean) - raised(teacher)).square() / variance + variance.log()).mean()


class VID(Head):
    """A regression with a learned variance at every pair of stages; the larger map is average-pooled first.

    Args:
        raw_variance: the initial value of every a; 5.0 is a variance of 5.007.
    """

    kind = "feature"
    paper = "Ahn et al.: Variational Information Distillation for Knowledge Transfer, CVPR 2019"
    link = "https://arxiv.org/abs/1904.05835"
    compares = "each stage, through a learned Gaussian"

    def __init__(self, raw_variance: float) -> None:
        super().__init__()
        self.raw_variance = raw_variance

    def needs(self) -> Needs:
        return Needs(learner=Fields(stages="all"), teacher=Fields(stages="all"))

    def build(self, learner: Example, teacher: Example, context: Context) -> None:
        self.pairs = paired_stages(learner, teacher)
        self.line = on_line(learner, teacher)
        self.means = nn.ModuleList()
        self.raw_variances = nn.ParameterList()
        for ours, theirs in self.pairs:
            source = stage_map(learner, ours, line=True).shape[1]
            target = stage_map(teacher, theirs, line=True).shape[1]
            self.means.append(
                nn.Sequential(
                    nn.Conv2d(source, target, 1, bias=False),
                    nn.ReLU(inplace=True),
                    nn.Conv2d(target, target, 1, bias=False),
                    nn.ReLU(inplace=True),
                    nn.Conv2d(target, target, 1, bias=False),
                )
            )
            self.raw_variances.append(torch.full((target,), self.raw_variance))

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        losses = []
        for mean, raw_variance, (ours, theirs) in zip(self.means, self.raw_variances, self.pairs, strict=True):
            one, other = learner.stage(ours), teacher.stage(theirs)
            if self.line:
                student, target = (tokens_of(tokens, learner.valid) for tokens in (one, other))
            else:
                student, target = same_size(as_map(one), as_map(other))
            losses.append(vid_loss(mean(student), target, raw_variance))
        return torch.stack(losses).sum()
