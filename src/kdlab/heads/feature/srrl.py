"""srrl: the student's features, mapped to the teacher's, give the teacher's logits through the teacher's classifier.

Yang et al. Knowledge Distillation via Softmax Regression Representation Learning. ICLR 2021.

    L = mean (h − f_t)² + mean (W_t h + b_t − t)², h = pool(R(F_s)), R a 1×1 convolution with BN and ReLU

F_s is the student's map before pooling (jingyang2017/KD_SRRL, models/MobileNet.py:54), f_t the teacher's embedding:
its pooled map, or whatever else its classifier reads. SimKD's copy of this method pools before R.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import linear, mse_loss

from kdlab.core.knowledge import Context, Example, Fields, Knowledge, Lesson, Needs, Progress, raised
from kdlab.heads.head import Head
from kdlab.heads.shapes import Align, as_map, final_map, final_name


def srrl_loss(
    mapped: Tensor,
    embedding: Tensor,
    logits: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    matching_weight: float,
    regression_weight: float,
) -> Tensor:
    """Feature matching and softmax regression, each with its weight. A scalar.

    Args:
        mapped: the student's features, mapped to the teacher's and pooled [B, D].
        embedding: the teacher's embedding [B, D].
        logits: the teacher's logits [B, C].
        weight: the weight of the teacher's classifier [C, D].
        bias: its bias [C], if it has one.
    """
    mapped = raised(mapped)
    answers = linear(mapped, weight.to(mapped), None if bias is None else bias.to(mapped))
    matching, regression = mse_loss(mapped, raised(embedding)), mse_loss(answers, raised(logits))
    return matching_weight * matching + regression_weight * regression


class SRRL(Head):
    """A connector from shapes, and the teacher's current classifier."""

    kind = "feature"
    paper = "Yang et al.: Knowledge Distillation via Softmax Regression Representation Learning, ICLR 2021"
    link = "https://openreview.net/forum?id=ZzwDy_wiWv"
    compares = "the embedding, also as the teacher's classifier reads it"

    def __init__(self, matching_weight: float, regression_weight: float) -> None:
        super().__init__()
        self.matching_weight = matching_weight
        self.regression_weight = regression_weight

    def needs(self) -> Needs:
        return Needs(learner=Fields(final_map=True), teacher=Fields(embedding=True, classifier=True))

    def build(self, learner: Example, teacher: Example, context: Context) -> None:
        features, embedding = final_map(learner), teacher.knowledge.vector()
        assert teacher.classifier is not None, "`needs` requests a classifier"
        if len(features) != len(embedding):
            raise ValueError(
                f"srrl needs one embedding per sample: {final_name(learner)} gives {tuple(features.shape)}, "
                f"and {teacher.name} the embedding {tuple(embedding.shape)}"
            )
        self.connector = Align(features.shape[1], embedding.shape[1], norm=True, relu=True)
        # A tuple, so that the layer is not registered here: neither saved nor trained with the student.
        self.classifier = (teacher.classifier,)

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        (classifier,) = self.classifier
        return srrl_loss(
            self.connector(as_map(learner.before_pooling())).mean((2, 3)),
            teacher.vector(),
            teacher.logits,
            classifier.weight.detach(),
            None if classifier.bias is None else classifier.bias.detach(),
            matching_weight=self.matching_weight,
            regression_weight=self.regression_weight,
        )
