"""ofd: partial distance to margin-ReLU targets."""

from math import erfc, exp, pi, sqrt

import pytest
import torch
from torch import Tensor, nn

from kdlab.core.knowledge import Context
from kdlab.heads.feature.ofd import OFD, negative_mean, ofd_loss
from support.feature_examples import LESSON, PROGRESS, example, knows, wave

CONTEXT = Context(classes=3, samples=8)
WEIGHT = torch.tensor([1.0, 0.5, -2.0, 0.1, 1.0, 0.3], dtype=torch.float64)
BIAS = torch.tensor([0.0, -1.0, 1.0, 0.5, 3.2, -0.02], dtype=torch.float64)
# clovaai/overhaul-distillation, CIFAR-100/distiller.py at 76344a8: get_margin_from_BN of that weight and bias.
MARGIN = torch.tensor([-0.797884561, -1.027623931, -1.282155541, -0.3, -3.0, -0.246780014], dtype=torch.float64)


def norm(weight: Tensor, bias: Tensor) -> nn.BatchNorm2d:
    module = nn.BatchNorm2d(len(weight))
    with torch.no_grad():
        module.weight.copy_(weight)
        module.bias.copy_(bias)
    return module


def by_loops(student: Tensor, teacher: Tensor, margin: Tensor) -> float:
    total = 0.0
    for n, d, h, w in torch.cartesian_prod(*map(torch.arange, student.shape)).tolist():
        s, target = student[n, d, h, w].item(), max(teacher[n, d, h, w].item(), margin[d].item())
        if not s <= target <= 0:
            total += (s - target) ** 2
    return total / len(student)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 4, 2, 5)])
def test_ofd_is_the_summed_distance_where_either_side_is_active(shape):
    student, teacher, margin = wave(*shape), wave(*shape, phase=1.0, step=0.7), -wave(shape[1], scale=0.5).abs()
    assert ofd_loss(student, teacher, margin).item() == pytest.approx(by_loops(student, teacher, margin), rel=1e-10)


def test_ofd_by_hand():
    student = torch.tensor([-2.0, -0.5, 1.0, 1.0, -1.0]).view(1, 5, 1, 1)
    teacher = torch.tensor([-1.0, -9.0, -9.0, 3.0, 2.0]).view(1, 5, 1, 1)
    # Below the target; to the margin -1, twice; to the teacher, twice.
    assert ofd_loss(student, teacher, torch.full((5,), -1.0)).item() == pytest.approx(0 + 0.25 + 4 + 4 + 9)


def test_ofd_has_the_value_of_the_authors_code():
    """clovaai/overhaul-distillation, CIFAR-100/distiller.py at 76344a8: distillation_loss over the batch size."""
    student, teacher = wave(2, 6, 4, 4, phase=0.5, scale=2), wave(2, 6, 4, 4, phase=0.9, step=0.23, scale=1.5)
    value = ofd_loss(student, teacher, negative_mean(BIAS, WEIGHT)).item()
    assert value == pytest.approx(246.43414424135528, rel=1e-9)


def test_margins_have_the_values_of_the_authors_code():
    torch.testing.assert_close(negative_mean(BIAS, WEIGHT), MARGIN, rtol=0, atol=1e-9)
    rare = negative_mean(torch.tensor([2.7, 3.05, 3.1]), torch.ones(3)).tolist()
    assert rare == pytest.approx([-0.305772586, -0.279609643, -3.0], rel=1e-6)


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (-1.3, 0.4), (1.2, 0.7)])
def test_the_margin_is_the_mean_of_a_normal_below_zero(mean, deviation):
    step = 1e-3
    below = [-step * (place + 0.5) for place in range(10_000)]
    mass = [exp(-(((x - mean) / deviation) ** 2) / 2) / (deviation * sqrt(2 * pi)) * step for x in below]
    assert sum(mass) == pytest.approx(0.5 * erfc(mean / deviation / sqrt(2)), rel=1e-4)
    expected = sum(x * m for x, m in zip(below, mass, strict=True)) / sum(mass)
    assert negative_mean(torch.tensor([mean]), torch.tensor([deviation])).item() == pytest.approx(expected, rel=1e-4)


def test_a_channel_that_never_varies_has_a_finite_margin():
    margins = negative_mean(torch.tensor([-2.0, 0.0, 2.0]), torch.zeros(3))
    assert margins.tolist() == [-2.0, 0.0, 0.0]


def test_margins_come_from_the_teachers_batch_normalisation_and_are_saved():
    head = OFD()
    maps = wave(2, 6, 4, 4)
    head.build(example(maps), example(maps, normalisations=(norm(WEIGHT, BIAS),)), CONTEXT)
    torch.testing.assert_close(head.state_dict()["stages.0.margin"], MARGIN.float())
    assert "stages.0.margin" not in dict(head.named_parameters())


@pytest.mark.parametrize(
    "normalisation", [None, nn.GroupNorm(2, 6), nn.BatchNorm2d(6, affine=False), nn.BatchNorm2d(3)]
)
def test_without_batch_normalisation_margins_are_measured_on_the_dry_run(normalisation):
    # Half the positions at -1, half at 3: mean 1, deviation 2.
    maps = torch.tensor([-1.0, 3.0]).repeat(2 * 6 * 8).view(2, 6, 4, 4)
    head = OFD()
    head.build(example(maps), example(maps, normalisations=(normalisation,)), CONTEXT)
    torch.testing.assert_close(head.stages[0].margin, torch.full((6,), MARGIN[2].item()))


def test_each_stage_counts_half_of_the_one_after_it():
    maps = [wave(2, 4, 8, 8), wave(2, 4, 8, 8)]
    head = OFD()
    head.build(example(*maps), example(*maps), CONTEXT)
    head.double()
    head.stages[0].load_state_dict(head.stages[1].state_dict())
    both = head(knows(*maps), knows(*maps), LESSON, PROGRESS).item()
    deepest = head.stages[1](maps[1], maps[1]).item()
    assert both == pytest.approx(1.5 * deepest)
    assert deepest > 0
