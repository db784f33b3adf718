"""catkd: the student attends to the same places as the teacher, class by class.

Guo et al. Class Attention Transfer Based Knowledge Distillation. CVPR 2023.

    CAM_c = Σ_d W[c, d] · F[d], W the network's own classifier, F the map whose mean over positions W reads
    L = mean (φ(CAM_s) − φ(CAM_t))², φ pools to pool × pool and, if asked, ℓ2-normalises over the positions

F is the map before pooling, not the last stage: in WRN, MobileNetV2 and ShuffleNetV2 a normalisation or a
convolution comes in between. The authors' code does the same: its networks apply W to that map as a 1×1 convolution
without
bias (GzyAftermath/CAT-KD, mdistiller/models/cifar/wrn.py:238-241). Where the embedding is no such mean, as with a
class token, there are no such maps. Pooling comes before W here: both are linear, and the cost is lower.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, conv2d, mse_loss, normalize

from kdlab.core.knowledge import Context, Example, Fields, Knowledge, Lesson, Needs, Progress, raised
from kdlab.heads.head import Head
from kdlab.heads.shapes import as_map, final_map


def class_activation_maps(features: Tensor, weight: Tensor, pool: int) -> Tensor:
    """[B, C, pool, pool] from a map [B, D, H, W] and the classifier's weight [C, D]."""
    pooled = adaptive_avg_pool2d(raised(features), pool)
    return conv2d(pooled, weight.to(pooled)[:, :, None, None])


def catkd_loss(student: Tensor, teacher: Tensor, *, normalise: bool) -> Tensor:
    """Mean squared difference of class activation maps [B, C, P, P], of their ℓ2 directions if asked. A scalar."""
    student, teacher = raised(student).flatten(2), raised(teacher).flatten(2)
    if normalise:
        student, teacher = normalize(student, dim=2), normalize(teacher, dim=2)
    return mse_loss(student, teacher)


class CATKD(Head):
    """Class activation maps of both networks, by their current classifiers."""

    kind = "feature"
    paper = "Guo et al.: Class Attention Transfer Based Knowledge Distillation, CVPR 2023"
    link = "https://arxiv.org/abs/2304.12777"
    compares = "class activation maps of the map before pooling"

    def __init__(self, pool: int, *, normalise: bool) -> None:
        super().__init__()
        self.pool = pool
        self.normalise = normalise

    def needs(self) -> Needs:
        fields = Fields(final_map=True, classifier=True)
        return Needs(learner=fields, teacher=fields)

    def build(self, learner: Example, teacher: Example, context: Context) -> None:
        ours, theirs = _classifier(learner), _classifier(teacher)
        if ours.out_features != theirs.out_features:
            raise ValueError(
                f"catkd compares maps class by class: {learner.name} has {ours.out_features} classes "
                f"and {teacher.name} {theirs.out_features}"
            )
        # A tuple, so that the layers are not registered here: neither saved nor trained a second time.
        self.classifiers = (ours, theirs)

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        ours, theirs = self.classifiers
        return catkd_loss(
            class_activation_maps(as_map(learner.before_pooling()), ours.weight, self.pool),
            class_activation_maps(as_map(teacher.before_pooling()), theirs.weight.detach(), self.pool),
            normalise=self.normalise,
        )


def _classifier(example: Example) -> nn.Linear:
    final_map(example)  # refuses tokens that form no map
    assert example.classifier is not None, "`needs` requests a classifier"
    return example.classifier
