"""dist: the student keeps the teacher's relations, among classes and among samples, not its exact values.

Huang, You, Wang, Qian, Xu. Knowledge Distillation from A Stronger Teacher. NeurIPS 2022.

    L = T² · (β (1 − mean over rows of ρ) + γ (1 − mean over columns of ρ))

ρ is Pearson's correlation between the student's and the teacher's probabilities [N, C] at temperature T: of a
row, the classes of one sample (inter-class, β); of a column, the samples of one class in one rank's batch
(intra-class, γ). The T² is that of the authors' code. Each row's value holds its own ρ and an even share of the
columns'. In a batch of one row the columns do not vary: they add γ T² and no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdlab.core.knowledge import Knowledge, Lesson, Progress, raised
from kdlab.heads.head import ResponseHead


def correlation(one: Tensor, other: Tensor, dim: int) -> Tensor:
    """Pearson's correlation of two tensors along one dimension.

    Where either is constant it is 0 and has no gradient: near that point gradients explode, and a classifier
    initialised to zero starts there.
    """
    constant = _constant(one, dim) | _constant(other, dim)
    one, other = one - one.mean(dim, keepdim=True), other - other.mean(dim, keepdim=True)
    scale: Tensor = torch.linalg.vector_norm(one, dim=dim) * torch.linalg.vector_norm(other, dim=dim)
    return (one * other).sum(dim) / (scale + 1e-8).masked_fill(constant, torch.inf)


def dist_loss(student: Tensor, teacher: Tensor, temperature: float, inter_weight: float, intra_weight: float) -> Tensor:
    """Row and column correlations, one value per row [N], whose mean is the formula.

    Args:
        student: the student's logits [N, C].
        teacher: the teacher's log-probabilities [N, C] at the same temperature.
        temperature: T > 0.
        inter_weight: the paper's β, of the rows.
        intra_weight: the paper's γ, of the columns.
    """
    student, teacher = (raised(student) / temperature).softmax(dim=1), raised(teacher).exp()
    inter = 1 - correlation(student, teacher, dim=1)
    intra = 1 - correlation(student, teacher, dim=0).mean()
    return temperature**2 * (inter_weight * inter + intra_weight * intra)


class DIST(ResponseHead):
    """Inter-class and intra-class correlation at one temperature."""

    paper = "Huang et al.: Knowledge Distillation from A Stronger Teacher, NeurIPS 2022"
    link = "https://arxiv.org/abs/2205.10536"
    compares = "correlations of probabilities, within a sample and within a class"

    def __init__(
        self, temperature: float, inter_weight: float, intra_weight: float, *, standardize: bool = False
    ) -> None:
        super().__init__(temperature, standardize=standardize)
        self.temperature, self.inter_weight, self.intra_weight = temperature, inter_weight, intra_weight

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        target = self.teacher_log_probabilities(teacher, self.temperature)
        return dist_loss(self.scale(learner.logits), target, self.temperature, self.inter_weight, self.intra_weight)


def _constant(values: Tensor, dim: int) -> Tensor:
    highest = values.amax(dim)
    return highest - values.amin(dim) <= 1e-6 * highest.abs()  # rounding is not variation
