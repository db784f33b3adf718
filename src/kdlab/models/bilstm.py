"""A bidirectional LSTM over word embeddings, the student of BERT in

Tang et al. Distilling Task-Specific Knowledge from BERT into Simple Neural Networks. 2019, section 3.1:

    logits = W₂ ReLU(W₁ [h_forward(last token); h_backward(first token)] + b₁) + b₂
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdlab.models.layers import scaled


class BiLSTM(nn.Module):
    """Tokens and their mask [B, L] to logits [B, classes]; padding on the right changes nothing.

    Args:
        classes: number of outputs.
        vocabulary: number of token ids.
        width: multiplies the three sizes below.
        embedding: size of a token's embedding.
        hidden: size of the state of each direction.
        top: size of the layer before the classifier.
    """

    def __init__(self, *, classes: int, vocabulary: int, width: float, embedding: int, hidden: int, top: int) -> None:
        super().__init__()
        embedding, hidden, top = (scaled(size, width) for size in (embedding, hidden, top))
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.forwards = nn.LSTM(embedding, hidden, batch_first=True)
        self.backwards = nn.LSTM(embedding, hidden, batch_first=True)
        self.top = nn.Linear(2 * hidden, top)
        self.relu = nn.ReLU()
        self.classifier = nn.Linear(top, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[B, L] twice to [B, classes]."""
        lengths = attention_mask.sum(1)
        # Each text turned round within its own length: then padding comes last in both directions, and neither a
        # packed sequence, whose lengths must be on the CPU, nor a loop over texts is needed.
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        turned = input_ids.gather(1, (lengths[:, None] - 1 - places).clamp(min=0))
        ends = (lengths - 1).clamp(min=0)[:, None, None]
        directions = ((self.forwards, input_ids), (self.backwards, turned))
        states = [_at(lstm(self.embedding(tokens))[0], ends) for lstm, tokens in directions]
        read = torch.cat(states, dim=1) * (lengths > 0)[:, None]
        logits: Tensor = self.classifier(self.relu(self.top(read)))
        return logits


def _at(states: Tensor, ends: Tensor) -> Tensor:
    """[B, L, D] and places [B, 1, 1] to [B, D]."""
    return states.gather(1, ends.expand(-1, -1, states.shape[2]))[:, 0]
