"""pkt: the probability that one sample is the neighbour of another matches the teacher's.

Passalis, Tefas. Learning Deep Representations with Probabilistic Knowledge Transfer. ECCV 2018.

    K_ij = (cos(f_i, f_j) + 1) / 2,   p_j|i = K_ij / Σ_k K_ik
    L = mean over all N² entries of p_t log(p_t / p_s)

As in the authors' code the sum runs over every entry, j = i included, 1e-7 is added inside the logarithm to
both, and the mean over N² makes the loss small: hence the large published weight.
"""

from __future__ import annotations

from torch import Tensor

from kdlab.core.knowledge import Fields, Knowledge, Lesson, Needs, Progress, raised
from kdlab.heads.head import Head
from kdlab.heads.relation._rows import refuse_single, unit

_ADDED = 1e-7


def neighbours(embedding: Tensor) -> Tensor:
    """p_j|i of embeddings [N, D]: rows [N, N] that sum to one."""
    rows = unit(raised(embedding))
    # Rounding takes the cosine of opposite rows below −1.
    kernel = ((rows @ rows.T + 1) / 2).clamp(min=0)
    return kernel / kernel.sum(dim=1, keepdim=True)


def pkt_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Divergence of the neighbours in embeddings [N, D_s] and [N, D_t], over N². A scalar.

    Raises:
        ValueError: for a batch of one sample.
    """
    refuse_single("pkt", student)
    ours, theirs = neighbours(student), neighbours(teacher)
    return (theirs * ((theirs + _ADDED) / (ours + _ADDED)).log()).mean()


class PKT(Head):
    """Neighbourhoods of the embeddings; nothing to set or to learn."""

    kind = "relation"
    paper = "Passalis, Tefas: Learning Deep Representations with Probabilistic Knowledge Transfer, ECCV 2018"
    link = "https://arxiv.org/abs/1803.10837"
    compares = "probabilities of being neighbours"

    def needs(self) -> Needs:
        return Needs(learner=Fields(embedding=True), teacher=Fields(embedding=True))

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        return pkt_loss(learner.vector(), teacher.vector())
