"""Texts are continued token by token from exactly the probabilities of those who write them."""

import pytest
import torch

from kdlab.networks.generation import continued
from support.language import Bigram, Fixed
from support.text_models import VOCABULARY, network

PROMPT = torch.randint(1, VOCABULARY, (3, 4), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("option", ["gpt_tiny", "llama_tiny"])
def test_a_greedy_text_is_that_of_the_library(option):
    model = network(option, "model.hidden=16")
    # Random weights of the usual size make all tokens nearly alike.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8) if parameter.ndim > 1 else None
    theirs = model.generate(PROMPT, attention_mask=torch.ones_like(PROMPT), max_new_tokens=12, do_sample=False,
                            pad_token_id=0)  # fmt: skip
    found = continued([(model, 1.0)], PROMPT, 16, None)
    assert found.text.tolist() == theirs.tolist()
    assert len({*found.text[:, 4:].flatten().tolist()}) > 3, "a constant text shows little"


def test_kept_keys_and_values_change_nothing():
    model, draws = network("gpt_tiny", "model.hidden=16"), torch.rand(3, 12)
    cached = continued([(model, 1.0)], PROMPT, 16, draws)

    class Forgetful(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids):
            return self.model(input_ids=input_ids)

    plain = continued([(Forgetful(), 1.0)], PROMPT, 16, draws)
    assert cached.text.tolist() == plain.text.tolist()
    torch.testing.assert_close(cached.log_probability, plain.log_probability)
    whole = model(input_ids=cached.text[:, :-1]).logits[:, 3:].log_softmax(2).gather(2, cached.text[:, 4:, None])
    torch.testing.assert_close(cached.log_probability, whole[..., 0].detach())


def counts(writers, temperature=1.0):
    """How often each token is drawn by 1000 evenly spaced numbers."""
    draws = (torch.arange(1000)[:, None] + 0.5) / 1000
    text = continued(writers, torch.zeros(1000, 1, dtype=torch.long), 2, draws, temperature).text
    return text[:, 1].bincount(minlength=4).tolist()


def test_tokens_are_drawn_as_often_as_they_are_probable():
    writer = Fixed(0.5, 0.3, 0.0, 0.2)
    assert counts([(writer, 1.0)]) == [500, 300, 0, 200]
    # At temperature 0.5 the probabilities are squared: 25 : 9 : 0 : 4 of 38.
    assert counts([(writer, 1.0)], 0.5) == pytest.approx([657.9, 236.8, 0, 105.3], abs=1)


def test_writers_mix_their_probabilities_by_their_shares():
    assert counts([(Fixed(0.5, 0.3, 0.0, 0.2), 0.8), (Fixed(0.0, 0.0, 1.0, 0.0), 0.2)]) == [400, 240, 200, 160]


def test_a_text_is_the_same_in_any_batch():
    model, draws = network("gpt_tiny", "model.hidden=16"), torch.rand(3, 12)
    together = continued([(model, 1.0)], PROMPT, 16, draws).text
    for row in range(3):
        assert continued([(model, 1.0)], PROMPT[row : row + 1], 16, draws[row : row + 1]).text[0].equal(together[row])


def test_a_writer_has_no_dropout_and_is_left_as_it_was():
    torch.manual_seed(0)
    model = Bigram(dropout=0.9).train()
    model.words.eval()
    before = torch.get_rng_state()
    texts = [continued([(model, 1.0)], torch.ones(4, 1, dtype=torch.long), 9, None).text for _ in range(2)]
    assert texts[0].equal(texts[1])
    assert texts[0].equal(continued([(model.eval(), 1.0)], torch.ones(4, 1, dtype=torch.long), 9, None).text)
    model.train(), model.words.eval()
    continued([(model, 1.0)], torch.ones(4, 1, dtype=torch.long), 3, None)
    assert (model.training, model.drop.training, model.words.training) == (True, True, False)
    assert torch.get_rng_state().equal(before), "no random number is taken from the run"


def test_a_student_in_half_precision_has_gradients_after_it_has_written():
    torch.manual_seed(0)
    model = Bigram()
    with torch.autocast("cpu", torch.bfloat16):
        text = continued([(model, 1.0)], torch.ones(4, 1, dtype=torch.long), 9, torch.rand(4, 8)).text
        loss = model(text).float().logsumexp(2).sum()
    loss.backward()
    assert model.classifier.weight.grad is not None
    assert model.classifier.weight.grad.abs().sum() > 0
