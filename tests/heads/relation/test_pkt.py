from math import log

import pytest
import torch

from kdlab.heads.relation.pkt import neighbours, pkt_loss
from support.relation_examples import rotation, wave


def naive_pkt(student, teacher):
    def probabilities(rows):
        kernel = [[(float(torch.cosine_similarity(a, b, dim=0)) + 1) / 2 for b in rows] for a in rows]
        return [[value / sum(row) for value in row] for row in kernel]

    ours, theirs, count = probabilities(student), probabilities(teacher), len(student)
    return (
        sum(theirs[i][j] * log((theirs[i][j] + 1e-7) / (ours[i][j] + 1e-7)) for i in range(count) for j in range(count))
        / count**2
    )


@pytest.mark.parametrize("count", [2, 5, 8])
def test_loss_is_the_divergence_of_neighbour_probabilities_over_the_squared_batch(count):
    student, teacher = wave(count, 4) + 0.5, wave(count, 6, step=0.9) + 0.5
    assert pkt_loss(student, teacher).item() == pytest.approx(naive_pkt(student, teacher), rel=1e-7)


def test_two_orthogonal_rows_are_half_as_near_as_equal_ones():
    torch.testing.assert_close(
        neighbours(torch.tensor([[2.0, 0.0], [0.0, 5.0]])), torch.tensor([[2 / 3, 1 / 3], [1 / 3, 2 / 3]])
    )


def test_rows_of_probabilities_sum_to_one_and_none_is_negative():
    rows = neighbours(wave(5, 4))
    torch.testing.assert_close(rows.sum(dim=1), torch.ones(5, dtype=torch.float64))
    half = wave(40, 300).float()
    assert (neighbours(torch.cat([half, -half])) >= 0).all()


def test_loss_equals_the_authors_code():
    # passalis/probabilistic_kt bbca0b8, nn/pkt.py cosine_similarity_loss; its norms have 1e-7 added.
    student, teacher = wave(6, 5, step=0.37) + 1, wave(6, 7, step=0.41, phase=1) + 1
    assert pkt_loss(student, teacher).item() == pytest.approx(0.0018564770800001398, rel=1e-6)


def test_turning_the_embeddings_and_scaling_each_row_change_nothing():
    teacher = wave(6, 5)
    student = (torch.arange(1, 7)[:, None] * teacher) @ rotation(5)
    assert pkt_loss(student, teacher).item() == pytest.approx(0.0, abs=1e-12)


def test_the_order_of_the_batch_changes_nothing():
    student, teacher, order = wave(5, 4), wave(5, 6, step=0.9), torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(pkt_loss(student[order], teacher[order]), pkt_loss(student, teacher))


def test_gradient_is_that_of_the_value():
    teacher = wave(5, 6, step=0.9)
    student = (wave(5, 4) + 0.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: pkt_loss(rows, teacher), student)


def test_opposite_and_silent_rows_are_finite():
    student = torch.stack([wave(300), -wave(300), torch.zeros(300, dtype=torch.float64)]).float().requires_grad_()
    loss = pkt_loss(student, wave(3, 5).float())
    loss.backward()
    assert loss.isfinite()
    assert student.grad.norm() < 100
