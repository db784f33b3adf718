"""distilbert: the directions of the last states, token by token."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from torch import nn

from kdlab.heads.feature.distilbert import DistilBERT
from support.sequence_examples import VALID, built, knows, value


def cosine(one: list[float], other: list[float]) -> float:
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    return dot / sqrt(sum(a * a for a in one)) / sqrt(sum(b * b for b in other))


@pytest.mark.parametrize("valid", [VALID, None])
def test_it_is_one_minus_the_cosine_over_tokens(valid: torch.Tensor | None) -> None:
    learner, teacher = knows(valid=valid), knows(depth=3, phase=1.0, valid=valid)
    ours, theirs = learner.blocks[2].tolist(), teacher.blocks[3].tolist()
    counted = [(b, t) for b in range(3) for t in range(4) if valid is None or valid[b, t]]
    assert len(counted) == (12 if valid is None else 7)
    expected = sum(1 - cosine(ours[b][t], theirs[b][t]) for b, t in counted) / len(counted)
    assert value(built(DistilBERT(), learner, teacher), learner, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_a_narrower_student_is_mapped_by_what_it_learns() -> None:
    learner, teacher = knows(width=4), knows(width=6, phase=1.0)
    head = built(DistilBERT(), learner, teacher)
    assert isinstance(head.projection, nn.Linear)
    value(head, learner, teacher).backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in head.parameters())


def test_other_tokens_are_refused() -> None:
    learner, teacher = knows(), knows()
    shorter = type(teacher)(teacher.logits, blocks=tuple(block[:, :3] for block in teacher.blocks))
    with pytest.raises(ValueError, match=r"token by token: student has 4 and teacher 3 .* loss=uld$"):
        built(DistilBERT(), learner, shorter)
