"""cwd: channels as distributions over positions."""

from math import exp, log

import pytest
import torch

from kdlab.core.knowledge import Context
from kdlab.heads.feature.cwd import CWD, cwd_loss
from kdlab.heads.shapes import Align
from support.feature_examples import LESSON, PROGRESS, example, knows, wave

CONTEXT = Context(classes=3, samples=8)
STUDENT, TEACHER = wave(2, 6, 4, 4, phase=0.5, scale=2), wave(2, 6, 4, 4, phase=0.9, step=0.23, scale=1.5)


def softmax(values: list[float], temperature: float) -> list[float]:
    powers = [exp(value / temperature) for value in values]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (3, 4, 3, 5)])
def test_cwd_is_the_mean_divergence_of_channels_over_positions(shape, temperature):
    student, teacher = wave(*shape), wave(*shape, phase=1.0, step=0.7)
    total = 0.0
    for n in range(shape[0]):
        for d in range(shape[1]):
            p = softmax(teacher[n, d].flatten().tolist(), temperature)
            q = softmax(student[n, d].flatten().tolist(), temperature)
            total += sum(a * log(a / b) for a, b in zip(p, q, strict=True))
    expected = temperature**2 * total / (shape[0] * shape[1])
    assert cwd_loss(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("temperature", "value"), [(4.0, 1.3293347078340279), (1.0, 1.143673395330281)])
def test_cwd_has_the_value_of_the_authors_code(temperature, value):
    """irfanICMLL/TorchDistiller, SemSeg-distill/utils/criterion.py at c2caaca: CriterionCWD("channel", "kl", T)."""
    head = CWD(stage=-1, temperature=temperature)
    head.build(example(STUDENT), example(TEACHER), CONTEXT)
    assert head(knows(STUDENT), knows(TEACHER), LESSON, PROGRESS).item() == pytest.approx(value, rel=1e-9)


def test_a_constant_added_to_a_channel_changes_nothing():
    shifted = STUDENT + wave(1, 6, 1, 1, scale=9)
    assert cwd_loss(shifted, STUDENT, 2.0).item() == pytest.approx(0, abs=1e-12)


def test_the_gradient_is_the_temperature_times_the_difference_of_probabilities():
    student = STUDENT.clone().requires_grad_()
    cwd_loss(student, TEACHER, 4.0).backward()
    q, p = ((maps.flatten(2) / 4).softmax(2).view_as(maps) for maps in (STUDENT, TEACHER))
    torch.testing.assert_close(student.grad, 4 * (q - p) / (2 * 6))


def test_channels_are_aligned_only_where_they_differ():
    heads = [CWD(stage=-1, temperature=4.0), CWD(stage=-1, temperature=4.0)]
    heads[0].build(example(STUDENT), example(TEACHER), CONTEXT)
    heads[1].build(example(STUDENT), example(wave(2, 9, 4, 4)), CONTEXT)
    assert [isinstance(head.align, Align) for head in heads] == [False, True]


def test_a_map_of_one_position_is_refused():
    with pytest.raises(ValueError, match="they share one position"):
        CWD(stage=-1, temperature=4.0).build(example(wave(2, 6, 1, 1)), example(TEACHER), CONTEXT)
