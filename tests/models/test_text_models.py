"""Networks for text: sizes as published, padding that changes nothing, taps, and that they learn."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch.nn.functional import cross_entropy

from kdlab.core.errors import UsageError
from kdlab.core.reading import ask, logits_of
from kdlab.models.bert import bert
from kdlab.models.gpt import gpt
from kdlab.models.llama import llama
from kdlab.networks.observer import find_taps
from support.text_models import CAUSAL, CLASSIFIERS, SMALL, VOCABULARY, network, text

transformers = pytest.importorskip("transformers")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


# Turc et al. 2019, table 1, who count the heads of pre-training, too.
@pytest.mark.parametrize(
    ("size", "millions"), [("tiny", 4.4), ("mini", 11.3), ("small", 29.1), ("medium", 41.7), ("base", 110.1)]
)
def test_an_encoder_has_the_published_size(size, millions):
    with torch.device("meta"):
        config = network(f"bert_{size}", "model.vocabulary=30522", "model.length=512").config
        assert round(parameters(transformers.BertForPreTraining(config)) / 1e6, 1) == millions


def test_gpt_with_the_settings_of_gpt2_has_its_124_million_parameters():
    with torch.device("meta"):
        made = gpt(vocabulary=50257, length=1024, width=1, layers=12, hidden=768, attention_heads=12, dropout=0.1)
    assert parameters(made) == 124_439_808


def test_llamas_queries_share_keys_and_values():
    attention = network("llama_tiny").model.layers[0].self_attn
    assert (attention.q_proj.out_features, attention.k_proj.out_features, attention.v_proj.out_features) == (64, 32, 32)
    with pytest.raises(UsageError, match="key_heads=3: expected a divisor of attention_heads=4"):
        llama(vocabulary=9, length=9, width=1, layers=1, hidden=64, attention_heads=4, key_heads=3, dropout=0)


@pytest.mark.parametrize("option", CLASSIFIERS)
def test_a_classifier_makes_of_tokens_and_mask_one_row_per_text(option):
    model, input = network(option, "model.width=0.1"), text(5, 1, 9)
    assert logits_of(ask(model, input)).shape == (3, 3)
    taps = find_taps(model, input)
    assert taps.classifier == "classifier"
    assert len(taps.stages) == {"bert_tiny": 2, "bilstm": 0, "bag": 0}.get(option, 4)


@pytest.mark.parametrize("option", SMALL)
def test_padding_changes_nothing_whatever_stands_in_it(option):
    model, short = network(option), text(5, 3)
    long = {name: torch.cat([value, torch.zeros(2, 6, dtype=torch.long)], 1) for name, value in short.items()}
    long["input_ids"] = long["input_ids"] + 7 * (1 - long["attention_mask"])
    expected = logits_of(ask(model, short))
    torch.testing.assert_close(logits_of(ask(model, long)), expected, rtol=1e-4, atol=1e-6)
    alone = {name: value[1:, :3] for name, value in short.items()}
    torch.testing.assert_close(logits_of(ask(model, alone)), expected[1:], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("option", SMALL)
def test_a_text_without_tokens_has_finite_logits(option):
    assert logits_of(ask(network(option), text(0, 4))).isfinite().all()


def test_the_bilstm_reads_both_ways_as_a_packed_one_of_torch_does():
    model, input = network("bilstm", "model.width=0.1"), text(6, 2, 4)
    both = torch.nn.LSTM(30, 15, batch_first=True, bidirectional=True)
    ways = [(model.forwards, ""), (model.backwards, "_reverse")]
    both.load_state_dict({f"{name}{way}": value for lstm, way in ways for name, value in lstm.state_dict().items()})
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        model.embedding(input["input_ids"]), torch.tensor([6, 2, 4]), batch_first=True, enforce_sorted=False
    )
    _, (last, _) = both(packed)
    expected = model.classifier(model.top(torch.cat([last[0], last[1]], 1)).relu())
    torch.testing.assert_close(model(**input), expected)


def test_the_bag_is_torchs_embedding_bag():
    model, input = network("bag"), text(6, 2)
    means = torch.stack(
        [model.embedding(tokens[:n]).mean(0) for tokens, n in zip(input["input_ids"], (6, 2), strict=True)]
    )
    torch.testing.assert_close(model(**input), model.classifier(means))


@pytest.mark.parametrize("option", SMALL)
def test_a_classifier_learns_which_texts_hold_a_word(option):
    torch.manual_seed(0)
    model, generator = network(option).train(), torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), lr={"bag": 0.1}.get(option, 0.002))
    right = 0.0
    for step in range(60):
        tokens = torch.randint(2, VOCABULARY, (32, 8), generator=generator)
        target = torch.arange(32) % 2
        tokens[target == 1, 3] = 1
        mask = torch.ones_like(tokens)
        logits = logits_of(model(input_ids=tokens, attention_mask=mask))
        cross_entropy(logits, target).backward()
        optimizer.step()
        optimizer.zero_grad()
        right += float((logits.argmax(1) == target).float().mean()) if step >= 50 else 0
    assert right / 10 > 0.9


@pytest.mark.parametrize("option", CAUSAL)
def test_a_language_model_reads_no_token_that_comes_later(option):
    model, tokens = network(option), text(9)["input_ids"]
    logits = logits_of(model(input_ids=tokens))
    assert logits.shape == (1, 9, VOCABULARY)
    changed = torch.cat([tokens[:, :5], tokens[:, 5:].flip(1)], 1)
    other = logits_of(model(input_ids=changed))
    torch.testing.assert_close(other[:, :5], logits[:, :5])
    assert not torch.allclose(other[:, 5:], logits[:, 5:])
    assert find_taps(model, {"input_ids": tokens}).classifier == "lm_head"


@pytest.mark.parametrize("option", CAUSAL)
def test_padding_on_the_right_does_not_change_what_a_language_model_says_before_it(option):
    model, padded = network(option), text(5, 3)
    alone = logits_of(model(input_ids=padded["input_ids"][1:, :3]))
    torch.testing.assert_close(logits_of(ask(model, padded))[1:, :3], alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("option", ["gpt_tiny", "llama_tiny"])
def test_a_language_model_learns_to_count_and_generates_with_kept_keys_what_it_would_without(option):
    model = network(option).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    for step in range(40):
        counted = (torch.arange(32)[:, None] * 3 + step + torch.arange(13)) % VOCABULARY
        output = model(input_ids=counted[:, :-1])
        assert getattr(output, "past_key_values", None) is None
        cross_entropy(output.logits.flatten(0, 1), counted[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    first = torch.tensor([[11, 12, 13], [98, 99, 0]])
    kept = model.generate(first, max_new_tokens=4, do_sample=False, return_dict_in_generate=True)
    assert kept.past_key_values.get_seq_length() == 6
    plain = model.generate(first, max_new_tokens=4, do_sample=False, use_cache=False)
    assert kept.sequences.tolist() == plain.tolist() == [[*range(11, 18)], [98, 99, 0, 1, 2, 3, 4]]


@pytest.mark.parametrize("option", CAUSAL)
def test_the_output_layer_of_a_language_model_is_its_embedding(option):
    model = network(option)
    assert model.get_input_embeddings().weight is model.lm_head.weight


@pytest.mark.parametrize(("width", "hidden"), [(1, 128), (0.5, 64), (0.1, 12), (0.001, 2), (1.3, 166)])
def test_width_scales_an_encoder_in_whole_heads(width, hidden):
    made = bert(classes=2, vocabulary=9, length=9, width=width, layers=1, hidden=128, attention_heads=2, dropout=0)
    assert (made.config.hidden_size, made.config.intermediate_size) == (hidden, 4 * hidden)
    assert logits_of(ask(made, {name: value[:, :9] % 9 for name, value in text(9).items()})).shape == (1, 2)


def test_every_token_trains_also_the_first():
    made = network("bert_tiny").train()
    made(input_ids=torch.zeros(1, 3, dtype=torch.long), attention_mask=torch.ones(1, 3)).logits.sum().backward()
    assert made.bert.embeddings.word_embeddings.weight.grad[0].abs().sum() > 0


def test_transformers_is_imported_when_a_network_needs_it_and_its_absence_says_what_to_install():
    code = (
        "import sys; import kdlab.models.bert, kdlab.models.gpt, kdlab.models.llama, kdlab.models.lora\n"
        "import kdlab.models.pretrained, kdlab.models.layer_copy\n"
        "assert 'transformers' not in sys.modules\n"
        "sys.modules['transformers'] = None\n"
        "from kdlab.models.extra import extra\n"
        "extra('transformers')"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr
    assert told.splitlines()[-1].endswith("transformers is not installed; type pip install 'kdlab[text]'")
