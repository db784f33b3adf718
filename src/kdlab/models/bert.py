"""Encoders for text: BERT, in the sizes of its miniatures.

Devlin et al. BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding. NAACL 2019.
Turc et al. Well-Read Students Learn Better: On the Importance of Pre-training Compact Models. 2019, table 1.
"""

from __future__ import annotations

from torch import nn

from kdlab.models.extra import extra
from kdlab.models.layers import scaled


def bert(
    *,
    classes: int,
    vocabulary: int,
    length: int,
    width: float,
    layers: int,
    hidden: int,
    attention_heads: int,
    dropout: float,
) -> nn.Module:
    """A BertForSequenceClassification with random weights: input_ids and attention_mask [B, L] to logits [B, classes].

    Args:
        classes: number of outputs.
        vocabulary: number of token ids.
        length: most tokens of a sample.
        width: multiplies `hidden`; the number of heads stays.
        layers: number of blocks.
        hidden: size of a token's representation, before `width`; the inner size of a block is four times that.
        attention_heads: of each attention.
        dropout: of representations, attention and the classifier's input.
    """
    transformers = extra("transformers")
    size = scaled(hidden, width, attention_heads)
    config = transformers.BertConfig(
        vocab_size=vocabulary,
        max_position_embeddings=length,
        num_labels=classes,
        num_hidden_layers=layers,
        hidden_size=size,
        intermediate_size=4 * size,
        num_attention_heads=attention_heads,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        pad_token_id=None,  # padding is what the mask says; a token id that never trains would be one word less
        use_cache=False,
        attn_implementation="sdpa",
    )
    network: nn.Module = transformers.BertForSequenceClassification(config)
    return network
