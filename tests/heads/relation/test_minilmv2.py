"""minilmv2: relations of queries, keys and values in heads divided anew."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax

from kdlab.heads.relation.minilmv2 import MiniLMv2
from support.sequence_examples import VALID, built, knows, value

LENGTHS = tuple(VALID.sum(1).tolist())


def relations(vectors: torch.Tensor, heads: int, sample: int, length: int) -> list[np.ndarray]:
    """By token, all heads side by side, then cut into pieces of equal width."""
    rows = [
        np.concatenate([vectors[sample, head, t].numpy() for head in range(vectors.shape[1])]) for t in range(length)
    ]
    return [
        softmax(piece @ piece.T / np.sqrt(piece.shape[1]), axis=1) for piece in np.split(np.stack(rows), heads, axis=1)
    ]


@pytest.mark.parametrize(("heads", "layer"), [(2, -1), (1, 0), (4, 1)])
def test_it_is_the_sum_of_three_divergences(heads: int, layer: int) -> None:
    learner, teacher = knows(width=4, heads=2), knows(depth=3, width=12, heads=3, phase=1.0)
    expected = 0.0
    for name in ("queries", "keys", "values"):
        terms = []
        for b, length in enumerate(LENGTHS):
            one = relations(getattr(learner.attention[-1], name), heads, b, length)
            other = relations(getattr(teacher.attention[layer], name), heads, b, length)
            terms += [value for s, t in zip(one, other, strict=True) for value in rel_entr(t, s).sum(1)]
        expected += np.mean(terms)
    found = value(built(MiniLMv2(heads, layer), learner, teacher), learner, teacher)
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_relation_heads_that_do_not_divide_a_width_are_refused_with_it() -> None:
    words = r"relation_heads=4 does not divide the attention of student, 2 heads of 3: .* a divisor of 6$"
    with pytest.raises(ValueError, match=words):
        built(MiniLMv2(4, -1), knows(width=6), knows(width=12))
    with pytest.raises(ValueError, match=r"^relation_heads=0: expected a number from 1 on$"):
        MiniLMv2(0, -1)
