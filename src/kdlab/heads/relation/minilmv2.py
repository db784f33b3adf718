"""minilmv2: whose queries, whose keys and whose values are alike match one block of the teacher.

Wang et al. MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained Transformers. Findings
of ACL 2021, equations 3 to 6.

    L = Σ over X in Q, K, V of mean over heads and tokens of KL(R_t ‖ R_s),  R = softmax(X Xᵀ / √d)

The heads of a network are put side by side and divided anew into r relation heads, so that networks may have any
numbers of heads. The student's last block learns from a block of the teacher that is not always the last: of 24, the
paper takes the 21st. Padding neither asks nor is asked.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdlab.core.knowledge import Attention, Context, Example, Fields, Knowledge, Lesson, Needs, Progress
from kdlab.heads.head import Head
from kdlab.heads.layers import refuse_other_tokens
from kdlab.heads.relation._attention import products, relation_kl


def relation_heads(vectors: Tensor, count: int) -> Tensor:
    """Vectors of all heads [B, H, L, E] in `count` relation heads, [B, count, L, H·E / count]."""
    side_by_side = vectors.transpose(1, 2).flatten(2)
    return side_by_side.view(*side_by_side.shape[:2], count, -1).transpose(1, 2)


def minilmv2_loss(student: Attention, teacher: Attention, heads: int, valid: Tensor | None) -> Tensor:
    """Divergences of the relations of queries, keys and values, over the tokens that are valid [B, L]. A scalar."""

    def relations(attention: Attention) -> list[Tensor]:
        three = (attention.queries, attention.keys, attention.values)
        return [products(relation_heads(vectors, heads)) for vectors in three]

    pairs = zip(relations(student), relations(teacher), strict=True)
    return torch.stack([relation_kl(ours, theirs, valid) for ours, theirs in pairs]).sum()


class MiniLMv2(Head):
    """Self-attention relations of the student's last block.

    Args:
        relation_heads: r; it divides the width of both networks' attention.
        teacher_layer: the teacher's block, counted from 0; negative numbers count from the last.
    """

    kind = "relation"
    paper = (
        "Wang et al.: MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing "
        "Pretrained Transformers, Findings of ACL 2021"
    )
    link = "https://arxiv.org/abs/2012.15828"
    compares = "relations of queries, keys and values of one block"

    def __init__(self, relation_heads: int, teacher_layer: int) -> None:
        super().__init__()
        if relation_heads < 1:
            raise ValueError(f"relation_heads={relation_heads}: expected a number from 1 on")
        self.relation_heads = relation_heads
        self.teacher_layer = teacher_layer

    def needs(self) -> Needs:
        return Needs(learner=Fields(attention=(-1,)), teacher=Fields(attention=(self.teacher_layer,)))

    def build(self, learner: Example, teacher: Example, context: Context) -> None:
        refuse_other_tokens("minilmv2", learner, teacher)
        for example, layer in ((learner, -1), (teacher, self.teacher_layer)):
            _, heads, _, width = example.knowledge.attended(layer).queries.shape
            if heads * width % self.relation_heads:
                raise ValueError(
                    f"relation_heads={self.relation_heads} does not divide the attention of {example.name}, "
                    f"{heads} heads of {width}: set loss.heads.minilmv2.relation_heads to a divisor of {heads * width}"
                )

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        ours, theirs = learner.attended(-1), teacher.attended(self.teacher_layer)
        return minilmv2_loss(ours, theirs, self.relation_heads, learner.valid)
