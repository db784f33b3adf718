"""mgd: from its own masked map, the student regenerates the whole map of the teacher.

Yang et al. Masked Generative Distillation. ECCV 2022.

    L = Σ (G(mask · A(F_s)) − F_t)² / B, summed over D, H, W

A is a 1×1 convolution where the channels differ; G is two 3×3 convolutions with a ReLU between. Whole channels
are masked for classification, positions for dense tasks, each with the probability `ratio`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from kdlab.core.knowledge import Context, Example, Fields, Knowledge, Lesson, Needs, Progress, raised
from kdlab.heads.head import Head
from kdlab.heads.shapes import Align, as_map, same_size, stage_map

Mask = Literal["channels", "positions"]


def mgd_loss(generated: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference of two maps [B, D, H, W], summed, over B. A scalar."""
    return mse_loss(raised(generated), raised(teacher), reduction="sum") / len(teacher)


def masked(features: Tensor, ratio: float, mask: Mask) -> Tensor:
    """A map [B, D, H, W], each of its channels or positions zero with the probability `ratio`, by sample."""
    batch, channels, height, width = features.shape
    shape = (batch, channels, 1, 1) if mask == "channels" else (batch, 1, height, width)
    return features * (torch.rand(shape, device=features.device) >= ratio)


class MGD(Head):
    """Masks one stage of the student, and regenerates the same stage of the teacher."""

    kind = "feature"
    paper = "Yang et al.: Masked Generative Distillation, ECCV 2022"
    link = "https://arxiv.org/abs/2205.01529"
    compares = "one map, regenerated from a masked one"

    def __init__(self, stage: int, mask: Mask, ratio: float) -> None:
        super().__init__()
        if mask not in ("channels", "positions"):
            raise ValueError(f"mgd masks channels or positions, not {mask!r}: set mask to one of the two")
        if not 0 <= ratio < 1:
            raise ValueError(f"mgd masks a share of the map: ratio={ratio}, expected a number in [0, 1)")
        self.stage = stage
        self.mask: Mask = mask
        self.ratio = ratio

    def needs(self) -> Needs:
        return Needs(learner=Fields(stages=(self.stage,)), teacher=Fields(stages=(self.stage,)))

    def build(self, learner: Example, teacher: Example, context: Context) -> None:
        source, target = stage_map(learner, self.stage).shape[1], stage_map(teacher, self.stage).shape[1]
        self.align = nn.Identity() if source == target else Align(source, target)
        self.generation = nn.Sequential(
            nn.Conv2d(target, target, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(target, target, 3, padding=1),
        )

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        ours, theirs = same_size(as_map(learner.stage(self.stage)), as_map(teacher.stage(self.stage)))
        return mgd_loss(self.generation(masked(self.align(ours), self.ratio, self.mask)), theirs)
