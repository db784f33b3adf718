"""rkd: distances between samples, and angles between triplets of them, match the teacher's.

Park et al. Relational Knowledge Distillation. CVPR 2019.

    ψ_D(i, j) = ‖e_i − e_j‖ / μ, μ the mean over pairs of different samples
    ψ_A(i, j, k) = cos of the angle at j between i and k
    L = distance_weight · mean huber(ψ_D(s), ψ_D(t)) + angle_weight · mean huber(ψ_A(s), ψ_A(t))

The means run over all N² and N³ entries, the trivial ones included, as in the authors' code. Points nearer
than 1e-6 count as coincident: no distance, no direction, and no gradient between them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from kdlab.core.knowledge import Fields, Knowledge, Lesson, Needs, Progress, raised
from kdlab.heads.head import Head
from kdlab.heads.relation._rows import refuse_single

_COINCIDENT = 1e-6


def relations(embedding: Tensor) -> tuple[Tensor, Tensor]:
    """ψ_D [N, N] and ψ_A [N, N, N], the angle at its first index, of embeddings [N, D]."""
    embedding = raised(embedding)
    count = len(embedding)
    gaps = embedding[None] - embedding[:, None]
    squared = gaps.square().sum(dim=2)
    apart = squared > _COINCIDENT**2
    # The root's slope is infinite at zero, so such pairs are removed before it.
    length = torch.where(apart, squared, 1.0).sqrt()
    distances = length * apart
    directions = gaps * (apart / length)[:, :, None]
    mean = distances.sum() / (count * (count - 1))
    return distances / torch.where(mean > 0, mean, 1.0), directions @ directions.mT


def rkd_loss(student: Tensor, teacher: Tensor, distance_weight: float, angle_weight: float) -> Tensor:
    """Weighted Huber losses of distances and angles of embeddings [N, D_s] and [N, D_t]. A scalar.

    Raises:
        ValueError: for a batch of one sample.
    """
    refuse_single("rkd", student)
    (our_distances, our_angles), (their_distances, their_angles) = relations(student), relations(teacher)
    distance = smooth_l1_loss(our_distances, their_distances)
    return distance_weight * distance + angle_weight * smooth_l1_loss(our_angles, their_angles)


class RKD(Head):
    """Distances and angles of the embeddings."""

    kind = "relation"
    paper = "Park et al.: Relational Knowledge Distillation, CVPR 2019"
    link = "https://arxiv.org/abs/1904.05068"
    compares = "distances and angles between samples"

    def __init__(self, distance_weight: float, angle_weight: float) -> None:
        super().__init__()
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight

    def needs(self) -> Needs:
        return Needs(learner=Fields(embedding=True), teacher=Fields(embedding=True))

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        return rkd_loss(learner.vector(), teacher.vector(), self.distance_weight, self.angle_weight)
