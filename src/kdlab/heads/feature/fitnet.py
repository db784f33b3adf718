"""fitnet: a middle stage of the student, through a learned regressor, matches one of the teacher (the hint).

Romero et al. FitNets: Hints for Thin Deep Nets. ICLR 2015, equation 3.

    L = mean (R(F_s) − F_t)², R a convolution with batch normalisation and ReLU

R is 1×1 where the two maps have one size; where the student's is larger, the convolution's stride and
kernel bring it to the teacher's; where it is smaller, the teacher's map is average-pooled. The hint and the
labels are learned together, as in Tian et al. (2020), where the paper has the hint first.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import mse_loss

from kdlab.core.knowledge import Context, Example, Fields, Knowledge, Lesson, Needs, Progress, raised
from kdlab.heads.head import Head
from kdlab.heads.shapes import as_map, same_size, stage_map


def fitnet_loss(regressed: Tensor, hint: Tensor) -> Tensor:
    """Mean squared difference of two maps [B, D, H, W]; the larger is average-pooled. A scalar."""
    return mse_loss(*same_size(raised(regressed), raised(hint)))


class FitNet(Head):
    """One hint at one stage; its regressor is built from the shapes of the two maps."""

    kind = "feature"
    paper = "Romero et al.: FitNets: Hints for Thin Deep Nets, ICLR 2015"
    link = "https://arxiv.org/abs/1412.6550"
    compares = "one middle map, through a learned regressor"

    def __init__(self, stage: int) -> None:
        super().__init__()
        self.stage = stage

    def needs(self) -> Needs:
        return Needs(learner=Fields(stages=(self.stage,)), teacher=Fields(stages=(self.stage,)))

    def build(self, learner: Example, teacher: Example, context: Context) -> None:
        ours, theirs = stage_map(learner, self.stage), stage_map(teacher, self.stage)
        strides = [max(1, round(a / b)) for a, b in zip(ours.shape[2:], theirs.shape[2:], strict=True)]
        stride = (strides[0], strides[1])
        self.regressor = nn.Sequential(
            nn.Conv2d(ours.shape[1], theirs.shape[1], stride, stride, bias=False),
            nn.BatchNorm2d(theirs.shape[1]),
            nn.ReLU(inplace=True),
        )

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        ours, theirs = as_map(learner.stage(self.stage)), as_map(teacher.stage(self.stage))
        return fitnet_loss(self.regressor(ours), theirs)
