"""minilm: in the last block, who attends to whom, and whose values are alike, match the teacher.

Wang et al. MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers. NeurIPS
2020, equations 6 to 9.

    L = mean over heads and tokens of KL(A_t ‖ A_s) + KL(R_t ‖ R_s)
    A = softmax(Q Kᵀ / √d), R = softmax(V Vᵀ / √d)

Networks of any width and depth with the same number of heads; padding neither asks nor is asked. R is over all tokens,
also in a network that reads from left to right.
"""

from __future__ import annotations

from torch import Tensor

from kdlab.core.knowledge import Attention, Context, Example, Fields, Knowledge, Lesson, Needs, Progress
from kdlab.heads.head import Head
from kdlab.heads.layers import refuse_other_tokens
from kdlab.heads.relation._attention import products, relation_kl


def minilm_loss(student: Attention, teacher: Attention, valid: Tensor | None) -> Tensor:
    """Divergences of attention and of value relations, over the tokens that are valid [B, L]. A scalar."""
    attended = relation_kl(student.scores(), teacher.scores(), valid)
    return attended + relation_kl(products(student.values), products(teacher.values), valid)


class MiniLM(Head):
    """Attention and value relations of the last block."""

    kind = "relation"
    paper = (
        "Wang et al.: MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of "
        "Pre-Trained Transformers, NeurIPS 2020"
    )
    link = "https://arxiv.org/abs/2002.10957"
    compares = "attention and value relations of the last block"

    def needs(self) -> Needs:
        return Needs(learner=Fields(attention=(-1,)), teacher=Fields(attention=(-1,)))

    def build(self, learner: Example, teacher: Example, context: Context) -> None:
        refuse_other_tokens("minilm", learner, teacher)
        ours, theirs = (example.knowledge.attended(-1).queries.shape[1] for example in (learner, teacher))
        if ours != theirs:
            raise ValueError(
                f"minilm compares attention head by head: {learner.name} has {ours} and {teacher.name} {theirs}; "
                "choose loss=minilmv2, which divides them anew"
            )

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        return minilm_loss(learner.attended(-1), teacher.attended(-1), learner.valid)
