from math import exp, prod

import numpy
import pytest
import torch

from kdlab.heads.relation.kdsvd import aligned, kdsvd_loss, singular
from support.relation_examples import rotation, wave


def maps(*shapes, step=0.37, phase=0.0):
    """Maps of full rank, as after a ReLU: nothing in them is negative."""
    return [
        torch.sin(torch.arange(prod(shape)).double().square() * (step + 0.17 * place) + phase).square().reshape(shape)
        for place, shape in enumerate(shapes)
    ]


def naive_kdsvd(student, teacher, vectors, candidates):
    ours, theirs = [], []
    for student_map, teacher_map in zip(student, teacher, strict=True):
        for found, target in zip(student_map.numpy(), teacher_map.numpy(), strict=True):
            _, _, student_rows = numpy.linalg.svd(found.reshape(len(found), -1).T, full_matrices=False)
            _, values, teacher_rows = numpy.linalg.svd(target.reshape(len(target), -1).T, full_matrices=False)
            values = values[:vectors] / numpy.linalg.norm(values[:vectors])
            one, other = [], []
            for value, row in zip(values, teacher_rows, strict=False):
                row = row if row.sum() >= 0 else -row
                best = max(student_rows[:candidates], key=lambda candidate: abs(candidate @ row))
                one.append(value * best * (1 if best @ row >= 0 else -1))
                other.append(value * row)
            ours.append(one)
            theirs.append(other)
    count, total = len(student[0]), 0.0
    for pair in range(len(student) - 1):
        for sample in range(count):
            shallow, deep = pair * count + sample, (pair + 1) * count + sample
            for k in range(min(len(ours[shallow]), len(ours[deep]))):
                for i in range(len(ours[deep][k])):
                    for j in range(len(ours[shallow][k])):
                        one = exp(-((ours[deep][k][i] - ours[shallow][k][j]) ** 2) / 8)
                        other = exp(-((theirs[deep][k][i] - theirs[shallow][k][j]) ** 2) / 8)
                        total += (one - other) ** 2
    return total / count


@pytest.mark.parametrize("vectors", [1, 2])
@pytest.mark.parametrize("shapes", [[(2, 3, 4, 4), (2, 6, 2, 2)], [(3, 4, 3, 5), (3, 5, 3, 3), (3, 9, 2, 2)]])
def test_loss_is_the_difference_of_kernels_between_aligned_singular_vectors(shapes, vectors):
    student, teacher = maps(*shapes), maps(*shapes, step=0.6, phase=1)
    expected = naive_kdsvd(student, teacher, vectors, 4)
    assert kdsvd_loss(student, teacher, vectors, 4, 1e-3).item() == pytest.approx(expected, rel=1e-7)


def test_loss_equals_the_published_code():
    # HobbitLong/RepDistiller 1e2f816, distiller_zoo/KDSVD.py, the sum of its list, k 1.
    student = [
        wave(2, 3, 8, 8, step=0.37).square(),
        wave(2, 4, 4, 4, step=0.53).square(),
        wave(2, 5, 4, 4, step=0.71).square(),
    ]
    teacher = [
        wave(2, 3, 8, 8, step=0.41, phase=1).square(),
        wave(2, 4, 4, 4, step=0.59, phase=1).square(),
        wave(2, 5, 4, 4, step=0.73, phase=1).square(),
    ]
    assert kdsvd_loss(student, teacher, 1, 4, 1e-3).item() == pytest.approx(0.00014848560598453296, rel=1e-7)


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 9, 2, 2)])
def test_vectors_and_values_are_those_of_the_decomposition(shape):
    features = maps(shape)[0]
    vectors, values = singular(features, 3, 1e-3)
    _, expected, rows = torch.linalg.svd(features.flatten(2).mT, full_matrices=False)
    torch.testing.assert_close(values, expected[:, :3] / features.flatten(1).norm(dim=1, keepdim=True))
    torch.testing.assert_close((vectors.mT @ rows[:, :3].mT).abs(), torch.eye(3, dtype=torch.float64).expand(2, 3, 3))


@pytest.mark.parametrize("shape", [(2, 3, 3, 3), (2, 7, 2, 2)])
def test_gradient_of_a_vector_is_that_of_the_decomposition_where_it_is_defined(shape):
    features, weight = maps(shape)[0], wave(2, shape[1], 1, step=0.9)
    mine, other = features.clone().requires_grad_(), features.clone().requires_grad_()
    # Squared, because the sign of a vector is free.
    (singular(mine, 1, 1e-9)[0] * weight).sum(dim=1).square().sum().backward()
    rows = torch.linalg.svd(other.flatten(2).mT, full_matrices=False).Vh[:, :1]
    (rows.mT * weight).sum(dim=1).square().sum().backward()
    torch.testing.assert_close(mine.grad, other.grad)


def test_gradient_is_that_of_the_value():
    student = [each.requires_grad_() for each in maps((2, 3, 3, 3), (2, 6, 2, 2))]
    teacher = maps((2, 3, 3, 3), (2, 6, 2, 2), step=0.6, phase=1)
    assert torch.autograd.gradcheck(lambda *given: kdsvd_loss(given, teacher, 1, 4, 1e-9), student)


def test_gradient_is_bounded_where_singular_values_meet():
    weight = wave(1, 4, 2)
    features = (torch.tensor([1.0, 0.999995, 0.5, 0.4]) * rotation(4)).T
    mine, other = features.clone().requires_grad_(), features.clone().requires_grad_()
    (singular(mine[None, :, :, None], 2, 1e-3)[0] * weight).sum().backward()
    assert mine.grad.norm() < 1 / 1e-3
    (torch.linalg.svd(other.T).Vh[:2].T * weight).sum().backward()
    assert other.grad.norm() > 10 / 1e-3  # what the damping is for


def test_equal_singular_values_have_a_finite_gradient():
    features = torch.eye(4)[None, :, :, None].requires_grad_()
    (singular(features, 2, 1e-3)[0] * wave(1, 4, 2)).sum().backward()
    assert features.grad.isfinite().all()


def test_each_target_takes_the_nearest_candidate_with_its_sign():
    candidates = torch.eye(3)[None]
    target = torch.tensor([[[0.1], [-0.9], [0.3]]])
    assert aligned(candidates, target).flatten().tolist() == [0.0, -1.0, 0.0]


def test_equal_networks_lose_nothing():
    teacher = maps((2, 3, 4, 4), (2, 5, 2, 2))
    assert kdsvd_loss(teacher, teacher, 1, 4, 1e-3).item() == pytest.approx(0.0, abs=1e-20)


def test_scale_and_position_change_nothing():
    student, teacher = maps((2, 3, 4, 4), (2, 6, 2, 2)), maps((2, 3, 4, 4), (2, 6, 2, 2), step=0.6)
    moved = [5.0 * student[0].mT, 0.2 * student[1].flip(3)]
    torch.testing.assert_close(kdsvd_loss(moved, teacher, 1, 4, 1e-3), kdsvd_loss(student, teacher, 1, 4, 1e-3))
