"""Causal language models with rotary positions and grouped heads: Llama.

Touvron et al. Llama 2: Open Foundation and Fine-Tuned Chat Models. 2023. The output layer is the embedding, as in
Llama 3.2's small models.
"""

from __future__ import annotations

from typing import cast

from torch import nn

from kdlab.core.errors import UsageError
from kdlab.models.extra import extra
from kdlab.models.layers import scaled


def llama(
    *,
    vocabulary: int,
    length: int,
    width: float,
    layers: int,
    hidden: int,
    attention_heads: int,
    key_heads: int,
    dropout: float,
) -> nn.Module:
    """A LlamaForCausalLM with random weights: input_ids [B, L], and a mask where some are padding, to
    [B, L, vocabulary].

    It keeps no keys and values, unless it generates.

    Args:
        vocabulary: number of token ids.
        length: most tokens of a sample.
        width: multiplies `hidden`; the number of heads stays.
        layers: number of blocks.
        hidden: size of a token's representation, before `width`; the inner size of a block is 8/3 of that.
        attention_heads: of the queries.
        key_heads: of the keys and values, each shared by attention_heads / key_heads of the queries.
        dropout: of the attention.
    """
    if attention_heads % key_heads:
        raise UsageError(f"key_heads={key_heads}: expected a divisor of attention_heads={attention_heads}")
    transformers = extra("transformers")
    size = scaled(hidden, width, 2 * attention_heads)  # rotary positions turn pairs
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        max_position_embeddings=length,
        num_hidden_layers=layers,
        hidden_size=size,
        intermediate_size=-(-size // 3) * 8,
        num_attention_heads=attention_heads,
        num_key_value_heads=key_heads,
        attention_dropout=dropout,
        tie_word_embeddings=True,
        bos_token_id=None,  # which tokens begin and end a text is the data's to say
        eos_token_id=None,
        use_cache=False,
        attn_implementation="sdpa",
    )
    network = transformers.LlamaForCausalLM(config)
    network.generation_config.use_cache = True
    return cast("nn.Module", network)
