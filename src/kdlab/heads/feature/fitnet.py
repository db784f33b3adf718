"""fitnet: a middle stage of the student, through a learned regressor, matches one of the teacher (the hint).

Romero et al. FitNets: Hints for Thin Deep Nets. ICLR 2015, equation 3.

    L = mean (R(F_s) − F_t)², R a convolution with batch normalisation and ReLU

R brings the student's map to the size of the teacher's, per side as Tian et al. (2020) do (RepDistiller,
ConvReg): the same side by 1×1; twice the side by 3×3 with stride 2; half the side by a transposed 4×4 with stride
2; any other larger side by a kernel without padding that leaves the teacher's. A case that they lack, a side
smaller by another factor than 2, is mapped by 1×1 and the teacher's map is average-pooled. The hint and the labels are
learned together, as theirs; in the paper the hint comes first.

Their hint is the third map of a network, the stem's counted: stage 1, counting from 0. In networks of three or four
stages it is the middle one, or the shallower of the middle two; in one of two stages it is the deeper. On a sequence
every token is a map of one position.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import mse_loss

from kdlab.core.knowledge import Context, Example, Fields, Knowledge, Lesson, Needs, Progress, raised
from kdlab.heads.head import Head
from kdlab.heads.shapes import as_map, on_line, same_size, stage_map, tokens_of


def fitnet_loss(regressed: Tensor, hint: Tensor) -> Tensor:
    """Mean squared difference of two maps [B, D, H, W]; the larger is average-pooled. A scalar."""
    return mse_loss(*same_size(raised(regressed), raised(hint)))


def regressor(source: Sequence[int], target: Sequence[int]) -> nn.Conv2d | nn.ConvTranspose2d:
    """The convolution from maps of one shape [B, D, H, W] towards those of another; see above.

    The normalisation that follows takes the place of a bias.
    """
    (_, narrow, *sides), (_, wide, *wanted) = source, target
    pairs = list(zip(sides, wanted, strict=True))
    if all(2 * side == want for side, want in pairs):
        return nn.ConvTranspose2d(narrow, wide, 4, stride=2, padding=1, bias=False)
    if all(side == 2 * want for side, want in pairs):
        return nn.Conv2d(narrow, wide, 3, stride=2, padding=1, bias=False)
    height, width = (max(1, 1 + side - want) for side, want in pairs)
    return nn.Conv2d(narrow, wide, (height, width), bias=False)


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
        self.line = on_line(learner, teacher)
        ours, theirs = (stage_map(example, self.stage, line=True) for example in (learner, teacher))
        self.regressor = nn.Sequential(
            regressor(ours.shape, theirs.shape),
            nn.BatchNorm2d(theirs.shape[1]),
            nn.ReLU(inplace=True),
        )

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        ours, theirs = learner.stage(self.stage), teacher.stage(self.stage)
        if self.line:
            return fitnet_loss(self.regressor(tokens_of(ours, learner.valid)), tokens_of(theirs, learner.valid))
        ours, theirs = as_map(ours), as_map(theirs)
        return fitnet_loss(self.regressor(ours), theirs)
