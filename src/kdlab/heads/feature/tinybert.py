"""tinybert: embeddings, hidden states and attention scores match the teacher's, block by block.

Jiao et al. TinyBERT: Distilling BERT for Natural Language Understanding. Findings of EMNLP 2020, equations 7 to 9.

    L = MSE(E_s W_e, E_t) + Σ over pairs of blocks of MSE(H_s W_h, H_t) + a · 1/h Σ over heads of MSE(A_s, A_t)

E is what the first block reads, H what a block returns, A = Q Kᵀ / √d its scores before the softmax. W_e and W_h, one
for all blocks, are learned. Student block m learns from g(m) = m · N / M. The means are over tokens, and over pairs of
tokens of which one sees the other; in the authors' code padding counts, with a difference of zero in the scores. They
train with this loss alone first, then with soft targets (`kd` at T 1).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdlab.core.knowledge import Attention, Context, Example, Fields, Knowledge, Lesson, Needs, Progress, raised
from kdlab.heads.head import Head
from kdlab.heads.layers import Layers, check_layers, paired_blocks, refuse_other_tokens, token_mean


def hidden_loss(student: Tensor, teacher: Tensor, valid: Tensor | None) -> Tensor:
    """Mean squared difference of states [B, L, D], over the tokens that are valid [B, L]. A scalar."""
    return token_mean((raised(student) - raised(teacher)).square().mean(dim=-1), valid)


def attention_loss(student: Attention, teacher: Attention, valid: Tensor | None) -> Tensor:
    """Mean squared difference of scores [B, H, L, L], over valid tokens [B, L] and what both networks see. A scalar."""
    counted = None if valid is None else valid[:, None, :, None] & valid[:, None, None, :]
    for seen in (student.seen(), teacher.seen()):
        if seen is not None:
            counted = seen if counted is None else counted & seen
    difference = student.scores() - teacher.scores()
    if counted is not None:  # before the square: what one network does not see is far below all else, or infinite
        difference = difference.masked_fill(~counted, 0.0)
    return token_mean(difference.square(), None if counted is None else counted.expand_as(difference))


class TinyBERT(Head):
    """The embedding, and states and scores at every pair of blocks.

    Args:
        layers: which blocks; see `kdlab.heads.layers`.
        attention_weight: the factor a; at 0, networks with other numbers of heads can be compared.
    """

    kind = "feature"
    paper = "Jiao et al.: TinyBERT: Distilling BERT for Natural Language Understanding, Findings of EMNLP 2020"
    link = "https://arxiv.org/abs/1909.10351"
    compares = "embeddings, hidden states and attention scores, block by block"

    def __init__(self, layers: Layers, attention_weight: float) -> None:
        super().__init__()
        check_layers(layers)
        self.layers = layers
        self.attention_weight = attention_weight

    def needs(self) -> Needs:
        fields = Fields(blocks="all", attention="all" if self.attention_weight else ())
        return Needs(learner=fields, teacher=fields)

    def build(self, learner: Example, teacher: Example, context: Context) -> None:
        refuse_other_tokens("tinybert", learner, teacher)
        self.pairs = paired_blocks(learner, teacher, self.layers)
        if self.attention_weight:
            self._refuse_other_heads(learner, teacher)
        ours, theirs = (example.knowledge.block(0).shape[-1] for example in (learner, teacher))
        self.embedding = nn.Linear(ours, theirs)
        self.hidden = nn.Linear(ours, theirs)

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        losses = [hidden_loss(self.embedding(learner.block(0)), teacher.block(0), learner.valid)]
        for ours, theirs in self.pairs:
            losses.append(hidden_loss(self.hidden(learner.block(ours)), teacher.block(theirs), learner.valid))
            if self.attention_weight:
                one, other = learner.attended(ours - 1), teacher.attended(theirs - 1)
                losses.append(self.attention_weight * attention_loss(one, other, learner.valid))
        return torch.stack(losses).sum()

    def _refuse_other_heads(self, learner: Example, teacher: Example) -> None:
        for example in (learner, teacher):
            blocks, attentions = len(example.knowledge.blocks) - 1, len(example.knowledge.attention)
            if blocks != attentions or any(0 in pair for pair in self.pairs):
                raise ValueError(
                    f"tinybert compares one attention for each pair of blocks from 1 on: {example.name} has "
                    f"{attentions} attentions in {blocks} blocks, layers={self.layers}; "
                    "set loss.heads.tinybert.attention_weight=0, or name other layers"
                )
        ours, theirs = (example.knowledge.attended(0).queries.shape[1] for example in (learner, teacher))
        if ours != theirs:
            raise ValueError(
                f"tinybert compares attention head by head: {learner.name} has {ours} and {teacher.name} {theirs}; "
                "set loss.heads.tinybert.attention_weight=0, or choose loss=minilmv2"
            )
