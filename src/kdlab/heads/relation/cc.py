"""cc: the student's errors on neighbouring samples of a batch vanish together.

Peng et al. Correlation Congruence for Knowledge Distillation. ICCV 2019.

    Δ_i = |W_s f_s,i − W_t f_t,i|, W learned linear maps to `dim` numbers
    L = mean over i of Σ_d Δ_i,d · Δ_i+1,d

This is the form of the authors' code, as RepDistiller received it and used it for the published tables; the paper's
text compares kernel matrices of the batch instead. Neighbours are neighbours in the
batch, whose order is random.
"""

from __future__ import annotations

from torch import Tensor, nn

from kdlab.core.knowledge import Context, Example, Fields, Knowledge, Lesson, Needs, Progress, raised
from kdlab.heads.head import Head
from kdlab.heads.relation._rows import refuse_single


def cc_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean product of the absolute differences on neighbouring rows of embeddings [N, D]. A scalar.

    Raises:
        ValueError: for a batch of one sample.
    """
    refuse_single("cc", student)
    error = (raised(student) - raised(teacher)).abs()
    return (error[:-1] * error[1:]).sum(dim=1).mean()


class CC(Head):
    """Embeddings of both networks through a learned linear layer each."""

    kind = "relation"
    paper = "Peng et al.: Correlation Congruence for Knowledge Distillation, ICCV 2019"
    link = "https://arxiv.org/abs/1904.01802"
    compares = "errors on neighbouring samples"

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def needs(self) -> Needs:
        return Needs(learner=Fields(embedding=True), teacher=Fields(embedding=True))

    def build(self, learner: Example, teacher: Example, context: Context) -> None:
        self.learner_projection = nn.Linear(learner.knowledge.vector().shape[1], self.dim)
        self.teacher_projection = nn.Linear(teacher.knowledge.vector().shape[1], self.dim)

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        return cc_loss(self.learner_projection(learner.vector()), self.teacher_projection(teacher.vector()))
