"""ab: each neuron of the student is on where the teacher's is, whatever its value.

Heo, Lee, Yun, Choi. Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons.
AAAI 2019.

    L = 3/1000 Σ_stages 2^(i − last) mean over samples of Σ_dhw a²
    a = max(0, m − s) where t > 0,  max(0, m + s) where t ≤ 0

s, t are the maps before their activation, s through a 1×1 convolution with normalisation where the
channels differ; m is the margin. The weights of the stages and 3/1000 are those of the authors' code.
The student's body learns only this in a first phase, then the labels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdlab.core.knowledge import Context, Example, Fields, Knowledge, Lesson, Needs, Progress, raised
from kdlab.heads.head import Head
from kdlab.heads.shapes import Align, as_map, paired_stages, same_size, stage_map


def ab_loss(student: Tensor, teacher: Tensor, margin: float) -> Tensor:
    """Squared hinge on the sign of the teacher's preactivations, summed over [D, H, W], mean over N. A scalar.

    Args:
        student: preactivations [N, D, H, W].
        teacher: preactivations [N, D, H, W]; where H and W differ, the larger is average-pooled.
        margin: m > 0, how far beyond zero the student must be on the teacher's side.
    """
    student, teacher = same_size(raised(student), raised(teacher))
    missing = torch.where(teacher > 0, margin - student, margin + student).relu()
    return missing.square().sum(dim=(1, 2, 3)).mean() * 3 / 1000


class AB(Head):
    """Activation boundaries at every pair of stages, the deepest with weight 1, each one before it with half the
    weight."""

    kind = "feature"
    paper = (
        "Heo et al.: Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons, AAAI 2019"
    )
    link = "https://arxiv.org/abs/1811.03233"
    compares = "which neurons of each stage are on"

    def __init__(self, margin: float) -> None:
        super().__init__()
        self.margin = margin

    def needs(self) -> Needs:
        return Needs(learner=Fields(preactivations="all"), teacher=Fields(preactivations="all"))

    def build(self, learner: Example, teacher: Example, context: Context) -> None:
        self.pairs = paired_stages(learner, teacher)
        self.connectors = nn.ModuleList()
        for ours, theirs in self.pairs:
            source = stage_map(learner, ours, preactivation=True).shape[1]
            target = stage_map(teacher, theirs, preactivation=True).shape[1]
            self.connectors.append(nn.Identity() if source == target else Align(source, target, norm=True))

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        losses = []
        for place, (connector, (ours, theirs)) in enumerate(zip(self.connectors, self.pairs, strict=True), 1):
            student = connector(as_map(learner.preactivation(ours)))
            loss = ab_loss(student, as_map(teacher.preactivation(theirs)), self.margin)
            losses.append(loss / 2 ** (len(self.pairs) - place))
        return torch.stack(losses).sum()
