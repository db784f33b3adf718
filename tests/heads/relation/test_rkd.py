from math import sqrt

import pytest
import torch

from kdlab.heads.relation.rkd import relations, rkd_loss
from support.relation_examples import rotation, wave


def huber(difference):
    difference = abs(difference)
    return 0.5 * difference**2 if difference < 1 else difference - 0.5


def naive_rkd(student, teacher):
    def distances(rows):
        table = [[float((a - b).norm()) for a in rows] for b in rows]
        count = len(rows)
        mean = sum(map(sum, table)) / (count * (count - 1))
        return [[value / mean for value in row] for row in table]

    def angle(rows, i, j, k):
        one, other = rows[i] - rows[j], rows[k] - rows[j]
        size = float(one.norm() * other.norm())
        return float(one @ other) / size if size else 0.0

    places = range(len(student))
    ours, theirs = distances(student), distances(teacher)
    distance = sum(huber(ours[i][j] - theirs[i][j]) for i in places for j in places) / len(student) ** 2
    angles = sum(
        huber(angle(student, i, j, k) - angle(teacher, i, j, k)) for i in places for j in places for k in places
    )
    return distance, angles / len(student) ** 3


@pytest.mark.parametrize("count", [2, 5, 7])
def test_loss_is_the_huber_loss_of_distances_and_angles(count):
    student, teacher = wave(count, 4), wave(count, 6, step=0.9, phase=2)
    distance, angle = naive_rkd(student, teacher)
    assert rkd_loss(student, teacher, 1.0, 0.0).item() == pytest.approx(distance, rel=1e-9)
    assert rkd_loss(student, teacher, 0.0, 1.0).item() == pytest.approx(angle, rel=1e-9)
    assert rkd_loss(student, teacher, 3.0, 2.0).item() == pytest.approx(3 * distance + 2 * angle, rel=1e-9)


def test_a_right_triangle_has_its_distances_and_angles():
    distances, angles = relations(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64))
    mean = (2 + sqrt(2)) / 3
    assert distances[0].tolist() == pytest.approx([0.0, 1 / mean, 1 / mean])
    assert distances[1, 2].item() == pytest.approx(sqrt(2) / mean)
    assert angles[0, 1, 2].item() == pytest.approx(0.0)
    assert angles[1, 0, 2].item() == pytest.approx(1 / sqrt(2))


def test_loss_equals_the_authors_code():
    # lenscloth/RKD 21fae20, metric/loss.py RkdDistance and RKdAngle, with metric/utils.py of 0e0d3c2.
    student, teacher = wave(6, 5, step=0.37), wave(6, 7, step=0.41, phase=1)
    assert rkd_loss(student, teacher, 1.0, 0.0).item() == pytest.approx(0.18366624809852777, rel=1e-9)
    assert rkd_loss(student, teacher, 0.0, 1.0).item() == pytest.approx(0.16818004493055416, rel=1e-9)


def test_turning_moving_and_scaling_the_embeddings_change_nothing():
    teacher = wave(6, 5)
    student = 7.0 * teacher @ rotation(5) + 3.0
    assert rkd_loss(student, teacher, 25.0, 50.0).item() == pytest.approx(0.0, abs=1e-20)


def test_the_order_of_the_batch_changes_nothing():
    student, teacher, order = wave(5, 4), wave(5, 6, step=0.9), torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(rkd_loss(student[order], teacher[order], 1.0, 2.0), rkd_loss(student, teacher, 1.0, 2.0))


def test_gradient_is_that_of_the_value():
    student, teacher = wave(5, 4).requires_grad_(), wave(5, 6, step=0.9)
    assert torch.autograd.gradcheck(lambda rows: rkd_loss(rows, teacher, 25.0, 50.0), student)


def test_coincident_points_do_not_pull_harder_than_others():
    student = wave(5, 4).float()
    student[3] = student[1]
    student.requires_grad_()
    rkd_loss(student, wave(5, 6, step=0.9).float(), 25.0, 50.0).backward()
    gradient = student.grad.norm(dim=1)
    assert gradient.isfinite().all()
    assert gradient.max() < 100


def test_a_batch_that_has_collapsed_has_a_finite_loss_and_no_gradient():
    student = torch.ones(4, 3, requires_grad=True)
    loss = rkd_loss(student, wave(4, 3).float(), 25.0, 50.0)
    loss.backward()
    assert loss.isfinite()
    assert (student.grad == 0).all()
