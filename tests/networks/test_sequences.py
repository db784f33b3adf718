"""What is observed of networks on sequences: against what transformers itself returns of the same networks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import ViTConfig, ViTForImageClassification

from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Fields, Input, Knowledge, Needs, Offer
from kdlab.core.reading import logits_of
from kdlab.networks.observer import Observer
from kdlab.networks.taps import find_taps
from support.transformer_networks import FAMILIES, language_network, padded

LAST_NORM = {"gpt2": "transformer.ln_f", "llama": "model.norm"}
"""What these networks apply to the last of the states that they return, after the last block."""


class EveryRow:
    """Reads one row for each sample, or for each position."""

    def read(self, output: object, batch: object) -> tuple[Tensor, Tensor]:
        logits = logits_of(output).flatten(0, -2)
        return logits, torch.arange(len(logits))

    def laid_out(self, values: Tensor, batch: object) -> Tensor:
        return values


def observed(network: nn.Module, input: Input, fields: Fields) -> Knowledge:
    with Observer(network, find_taps(network, input), fields, EveryRow()) as observer:
        return observer({"input": input})


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_are_the_hidden_states_that_transformers_returns(family: str) -> None:
    network, input = language_network(family), padded()
    blocks = observed(network, input, Fields(blocks="all")).blocks
    states = list(network(**input, output_hidden_states=True).hidden_states)
    assert len(blocks) == len(states) == 4
    found = [block for block in blocks if block is not None]
    if family in LAST_NORM:
        found[-1] = network.get_submodule(LAST_NORM[family])(found[-1])
    for block, state in zip(found, states, strict=True):
        torch.testing.assert_close(block, state)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_become_the_attention_that_transformers_returns(family: str, masked: bool) -> None:
    input = padded()
    if not masked:
        del input["attention_mask"]
    seen = observed(language_network(family), input, Fields(attention="all"))
    expected = language_network(family, attention="eager")(**input, output_attentions=True).attentions
    assert len(seen.attention) == len(expected) == 3
    for attention, weights in zip(seen.attention, expected, strict=True):
        assert attention is not None
        assert attention.queries.shape == attention.keys.shape == attention.values.shape
        torch.testing.assert_close(attention.scores().softmax(-1), weights)


def test_heads_that_share_keys_have_each_a_copy_with_and_without_padding() -> None:
    network, input = language_network("llama"), padded((7, 7))
    whole = observed(network, {"input_ids": input["input_ids"]}, Fields(attention=(0,))).attended(0)
    masked = observed(network, input, Fields(attention=(0,))).attended(0)
    assert whole.keys.shape == (2, 4, 7, 4)
    torch.testing.assert_close(whole.keys[:, 0], whole.keys[:, 1])
    assert not torch.allclose(whole.keys[:, 1], whole.keys[:, 2])
    torch.testing.assert_close(whole.keys, masked.keys)
    torch.testing.assert_close(whole.values, masked.values)


def test_a_vision_transformer_has_blocks_and_attention_too() -> None:
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=5, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=2,
        num_channels=1, num_labels=5,
    )  # fmt: skip
    network = ViTForImageClassification(config).eval()
    input = torch.randn(2, 1, 8, 8)
    seen = observed(network, input, Fields(blocks="all", attention="all", stages="all"))
    states = network(input, output_hidden_states=True).hidden_states
    assert len(seen.blocks) == 6
    torch.testing.assert_close(seen.blocks[:5], states[:5])
    assert [attention.queries.shape for attention in seen.attention if attention] == [(2, 2, 17, 4)] * 5
    assert seen.valid is None
    assert len(seen.stages) == 4


class Own(nn.Module):
    """Blocks of one's own, whose attention has one head, and a name that no rule knows."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(30, 6)
        self.layers = nn.ModuleList(Mixer() for _ in range(2))
        self.out = nn.Linear(6, 3)

    def forward(self, input_ids: Tensor) -> Tensor:
        tokens = self.words(input_ids)
        for layer in self.layers:
            tokens = layer(tokens)
        return self.out(tokens[:, 0])


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.three = nn.Linear(6, 18)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.three(tokens).chunk(3, dim=-1)
        return tokens + scaled_dot_product_attention(query, key, value, is_causal=True)


def test_attention_of_a_module_of_ones_own_is_seen() -> None:
    network, words = Own(), torch.randint(30, (2, 5))
    seen = observed(network, {"input_ids": words}, Fields(blocks="all", attention=(-1,)))
    query, key, value = network.layers[1].three(seen.block(1)).chunk(3, dim=-1)
    weights = (query @ key.mT / 6**0.5).masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf).softmax(-1)
    torch.testing.assert_close(seen.attended(-1).scores().softmax(-1)[:, 0], weights)
    torch.testing.assert_close(seen.block(2), seen.block(1) + weights @ value)
    assert seen.attention[0] is None


def test_attention_of_torchs_own_layers_is_seen_and_changes_nothing() -> None:
    layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(6, 2, 12, batch_first=True), 3)
    network = nn.Sequential(nn.Embedding(20, 6), layers, nn.Flatten(), nn.Linear(42, 4)).eval()
    words = torch.randint(20, (2, 7))
    with torch.no_grad():  # where torch has a fused layer that calls no attention
        plain = network(words)
        seen = observed(network, words, Fields(attention="all"))
    assert [attention.values.shape for attention in seen.attention if attention] == [(2, 2, 7, 3)] * 3
    torch.testing.assert_close(seen.logits, plain)
    assert torch.nn.functional.scaled_dot_product_attention is scaled_dot_product_attention


def test_gradients_pass_through_what_was_seen() -> None:
    network, input = language_network("bert"), padded()
    seen = observed(network, input, Fields(attention=(1,), blocks=(1,)))
    (seen.attended(1).keys.square().sum() + seen.block(1).square().sum()).backward()
    assert network.get_submodule("bert.encoder.layer.1.attention.self.key").weight.grad.abs().max() > 0
    assert network.get_submodule("bert.encoder.layer.2.attention.self.key").weight.grad is None


def test_attention_is_seen_in_a_compiled_network() -> None:
    network, input = language_network("bert"), padded()
    plain = observed(network, input, Fields(attention="all"))
    with Observer(network, find_taps(network, input), Fields(attention="all"), EveryRow()) as observer:
        network.compile(backend="eager")
        for _ in range(2):
            compiled = observer({"input": input})
            for one, other in zip(compiled.attention, plain.attention, strict=True):
                torch.testing.assert_close(one.scores(), other.scores())


def test_padding_is_known_where_the_input_has_a_mask_of_tokens() -> None:
    network, input = language_network("bert"), padded((7, 4))
    assert observed(network, input, Fields()).valid.sum(1).tolist() == [7, 4]
    assert observed(network, {"input_ids": input["input_ids"]}, Fields()).valid is None


def test_a_network_whose_attention_is_not_seen_is_refused_with_what_to_build() -> None:
    taps = find_taps(language_network("bert", attention="eager"), padded())
    assert taps.attentions == 0
    assert len(taps.blocks) == 4
    (line,) = Needs(learner=Fields(attention=(-1,))).unmet(Offer(taps.offers, taps.offers))
    assert line.startswith("the learner's attention")
    assert "attn_implementation=sdpa" in line


def test_a_block_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    network, input = language_network("bert"), padded()
    with pytest.raises(UsageError, match=r"blocks \(7,\) requested .* 3 \(bert\.encoder\.layer\.2\); attentions 3"):
        observed(network, input, Fields(blocks=(7,)))


def test_a_part_of_the_samples_has_its_part_of_everything() -> None:
    network, input = language_network("bert"), padded((7, 4, 5))
    whole = observed(network, input, Fields(blocks="all", attention="all"))
    part = whole.part(1, 3)
    assert part.valid.sum(1).tolist() == [4, 5]
    torch.testing.assert_close(part.block(2), whole.block(2)[1:])
    torch.testing.assert_close(part.attended(0).scores(), whole.attended(0).scores()[1:])
    narrow = whole.only(Fields(blocks=(-1,)))
    assert [block is None for block in narrow.blocks] == [True, True, True, False]
    assert [attention is None for attention in narrow.attention] == [True] * 3
    assert not whole.detach().attended(0).keys.requires_grad
