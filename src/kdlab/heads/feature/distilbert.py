"""distilbert: the student's last hidden states point where the teacher's do.

Sanh, Debut, Chaumond, Wolf. DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter. 2019.

    L = mean over tokens of 1 − cos(h_s, h_t)

h is what the last transformer block returns, before a normalisation that may follow. Padding does not count. The paper
adds soft targets at T 2 with weight 5 (`kd`) and masked language modelling with weight 2. Theirs has the teacher's
width; where ours has not, a learned linear layer maps it.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cosine_similarity

from kdlab.core.knowledge import Context, Example, Fields, Knowledge, Lesson, Needs, Progress, raised
from kdlab.heads.head import Head
from kdlab.heads.layers import projection, refuse_other_tokens, token_mean


def distilbert_loss(student: Tensor, teacher: Tensor, valid: Tensor | None) -> Tensor:
    """1 − cosine of hidden states [B, L, D], mean over the tokens that are valid [B, L]. A scalar."""
    return token_mean(1 - cosine_similarity(raised(student), raised(teacher), dim=-1), valid)


class DistilBERT(Head):
    """Directions of the last block's states."""

    kind = "feature"
    paper = "Sanh et al.: DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter, 2019"
    link = "https://arxiv.org/abs/1910.01108"
    compares = "directions of the last hidden states, token by token"

    def needs(self) -> Needs:
        return Needs(learner=Fields(blocks=(-1,)), teacher=Fields(blocks=(-1,)))

    def build(self, learner: Example, teacher: Example, context: Context) -> None:
        refuse_other_tokens("distilbert", learner, teacher)
        self.projection = projection(learner.knowledge.block(-1).shape[-1], teacher.knowledge.block(-1).shape[-1])

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        return distilbert_loss(self.projection(learner.block(-1)), teacher.block(-1), learner.valid)
