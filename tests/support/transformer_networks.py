"""Tiny networks of transformers, their configs written out, in eval mode; and a batch that has padding."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor, nn

WORDS, LENGTH = 30, 7
_IDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}

FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": (
        "BertConfig", "BertForSequenceClassification",
        {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16},
    ),
    "distilbert": (
        "DistilBertConfig", "DistilBertForSequenceClassification",
        {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 16},
    ),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 16}),
    "llama": (
        "LlamaConfig", "LlamaForCausalLM",
        {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
         "intermediate_size": 16},
    ),
}  # fmt: skip


def language_network(family: str, *, attention: str = "sdpa", seed: int = 0, **settings: Any) -> nn.Module:
    """One of `FAMILIES`, with settings of its config changed."""
    config, network, given = FAMILIES[family]
    made = getattr(transformers, config)(vocab_size=WORDS, **_IDS, **{**given, **settings})
    made._attn_implementation = attention
    torch.manual_seed(seed)
    network = getattr(transformers, network)(made).eval()
    # As after training: untrained ones make every token equally long, and its channels sum to zero.
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.add_(0.3 * torch.randn_like(module.weight))
                module.bias.add_(0.3 * torch.randn_like(module.bias))
    return network


def padded(lengths: tuple[int, ...] = (7, 4), *, length: int = LENGTH, noise: int = 0) -> dict[str, Tensor]:
    """Token ids and their mask [B, length]; `noise` changes what stands in the padding."""
    ids = torch.randint(1, WORDS, (len(lengths), LENGTH), generator=torch.Generator().manual_seed(5))
    ids = torch.cat([ids, torch.ones(len(lengths), length - LENGTH, dtype=torch.long)], dim=1)
    mask = (torch.arange(length) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": torch.where(mask.bool(), ids, noise), "attention_mask": mask}
