"""at: attention over the positions of each pair of stages."""

import pytest
import torch

from kdlab.core.knowledge import Context
from kdlab.heads.feature.at import AT, at_loss, attention
from support.feature_examples import LESSON, PROGRESS, example, knows, wave

CONTEXT = Context(classes=3, samples=8)


def by_loops(student: torch.Tensor, teacher: torch.Tensor) -> float:
    samples, _, height, width = student.shape
    total = 0.0
    for n in range(samples):
        maps = []
        for features in (student[n], teacher[n]):
            energy = [float((features[:, h, w] ** 2).sum()) for h in range(height) for w in range(width)]
            length = sum(value**2 for value in energy) ** 0.5
            maps.append([value / length for value in energy])
        total += sum((s - t) ** 2 for s, t in zip(*maps, strict=True))
    return total / (samples * height * width)


@pytest.mark.parametrize(("ours", "theirs"), [((1, 1, 2, 2), (1, 1, 2, 2)), ((3, 4, 3, 5), (3, 9, 3, 5))])
def test_at_is_the_mean_squared_difference_of_unit_attention(ours, theirs):
    student, teacher = wave(*ours), wave(*theirs, phase=1.0, step=0.7)
    assert at_loss(student, teacher).item() == pytest.approx(by_loops(student, teacher), rel=1e-10)


def test_at_has_the_values_of_published_code():
    """HobbitLong/RepDistiller, distiller_zoo/AT.py at 1e2f816, on two pairs of stages."""
    learner = knows(wave(2, 6, 8, 8, phase=0.5, scale=2), wave(2, 12, 4, 4, phase=2.5, step=0.53))
    teacher = knows(wave(2, 10, 4, 4, phase=1.5, step=0.61), wave(2, 5, 8, 8, phase=0.1, step=0.29))
    assert at_loss(learner.stage(0), teacher.stage(0)).item() == pytest.approx(0.000694985864261043, rel=1e-9)
    head = AT()
    head.build(example(*learner.stages), example(*teacher.stages), CONTEXT)
    value = head(learner, teacher, LESSON, PROGRESS).item()
    assert value == pytest.approx(0.000694985864261043 + 0.010791247108757148, rel=1e-9)


def test_attention_ignores_scale_sign_and_order_of_channels():
    features = wave(2, 6, 4, 4)
    for same in (3 * features, -features, features.flip(1)):
        torch.testing.assert_close(attention(same), attention(features))


def test_attention_by_hand():
    features = torch.tensor([[[[3.0, 0.0]], [[1.0, 2.0]]]])  # energies 10 and 4
    torch.testing.assert_close(attention(features), torch.tensor([[10.0, 4.0]]) / 116**0.5)


def test_a_map_of_zeros_attends_nowhere():
    teacher = wave(3, 2, 4, 4)
    assert at_loss(torch.zeros(3, 5, 4, 4), teacher).item() == pytest.approx(1 / 16)


def test_stages_of_one_position_are_left_out():
    head = AT()
    head.build(
        example(wave(2, 3, 4, 4), wave(2, 3, 1, 1)),
        example(wave(2, 5, 8, 8), wave(2, 5, 4, 4), wave(2, 5, 2, 2)),
        CONTEXT,
    )
    assert head.pairs == ((0, 1),)


def test_two_networks_that_share_one_position_are_refused_with_both_shapes_and_layers():
    message = r"small layer1 gives \(2, 3, 1, 1\) and big layer1 \(2, 5, 4, 4\)"
    with pytest.raises(ValueError, match=message):
        AT().build(example(wave(2, 3, 1, 1), name="small"), example(wave(2, 5, 4, 4), name="big"), CONTEXT)
