import pytest
import torch

from kdlab.heads.relation.ickd import ICKD, correlation, ickd_loss
from support.relation_examples import CONTEXT, PROGRESS, example, knows, lesson, wave


def naive_ickd(student, teacher):
    total = 0.0
    for one, other in zip(student, teacher, strict=True):
        tables = []
        for channels in (one, other):
            table = [[float((a * b).sum()) for b in channels] for a in channels]
            tables.append([[value / sum(x**2 for x in row) ** 0.5 for value in row] for row in table])
        total += sum(
            (a - b) ** 2 for ours, theirs in zip(*tables, strict=True) for a, b in zip(ours, theirs, strict=True)
        )
    return total / (student.shape[0] * student.shape[1])


@pytest.mark.parametrize(("shape", "other"), [((3, 4, 5, 5), (3, 4, 5, 5)), ((2, 6, 4, 2), (2, 6, 3, 3))])
def test_loss_is_the_summed_squared_difference_of_correlations_over_channels_and_samples(shape, other):
    student, teacher = wave(*shape), wave(*other, step=0.9)
    assert ickd_loss(student, teacher).item() == pytest.approx(naive_ickd(student, teacher), rel=1e-9)


def test_two_channels_by_hand():
    # F = [[3, 0], [4, 3]] over two positions, F Fᵀ = [[9, 12], [12, 25]]
    table = correlation(torch.tensor([[[[3.0, 0.0]], [[4.0, 3.0]]]]))
    torch.testing.assert_close(table, torch.tensor([[[9 / 15, 12 / 15], [12 / 769**0.5, 25 / 769**0.5]]]))


def test_loss_equals_the_authors_code():
    # ADLab-AutoDrive/ICKD 04e1d3e, Cifar100/distiller_zoo/ICKD.py batch_loss after its embedding.
    student, teacher = wave(3, 4, 5, 5, step=0.37), wave(3, 4, 5, 5, step=0.41, phase=1)
    assert ickd_loss(student, teacher).item() == pytest.approx(0.8612714187792431, rel=1e-9)


def test_scaling_a_sample_and_moving_its_positions_change_nothing():
    teacher = wave(3, 4, 5, 5)
    student = torch.tensor([1.0, 5.0, 0.1])[:, None, None, None] * teacher.flip(2).mT
    assert ickd_loss(student, teacher).item() == pytest.approx(0.0, abs=1e-20)


def test_gradient_is_that_of_the_value():
    teacher = wave(2, 3, 2, 2, step=0.9)
    assert torch.autograd.gradcheck(lambda maps: ickd_loss(maps, teacher), wave(2, 3, 4, 4).requires_grad_())


def test_a_silent_channel_has_a_moderate_gradient():
    student = wave(2, 3, 4, 4).float()
    student[:, 1] = 0
    student.requires_grad_()
    ickd_loss(student, wave(2, 3, 4, 4, step=0.9).float()).backward()
    assert student.grad.isfinite().all()
    assert student.grad.norm() < 10


def test_the_student_passes_a_convolution_and_normalisation_even_where_channels_agree():
    ours, theirs = wave(3, 4, 5, 5).float(), wave(3, 4, 2, 2, step=0.9).float()
    learner, teacher, vector = knows(torch.zeros(3, 2), ours), knows(torch.zeros(3, 2), theirs), torch.zeros(3, 2)
    head = ICKD(stage=-1)
    head.build(example(vector, ours), example(vector, theirs), CONTEXT)
    mapped = torch.einsum("dc,nchw->ndhw", head.align.conv.weight[:, :, 0, 0], ours)
    mean, variance = mapped.mean((0, 2, 3), keepdim=True), mapped.var((0, 2, 3), keepdim=True, unbiased=False)
    loss = head(learner, teacher, lesson(learner), PROGRESS)
    torch.testing.assert_close(loss, ickd_loss((mapped - mean) / (variance + 1e-5).sqrt(), theirs))
