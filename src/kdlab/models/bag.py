"""A bag of embeddings: the mean embedding of a text's tokens, classified linearly.

Joulin et al. Bag of Tricks for Efficient Text Classification (fastText). EACL 2017, without its n-grams.
"""

from __future__ import annotations

from torch import Tensor, nn

from kdlab.models.layers import scaled


class BagOfEmbeddings(nn.Module):
    """Tokens and their mask [B, L] to logits [B, classes]; neither padding nor order changes anything.

    Args:
        classes: number of outputs.
        vocabulary: number of token ids.
        width: multiplies `hidden`.
        hidden: size of an embedding.
    """

    def __init__(self, *, classes: int, vocabulary: int, width: float, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, scaled(hidden, width))
        self.classifier = nn.Linear(self.embedding.embedding_dim, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[B, L] twice to [B, classes]."""
        embedded = self.embedding(input_ids)
        mask = attention_mask[..., None].to(embedded.dtype)
        logits: Tensor = self.classifier((embedded * mask).sum(1) / mask.sum(1).clamp(min=1))
        return logits
