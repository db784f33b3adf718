"""kdcl: peers are trained together, each taught by an ensemble of all.

Guo et al. Online Knowledge Distillation via Collaborative Learning. CVPR 2020, section 3.

    L_i = CE(p_i, y) + KL(softmax(z / T) ‖ softmax(z_i / T)) · T²

z combines the peers' logits z_1 … z_m of the sample:

- `linear`: the convex combination Σ α_k z_k of least cross-entropy with the label;
- `naive`: those of the peer of least cross-entropy with the label;
- `min_logit`: min over k of z_k − z_k[label], class by class, whose cross-entropy is no higher than any peer's;
- `mean`: all of them; their probabilities are averaged at each head's own temperature.

The paper's fourth, weights of least error on held-out samples, is left out: it selects by validation while it
trains. A sample without a label is taught by the mean logits. Feature and relation heads read each peer separately.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Batch, Knowledge, Lesson, Progress, raised
from kdlab.modes._peers import TaughtTogether
from kdlab.modes.mode import Cast

Combine = Literal["linear", "naive", "min_logit", "mean"]


def linear(logits: Tensor, target: Tensor, *, sweeps: int = 10, halvings: int = 26) -> Tensor:
    """The convex combination [N, C] of logits [m, N, C] whose cross-entropy with classes [N] is least, row by row.

    Weight moves between two peers at a time, to where the derivative along that line is zero: the loss is convex, so
    this is exact for two peers after one sweep, and converges to the optimum for more.

    Args:
        sweeps: over all pairs of three or more peers.
        halvings: of the interval in which that point lies.
    """
    peers = list(range(len(logits)))
    weights = [logits.new_full((logits.shape[1], 1), 1 / len(peers)) for _ in peers]
    mixed = logits.mean(0)
    for one, other in list(combinations(peers, 2)) * (1 if len(peers) == 2 else sweeps):
        way = logits[one] - logits[other]
        slope = way.gather(1, target[:, None])
        low, high = -weights[one], weights[other]
        for _ in range(halvings):
            middle = (low + high) / 2
            rises = ((mixed + middle * way).softmax(1) * way).sum(1, keepdim=True) > slope
            low, high = torch.where(rises, low, middle), torch.where(rises, middle, high)
        moved = (low + high) / 2
        mixed = mixed + moved * way
        weights[one], weights[other] = weights[one] + moved, weights[other] - moved
    return mixed


def naive(logits: Tensor, target: Tensor) -> Tensor:
    """Per row of logits [m, N, C], those of least cross-entropy with classes [N]: [N, C]."""
    losses = torch.stack([cross_entropy(each, target, reduction="none") for each in logits])
    best = losses.argmin(0)[None, :, None].expand(1, -1, logits.shape[2])
    return logits.gather(0, best)[0]


def min_logit(logits: Tensor, target: Tensor) -> Tensor:
    """The minimum over peers of logits [m, N, C] minus those of classes [N], per class: [N, C], zero at the class."""
    return (logits - logits.gather(2, target.expand(len(logits), -1)[:, :, None])).amin(0)


class KDCL(TaughtTogether):
    """Every peer learns from the ensemble.

    Args:
        cast: the networks of the run.
        combine: how the ensemble is formed.
        views: of `data.views`, one per peer: each then has its own draw of the augmentation, as published.
    """

    wants_peers = True
    wants_labels = True

    def __init__(self, cast: Cast, combine: Combine, views: Sequence[str] = ()) -> None:
        super().__init__(*(cast.learners(place) for place in range(1 + cast.peers)))
        if combine not in get_args(Combine):
            raise UsageError(f"mode.combine={combine}: expected {' or '.join(get_args(Combine))}")
        if len(views) not in (0, cast.peers):
            raise UsageError(f"mode.views={list(views)}: expected one for each of the {cast.peers} peers, or none")
        self._combine = combine
        self._views = tuple(views)

    @property
    def shows(self) -> tuple[str, ...]:
        return self._views

    def lessons(self, batch: Batch, progress: Progress) -> list[Lesson]:
        views = [batch, *(batch["views"][name] for name in self._views)]
        outputs = [peer(views[place % len(views)]) for place, peer in enumerate(self.observed)]
        ensemble = self._together([knowledge.detach() for knowledge in outputs], batch["target"])
        return [
            Lesson(own, (*(outputs[other].detach() for other in self.others(place)), ensemble), batch["target"],
                   batch["index"])
            for place, own in enumerate(outputs)
        ]  # fmt: skip

    def _together(self, outputs: Sequence[Knowledge], target: Tensor) -> Knowledge:
        members = tuple(raised(knowledge.logits) for knowledge in outputs)
        logits = torch.stack(members)
        if self._combine == "mean":
            return Knowledge(logits.mean(0), rows=outputs[0].rows, members=members)
        hard = target if target.ndim == 1 else target.argmax(1)
        combine = {"linear": linear, "naive": naive, "min_logit": min_logit}[self._combine]
        made = torch.where((hard >= 0)[:, None], combine(logits, hard.clamp(min=0)), logits.mean(0))
        return Knowledge(made, rows=outputs[0].rows)
