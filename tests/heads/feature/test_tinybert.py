"""tinybert: embeddings, states and scores, block by block."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdlab.core.knowledge import Attention, Fields
from kdlab.heads.feature.tinybert import TinyBERT, attention_loss
from support.sequence_examples import VALID, built, knows, value

LENGTHS = (4, 2, 1)


def states(ours: torch.Tensor, theirs: torch.Tensor, layer: torch.nn.Linear) -> float:
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    terms = [
        (ours[b, t].numpy() @ weight.T + bias - theirs[b, t].numpy()) ** 2
        for b, length in enumerate(LENGTHS)
        for t in range(length)
    ]
    return float(np.mean(terms))


def scores(ours: Attention, theirs: Attention) -> float:
    terms = []
    for b, length in enumerate(LENGTHS):
        for head in range(2):
            for q in range(length):
                for k in range(length):
                    one, other = (
                        float(each.queries[b, head, q] @ each.keys[b, head, k]) / np.sqrt(each.keys.shape[-1])
                        for each in (ours, theirs)
                    )
                    terms.append((one - other) ** 2)
    return float(np.mean(terms))


@pytest.mark.parametrize("weight", [1.0, 0.25, 0.0])
def test_it_is_the_sum_over_embeddings_states_and_scores(weight: float) -> None:
    learner, teacher = knows(depth=2, width=4), knows(depth=4, width=6, phase=1.0)
    head = built(TinyBERT("uniform", weight), learner, teacher)
    expected = states(learner.blocks[0], teacher.blocks[0], head.embedding)
    for ours, theirs in ((1, 2), (2, 4)):
        expected += states(learner.blocks[ours], teacher.blocks[theirs], head.hidden)
        expected += weight * scores(learner.attention[ours - 1], teacher.attention[theirs - 1])
    found = value(head, learner, teacher)
    assert found.item() == pytest.approx(expected, rel=1e-12)
    found.backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in head.parameters())


def test_scores_that_a_causal_mask_hides_do_not_count() -> None:
    causal = torch.ones(4, 4, dtype=torch.bool).tril()[None, None].expand(3, -1, -1, -1)
    ours, theirs = (knows(phase=phase, valid=None).attention[0] for phase in (0.0, 1.0))
    one, other = (Attention(each.queries, each.keys, each.values, each.scale, causal) for each in (ours, theirs))
    raw = [(each.queries @ each.keys.mT * each.scale).numpy() for each in (ours, theirs)]
    terms = [
        (raw[0] - raw[1])[b, h, q, k] ** 2 for b in range(3) for h in range(2) for q in range(4) for k in range(q + 1)
    ]
    assert attention_loss(one, other, None).item() == pytest.approx(np.mean(terms), rel=1e-12)
    added = torch.zeros(3, 1, 4, 4).double().masked_fill(~causal, torch.finfo(torch.float64).min)
    one, other = (Attention(each.queries, each.keys, each.values, each.scale, added) for each in (ours, theirs))
    assert attention_loss(one, other, None).item() == pytest.approx(np.mean(terms), rel=1e-12)


def test_other_numbers_of_heads_are_refused_unless_scores_do_not_count() -> None:
    learner, teacher = knows(heads=2), knows(heads=3)
    with pytest.raises(ValueError, match=r"student has 2 and teacher 3; set loss\.heads\.tinybert\.attention_weight=0"):
        built(TinyBERT("uniform", 1.0), learner, teacher)
    built(TinyBERT("uniform", 0.0), learner, teacher)
    assert TinyBERT("uniform", 0.0).needs().learner == Fields(blocks="all")


def test_a_pair_without_an_attention_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one attention for each pair of blocks from 1 on"):
        built(TinyBERT([[1, 0]], 1.0), knows(), knows())


def test_the_mask_of_the_test_has_the_lengths_that_it_says() -> None:
    assert tuple(VALID.sum(1).tolist()) == LENGTHS


def test_gradients_are_finite_where_one_network_sees_what_the_other_does_not() -> None:
    causal = torch.ones(4, 4, dtype=torch.bool).tril()[None, None].expand(3, -1, -1, -1)
    added = torch.zeros(3, 1, 4, 4).double().masked_fill(~causal, torch.finfo(torch.float64).min)
    for ours, theirs in ((None, causal), (added, None), (added, causal)):
        one, other = (knows(phase=phase, valid=None).attention[0] for phase in (0.0, 1.0))
        queries = one.queries.clone().requires_grad_()
        attention_loss(
            Attention(queries, one.keys, one.values, one.scale, ours),
            Attention(other.queries, other.keys, other.values, other.scale, theirs), None,
        ).backward()  # fmt: skip
        assert queries.grad.isfinite().all()
        assert queries.grad.abs().max() > 0
