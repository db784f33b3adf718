"""crd: the two embeddings of one sample attract each other, against those of thousands of other samples.

Tian, Krishnan, Isola. Contrastive Representation Distillation. ICLR 2020.

    h(x) = σ(x),   x = s/τ − log Z − log(K/M),   s the similarity of an embedding to one in the other's bank
    L = −mean [log h(x_positive) + Σ over K negatives of log(1 − h(x_negative))], for both sides, added

Both embeddings pass a learned linear layer to `dim` numbers and are ℓ2-normalised. Each network has a bank of
one embedding for each of the M training samples, written with momentum. Z is fixed in the first batch, so that
the mean of exp(s/τ) / Z is 1/M there. Equals the authors' ratio of probabilities without the 1e-7 that
they add, and finite for any score.

Negatives are samples of other classes; an unlabelled sample is its own class. All scores against a bank
come from one matrix product, from which the needed ones are gathered. Each rank writes the samples of all ranks.
"""

from __future__ import annotations

from math import log, sqrt

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from kdlab.core.knowledge import Context, Example, Fields, Knowledge, Lesson, Needs, Progress, raised
from kdlab.heads.head import Head
from kdlab.heads.relation._rows import gathered, unit


def crd_scores(embedding: Tensor, bank: Tensor, places: Tensor, temperature: float) -> Tensor:
    """s/τ [N, P] of embeddings [N, d] and the rows of the bank [M, d] at their `places` [N, P]."""
    return (embedding @ bank.T).gather(1, places) / temperature


def log_partition(scores: Tensor, samples: int) -> Tensor:
    """log Z, a scalar, for which the mean of exp(scores) / Z is 1 / `samples`."""
    return scores.flatten().logsumexp(dim=0) - log(scores.numel()) + log(samples)


def crd_loss(scores: Tensor, partition: Tensor, samples: int) -> Tensor:
    """Noise-contrastive estimation, one side. A scalar.

    Args:
        scores: s/τ [N, 1 + K], the positive first.
        partition: log Z.
        samples: M, of the training set.
    """
    negatives = scores.shape[1] - 1
    logits = scores - partition - log(negatives / samples)
    return -(logsigmoid(logits[:, 0]).sum() + logsigmoid(-logits[:, 1:]).sum()) / len(scores)


def draw_negatives(order: Tensor, start: Tensor, size: Tensor, count: int) -> Tensor:
    """Places [N, count] of samples drawn from all but each row's own class.

    Rows skip their own class, a run of the class-sorted order. The rest is a ring, rotated at random and
    cut into `count` slices that give one sample each. So all are equally likely, and none is drawn twice
    where there are enough.

    Args:
        order: the samples [M], sorted by class.
        start: where each row's class begins in that order [N].
        size: how many samples it has [N].
    """
    left = (len(order) - size)[:, None]
    edges = torch.arange(count + 1, device=order.device) * left // count
    # The remainder of a number this large has a bias of at most M / 2^31.
    draws = torch.randint(2**31 - 1, (len(size), count + 1), device=order.device)
    inside = draws[:, 1:] % edges.diff(dim=1).clamp(min=1)
    ring = (edges[:, :-1] + inside + draws[:, :1]) % left
    return order[ring + size[:, None] * (ring >= start[:, None])]


class CRD(Head):
    """Contrast over two banks of embeddings, the learner's and the teacher's."""

    kind = "relation"
    paper = "Tian, Krishnan, Isola: Contrastive Representation Distillation, ICLR 2020"
    link = "https://arxiv.org/abs/1910.10699"
    compares = "each sample's embedding against those of other samples"

    order: Tensor
    start: Tensor
    size: Tensor
    learner_bank: Tensor
    teacher_bank: Tensor
    partitions: Tensor
    filled: Tensor

    def __init__(self, dim: int, negatives: int, momentum: float, nce_temperature: float) -> None:
        super().__init__()
        self.dim = dim
        self.negatives = negatives
        self.momentum = momentum
        self.nce_temperature = nce_temperature

    def needs(self) -> Needs:
        both = Fields(embedding=True)
        return Needs(learner=both, teacher=both, labels=True, index=True, row_per_sample=True)

    def build(self, learner: Example, teacher: Example, context: Context) -> None:
        self.learner_projection = nn.Linear(learner.knowledge.vector().shape[1], self.dim)
        self.teacher_projection = nn.Linear(teacher.knowledge.vector().shape[1], self.dim)
        self._sort(context)
        for bank in ("learner_bank", "teacher_bank"):
            self.register_buffer(bank, (2 * torch.rand(context.samples, self.dim) - 1) * sqrt(3 / self.dim))
        self.register_buffer("partitions", torch.zeros(2))
        self.register_buffer("filled", torch.tensor(False))

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        ours = unit(raised(self.learner_projection(learner.vector())))
        theirs = unit(raised(self.teacher_projection(teacher.vector())))
        index = lesson.index[learner.rows]
        negatives = draw_negatives(self.order, self.start[index], self.size[index], self.negatives)
        places = torch.cat([index[:, None], negatives], dim=1)
        sides = [
            # A clone, because the banks are written before the backward pass reads them.
            crd_scores(embedding, raised(bank.clone()), places, self.nce_temperature)
            for embedding, bank in ((ours, self.teacher_bank), (theirs, self.learner_bank))
        ]
        partitions = self._partitions(sides)
        if self.training:
            self._remember(index, ours.detach(), theirs.detach())
        losses = [crd_loss(side, partition, len(self.order)) for side, partition in zip(sides, partitions, strict=True)]
        return torch.stack(losses).sum()

    def _sort(self, context: Context) -> None:
        assert context.labels is not None, "crd declares that it needs labels"
        labels = context.labels.cpu()
        # A distinct class for each unlabelled sample: −1, −2, ...
        labels = torch.where(labels < 0, -1 - torch.arange(len(labels)), labels)
        classes, place, sizes = torch.unique(labels, return_inverse=True, return_counts=True)
        if len(classes) < 2:
            raise ValueError(
                f"crd contrasts samples of different classes, and all {len(labels)} training samples are of "
                f"class {int(classes[0])}; choose a loss that compares no classes, such as loss=rkd"
            )
        self.register_buffer("order", labels.argsort(stable=True), persistent=False)
        self.register_buffer("start", (sizes.cumsum(0) - sizes)[place], persistent=False)
        self.register_buffer("size", sizes[place], persistent=False)

    @torch.no_grad()
    def _partitions(self, sides: list[Tensor]) -> Tensor:
        found = gathered(torch.stack([log_partition(side, len(self.order)) for side in sides])[None])
        partitions = torch.where(self.filled, self.partitions, found.logsumexp(dim=0) - log(len(found)))
        if self.training:
            self.partitions.copy_(partitions)
            self.filled.fill_(True)
        return partitions

    @torch.no_grad()
    def _remember(self, index: Tensor, ours: Tensor, theirs: Tensor) -> None:
        index = gathered(index)
        for bank, embedding in ((self.learner_bank, gathered(ours)), (self.teacher_bank, gathered(theirs))):
            kept = self.momentum * bank[index] + (1 - self.momentum) * embedding
            bank[index] = unit(kept).to(bank.dtype)
