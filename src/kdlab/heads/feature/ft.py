"""ft: the student's factors match factors of the teacher that are easier to follow than its maps.

Kim, Park, Kwak. Paraphrasing Complex Network: Network Compression via Factor Transfer. NeurIPS 2018.

    first    L = mean (P(F_t) − F_t)²
    then     L = mean | f_s / ‖f_s‖₂ − f_t / ‖f_t‖₂ |, f flattened per sample

P is the paraphraser, a convolutional autoencoder fitted to the teacher alone; f_t is its code of rate · D
channels, fixed in the second phase, and f_s comes from the translator, a student-side copy of the encoder.
Layers are as in the authors' code: 3×3, leaky ReLU of slope 0.1, no normalisation. The variants:

- `paraphraser`, the paper's: f is the code itself. The authors' weight is 500, on CIFAR-10;
- `paraphraser_mean`, that of Tian et al. (2020): f is the mean over channels of the squared code, one number per
  position, and the translator has batch normalisation. Their weight is 200, on CIFAR-100;
- `channel_mean`: f is the mean over channels of F², without learned parts. Unpublished.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss, mse_loss, normalize

from kdlab.core.knowledge import Context, Example, Fields, Knowledge, Lesson, Needs, Progress, raised
from kdlab.heads.head import Head
from kdlab.heads.shapes import as_map, same_size, spatial_pairs, stage_map

Variant = Literal["paraphraser", "paraphraser_mean", "channel_mean"]


def ft_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference of two factors [N, D, H, W], each sample scaled to unit length. A scalar.

    Where H and W differ, the larger factor is average-pooled first.
    """
    student, teacher = same_size(raised(student), raised(teacher))
    return l1_loss(normalize(student.flatten(1), dim=1), normalize(teacher.flatten(1), dim=1))


def channel_mean(features: Tensor) -> Tensor:
    """The mean of F² over channels, [N, D, H, W] to [N, 1, H, W]."""
    return raised(features).square().mean(dim=1, keepdim=True)


class Paraphraser(nn.Module):
    """An autoencoder of maps [N, D, H, W] whose code has `factors` channels at the same resolution."""

    def __init__(self, channels: int, factors: int) -> None:
        super().__init__()
        self.encoder = _layers(nn.Conv2d, channels, channels, factors, factors)
        self.decoder = _layers(nn.ConvTranspose2d, factors, factors, channels, channels)

    def forward(self, features: Tensor) -> Tensor:
        """The reconstruction of a map, of the same shape."""
        result: Tensor = self.decoder(self.encoder(features))
        return result


class FT(Head):
    """Factors of one stage, learned or fixed.

    Args:
        stage: the position of the map on both sides; the paper takes the last.
        variant: see above; `channel_mean` has nothing to prepare.
        rate: the paraphrase rate k, channels of the code per channel of the teacher's map.
    """

    kind = "feature"
    paper = "Kim, Park, Kwak: Paraphrasing Complex Network: Network Compression via Factor Transfer, NeurIPS 2018"
    link = "https://arxiv.org/abs/1802.04977"
    compares = "factors of the last map"

    def __init__(self, stage: int, variant: Variant, rate: float) -> None:
        super().__init__()
        if variant not in get_args(Variant):
            raise ValueError(f"variant={variant}; expected {' or '.join(get_args(Variant))}")
        if rate <= 0:
            raise ValueError(f"rate={rate}; expected a number above 0, such as 0.5")
        self.stage = stage
        self.variant = variant
        self.rate = rate

    def needs(self) -> Needs:
        return Needs(learner=Fields(stages=(self.stage,)), teacher=Fields(stages=(self.stage,)))

    def build(self, learner: Example, teacher: Example, context: Context) -> None:
        if self.variant == "channel_mean":
            spatial_pairs(learner, teacher, ((self.stage, self.stage),))
            return
        ours, theirs = stage_map(learner, self.stage).shape[1], stage_map(teacher, self.stage).shape[1]
        factors = max(1, round(theirs * self.rate))
        self.paraphraser = Paraphraser(theirs, factors)
        self.translator = _layers(nn.Conv2d, ours, ours, factors, factors, norm=self.variant == "paraphraser_mean")

    def prepared(self) -> tuple[nn.Module, ...]:
        """The paraphraser, where there is one."""
        return () if self.variant == "channel_mean" else (self.paraphraser,)

    def prepare(self, teacher: Knowledge) -> Tensor:
        """The paraphraser's reconstruction error, a scalar."""
        features = as_map(teacher.stage(self.stage))
        return mse_loss(raised(self.paraphraser(features)), raised(features))

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        ours, theirs = as_map(learner.stage(self.stage)), as_map(teacher.stage(self.stage))
        if self.variant == "channel_mean":
            ours, theirs = same_size(ours, theirs)
            return ft_loss(channel_mean(ours), channel_mean(theirs))
        with torch.no_grad():
            factors = self.paraphraser.encoder(theirs)
        translated = self.translator(ours)
        if self.variant == "paraphraser":
            return ft_loss(translated, factors)
        # Pooled before they are squared, as published.
        translated, factors = same_size(translated, factors)
        return ft_loss(channel_mean(translated), channel_mean(factors))


def _layers(layer: type[nn.Conv2d] | type[nn.ConvTranspose2d], *widths: int, norm: bool = False) -> nn.Sequential:
    modules: list[nn.Module] = []
    for source, target in pairwise(widths):
        modules += [layer(source, target, 3, padding=1)]
        modules += [nn.BatchNorm2d(target)] if norm else []
        modules += [nn.LeakyReLU(0.1)]
    return nn.Sequential(*modules)
