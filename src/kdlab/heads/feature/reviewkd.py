"""reviewkd: each stage of the teacher teaches the student's fused maps of that stage and all deeper ones.

Chen et al. Distilling Knowledge via Knowledge Review. CVPR 2021.

    U_i = ABF(F_s^i, U_{i+1}), from the embedding (as a 1×1 map) back to the shallowest stage
    L = Σ_i HCL(R_i, F_t^i), R_i the output of the fusion at stage i
    HCL(R, F) = Σ_l w_l · MSE(pool_l(R), pool_l(F)) / Σ_l w_l, l the full size, then 4, 2, 1; w = 1, ½, ¼, …

F_t are the teacher's maps before their last activation; a stage without one gives the map itself.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate, mse_loss

from kdlab.core.knowledge import Context, Example, Fields, Knowledge, Lesson, Needs, Progress, raised
from kdlab.heads.head import Head
from kdlab.heads.shapes import as_map, layer_name, paired_stages, stage_map


def context_loss(reviewed: Tensor, target: Tensor) -> Tensor:
    """Hierarchical context loss of two maps [B, D, H, W]: a scalar; section 3.3 of the paper.

    Levels that are not smaller than the map are left out, and the weights halve over those that remain.
    """
    reviewed, target = raised(reviewed), raised(target)
    loss, weight, total = mse_loss(reviewed, target), 1.0, 1.0
    for level in (4, 2, 1):
        if level < min(reviewed.shape[2:]):
            weight /= 2
            total += weight
            loss = loss + weight * mse_loss(adaptive_avg_pool2d(reviewed, level), adaptive_avg_pool2d(target, level))
    return loss / total


class AttentionFusion(nn.Module):
    """One map of the student, mixed with the fused deeper ones by two learned attention maps (ABF).

    `deepest`: there is no deeper map to mix.
    """

    def __init__(self, source: int, width: int, target: int, *, deepest: bool) -> None:
        super().__init__()
        narrow, widen = nn.Conv2d(source, width, 1, bias=False), nn.Conv2d(width, target, 3, padding=1, bias=False)
        nn.init.kaiming_uniform_(narrow.weight, a=1)
        nn.init.kaiming_uniform_(widen.weight, a=1)
        self.narrow = nn.Sequential(narrow, nn.BatchNorm2d(width))
        self.widen = nn.Sequential(widen, nn.BatchNorm2d(target))
        self.attention = None if deepest else nn.Sequential(nn.Conv2d(2 * width, 2, 1), nn.Sigmoid())

    def forward(self, features: Tensor, deeper: Tensor | None, size: torch.Size) -> tuple[Tensor, Tensor]:
        """[B, source, H, W] to [B, target, *size] for the loss and [B, width, *size] for the next fusion."""
        features = self.narrow(features)
        if self.attention is not None and deeper is not None:
            deeper = _resized(deeper, features.shape[2:])
            attention = self.attention(torch.cat([features, deeper], dim=1))
            features = features * attention[:, :1] + deeper * attention[:, 1:]
        features = _resized(features, size)
        return self.widen(features), features


class ReviewKD(Head):
    """Fusions from shapes, one per pair of stages and one for the embedding; `width` is their widest."""

    kind = "feature"
    paper = "Chen et al.: Distilling Knowledge via Knowledge Review, CVPR 2021"
    link = "https://arxiv.org/abs/2104.09044"
    compares = "every stage, fused with all deeper ones"

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def needs(self) -> Needs:
        return Needs(
            learner=Fields(embedding=True, stages="all"),
            teacher=Fields(embedding=True, stages="all", preactivations="all"),
        )

    def build(self, learner: Example, teacher: Example, context: Context) -> None:
        self.pairs = paired_stages(learner, teacher)
        ours = [stage_map(learner, stage) for stage, _ in self.pairs] + [_embedding(learner)]
        theirs = [stage_map(teacher, stage) for _, stage in self.pairs] + [_embedding(teacher)]
        width = min(self.width, ours[-1].shape[1])
        self.fusions = nn.ModuleList(
            AttentionFusion(one.shape[1], width, other.shape[1], deepest=one is ours[-1])
            for one, other in zip(ours, theirs, strict=True)
        )

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        ours = [as_map(learner.stage(stage)) for stage, _ in self.pairs] + [as_map(learner.vector())]
        theirs = [_before_activation(teacher, stage) for _, stage in self.pairs] + [as_map(teacher.vector())]
        if self.training and len(ours[-1]) == 1:
            raise ValueError("reviewkd normalises the embedding over the batch: it needs 2 samples or more, but got 1")
        deeper, losses = None, []
        for fusion, features, target in zip(reversed(self.fusions), reversed(ours), reversed(theirs), strict=True):
            reviewed, deeper = fusion(features, deeper, target.shape[2:])
            losses.append(context_loss(reviewed, target))
        return torch.stack(losses).sum()


def _resized(features: Tensor, size: torch.Size) -> Tensor:
    return features if features.shape[2:] == size else interpolate(features, size, mode="nearest")


def _before_activation(teacher: Knowledge, stage: int) -> Tensor:
    value = teacher.preactivations[stage] if teacher.preactivations else None
    return as_map(teacher.stage(stage) if value is None else value)


def _embedding(example: Example) -> Tensor:
    embedding, samples = example.knowledge.vector(), len(stage_map(example, -1))
    if len(embedding) != samples:
        raise ValueError(
            f"reviewkd needs one embedding per sample; {example.name} gives {len(embedding)} for {samples} "
            f"samples, {tuple(embedding.shape)} with {layer_name(example, -1)}"
        )
    return as_map(embedding)
