"""minilm: attention and value relations of the last block."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import rel_entr, softmax

from kdlab.core.knowledge import Knowledge
from kdlab.heads.relation.minilm import MiniLM
from support.sequence_examples import VALID, built, knows, value

LENGTHS = tuple(VALID.sum(1).tolist())


def divergence(ours: Knowledge, theirs: Knowledge, first: str, second: str) -> float:
    terms = []
    for b, length in enumerate(LENGTHS):
        for head in range(2):
            one, other = (
                softmax(
                    getattr(each, first)[b, head, :length].numpy()
                    @ getattr(each, second)[b, head, :length].numpy().T
                    / np.sqrt(each.keys.shape[-1]),
                    axis=1,
                )
                for each in (ours.attention[-1], theirs.attention[-1])
            )
            terms += rel_entr(other, one).sum(1).tolist()
    return float(np.mean(terms))


def test_it_is_the_divergence_of_attention_and_of_value_relations() -> None:
    learner, teacher = knows(width=4), knows(depth=3, width=6, phase=1.0)
    expected = divergence(learner, teacher, "queries", "keys") + divergence(learner, teacher, "values", "values")
    assert expected > 0.1
    assert value(built(MiniLM(), learner, teacher), learner, teacher).item() == pytest.approx(expected, rel=1e-9)


def test_other_numbers_of_heads_are_refused() -> None:
    with pytest.raises(ValueError, match=r"student has 2 and teacher 3; choose loss=minilmv2"):
        built(MiniLM(), knows(heads=2), knows(heads=3))


def test_a_network_says_nothing_against_itself() -> None:
    assert value(built(MiniLM(), knows(), knows()), knows(), knows()).item() == pytest.approx(0.0, abs=1e-12)
