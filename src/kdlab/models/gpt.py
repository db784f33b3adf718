"""Causal language models with learned positions: GPT-2.

Radford et al. Language Models are Unsupervised Multitask Learners. 2019.
"""

from __future__ import annotations

from typing import cast

from torch import nn

from kdlab.models.extra import extra
from kdlab.models.layers import scaled


def gpt(
    *, vocabulary: int, length: int, width: float, layers: int, hidden: int, attention_heads: int, dropout: float
) -> nn.Module:
    """A GPT2LMHeadModel with random weights: input_ids [B, L], and a mask where some are padding, to
    [B, L, vocabulary].

    Its output layer is its embedding. It keeps no keys and values, unless it generates.

    Args:
        vocabulary: number of token ids.
        length: most tokens of a sample.
        width: multiplies `hidden`; the number of heads stays.
        layers: number of blocks.
        hidden: size of a token's representation, before `width`; the inner size of a block is four times that.
        attention_heads: of each attention.
        dropout: of embeddings, attention and the ends of the residual branches.
    """
    transformers = extra("transformers")
    config = transformers.GPT2Config(
        vocab_size=vocabulary,
        n_positions=length,
        n_layer=layers,
        n_embd=scaled(hidden, width, attention_heads),
        n_head=attention_heads,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        bos_token_id=None,  # which tokens begin and end a text is the data's to say
        eos_token_id=None,
        use_cache=False,
        attn_implementation="sdpa",
    )
    network = transformers.GPT2LMHeadModel(config)
    network.generation_config.use_cache = True
    return cast("nn.Module", network)
