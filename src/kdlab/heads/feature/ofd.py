"""ofd: the student matches what passes the teacher's activation, and is left alone where neither is active.

Heo, Kim, Yun, Park, Kwak, Choi. A Comprehensive Overhaul of Feature Distillation. ICCV 2019.

    L = Σ_stages 2^(i − last) mean over samples of Σ_dhw d(s, τ),  τ = max(t, m)
    d(s, τ) = 0 where s ≤ τ ≤ 0,  (s − τ)² elsewhere

s, t are the maps before their activation, s through a 1×1 convolution with normalisation. The margin m of
a channel is the mean of its negative responses: with mean μ and deviation σ, taken as normal,

    m = E[x | x < 0] = μ − σ φ(μ/σ) / Φ(−μ/σ);  −3σ where Φ(−μ/σ) ≤ 0.001

μ and σ are the bias and the absolute weight of the batch normalisation before the teacher's activation.
Where there is none with as many channels, they are measured on the dry-run batch.
"""

from __future__ import annotations

from math import pi, sqrt

import torch
from torch import Tensor, nn

from kdlab.core.knowledge import Context, Example, Fields, Knowledge, Lesson, Needs, Progress, raised
from kdlab.heads.head import Head
from kdlab.heads.shapes import Align, as_map, paired_stages, same_size, stage_map


def ofd_loss(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """Partial L2 distance of two preactivations [N, D, H, W], summed over [D, H, W], mean over N. A scalar.

    Args:
        student: preactivations [N, D, H, W].
        teacher: preactivations [N, D, H, W]; where H and W differ, the larger is average-pooled.
        margin: [D], not above zero.
    """
    student, target = same_size(raised(student), raised(teacher))
    target = target.maximum(raised(margin)[:, None, None])
    counts = (student > target) | (target > 0)
    return ((student - target).square() * counts).sum(dim=(1, 2, 3)).mean()


def negative_mean(mean: Tensor, deviation: Tensor) -> Tensor:
    """The margin m [D] of normal responses of this mean [D] and deviation [D]; float64, not above zero."""
    mean, deviation = mean.double(), deviation.double().abs()
    ratio = mean / deviation
    share = torch.special.ndtr(-ratio)
    density = torch.exp(-ratio.square() / 2) / sqrt(2 * pi)
    return torch.where(share > 0.001, mean - deviation * density / share, -3 * deviation)


class OFD(Head):
    """Margin-ReLU targets at every pair of stages, the deepest with weight 1, each one before it with half the weight.

    Margins are computed once, when the head is built, from the trained teacher.
    """

    kind = "feature"
    paper = "Heo et al.: A Comprehensive Overhaul of Feature Distillation, ICCV 2019"
    link = "https://arxiv.org/abs/1904.01866"
    compares = "each stage before its activation, where either is active"

    def needs(self) -> Needs:
        return Needs(
            learner=Fields(preactivations="all"),
            teacher=Fields(preactivations="all", normalisations=True),
        )

    def build(self, learner: Example, teacher: Example, context: Context) -> None:
        self.pairs = paired_stages(learner, teacher)
        self.stages = nn.ModuleList()
        for ours, theirs in self.pairs:
            source = stage_map(learner, ours, preactivation=True).shape[1]
            self.stages.append(_Stage(source, negative_mean(*_responses(teacher, theirs)).float()))

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        losses = []
        for place, (stage, (ours, theirs)) in enumerate(zip(self.stages, self.pairs, strict=True), 1):
            loss = stage(as_map(learner.preactivation(ours)), as_map(teacher.preactivation(theirs)))
            losses.append(loss / 2 ** (len(self.pairs) - place))
        return torch.stack(losses).sum()


class _Stage(nn.Module):
    def __init__(self, channels: int, margin: Tensor) -> None:
        super().__init__()
        self.connector = Align(channels, len(margin), norm=True)
        self.margin: Tensor
        self.register_buffer("margin", margin)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return ofd_loss(self.connector(student), teacher, self.margin)


def _responses(teacher: Example, position: int) -> tuple[Tensor, Tensor]:
    # Mean and deviation of each channel before the activation.
    features = stage_map(teacher, position, preactivation=True).detach().cpu()
    norm = teacher.normalisations[position] if teacher.normalisations else None
    if isinstance(norm, (nn.BatchNorm2d, nn.SyncBatchNorm)) and norm.affine and norm.num_features == features.shape[1]:
        return norm.bias.detach().cpu(), norm.weight.detach().cpu()
    return features.double().mean(dim=(0, 2, 3)), features.double().std(dim=(0, 2, 3), correction=0)
