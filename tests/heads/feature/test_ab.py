"""ab: on which side of zero each neuron is."""

import pytest
import torch

from kdlab.core.knowledge import Context
from kdlab.heads.feature.ab import AB, ab_loss
from kdlab.heads.shapes import Align
from support.feature_examples import LESSON, PROGRESS, example, knows, wave

CONTEXT = Context(classes=3, samples=8)


def by_loops(student: torch.Tensor, teacher: torch.Tensor, margin: float) -> float:
    total = 0.0
    for s, t in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True):
        if s > -margin and t <= 0:
            total += (s + margin) ** 2
        if s <= margin and t > 0:
            total += (s - margin) ** 2
    return total / len(student) * 3 / 1000


@pytest.mark.parametrize("margin", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 4, 2, 5)])
def test_ab_is_the_squared_distance_to_the_margin_on_the_teachers_side(shape, margin):
    student, teacher = wave(*shape, scale=2), wave(*shape, phase=1.0, step=0.7)
    assert ab_loss(student, teacher, margin).item() == pytest.approx(by_loops(student, teacher, margin), rel=1e-10)


def test_ab_by_hand():
    student = torch.tensor([2.0, 0.5, -0.5, -2.0, 0.5]).view(1, 5, 1, 1)
    teacher = torch.tensor([9.0, 0.1, -0.1, -9.0, 0.0]).view(1, 5, 1, 1)  # zero is off
    assert ab_loss(student, teacher, 1.0).item() == pytest.approx(0.003 * (0 + 0.25 + 0.25 + 0 + 2.25))


def test_ab_has_the_value_of_the_authors_code():
    """bhheo/AB_distillation, cifar10_AB_distillation.py at 4ac7d04: three stages of equal widths, margin 1."""
    learner = knows(
        wave(2, 3, 8, 8, scale=1.5), wave(2, 6, 4, 4, phase=0.5, scale=2), wave(2, 12, 4, 4, phase=2.5, step=0.53)
    )
    teacher = knows(wave(2, 3, 8, 8, phase=0.7), wave(2, 6, 4, 4, phase=0.9, step=0.23), wave(2, 12, 4, 4, phase=0.3))
    middle = ab_loss(learner.preactivation(1), teacher.preactivation(1), 1.0)
    assert middle.item() == pytest.approx(0.761582728782215, rel=1e-9)
    head = AB(margin=1.0)
    head.build(example(*learner.stages), example(*teacher.stages), CONTEXT)
    assert head(learner, teacher, LESSON, PROGRESS).item() == pytest.approx(1.3289889534641777, rel=1e-9)


def test_only_the_sign_of_the_teacher_matters():
    student, teacher = wave(2, 3, 4, 4), wave(2, 3, 4, 4, phase=1.0)
    torch.testing.assert_close(ab_loss(student, teacher, 1.0), ab_loss(student, 50 * teacher, 1.0))


def test_a_connector_stands_only_where_the_channels_differ():
    head = AB(margin=1.0)
    head.build(example(wave(2, 3, 8, 8), wave(2, 6, 4, 4)), example(wave(2, 3, 8, 8), wave(2, 9, 4, 4)), CONTEXT)
    assert [isinstance(connector, Align) for connector in head.connectors] == [False, True]
    assert head.connectors[1](wave(2, 6, 4, 4).float()).shape == (2, 9, 4, 4)
