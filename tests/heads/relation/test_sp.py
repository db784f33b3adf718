import pytest
import torch

from kdlab.heads.relation.sp import SP, similarity, sp_loss
from support.relation_examples import PROGRESS, knows, lesson, rotation, wave


def naive_sp(student, teacher):
    def rows(features):
        flat = [sample.reshape(-1) for sample in features]
        table = [[float(a @ b) for b in flat] for a in flat]
        return [[value / sum(other**2 for other in row) ** 0.5 for value in row] for row in table]

    ours, theirs, count = rows(student), rows(teacher), len(student)
    return sum((ours[i][j] - theirs[i][j]) ** 2 for i in range(count) for j in range(count)) / count**2


@pytest.mark.parametrize("shape", [(5, 3, 4, 4), (2, 7), (4, 6, 3)])
def test_loss_is_the_squared_difference_of_normalised_similarities_over_the_squared_batch(shape):
    student, teacher = wave(*shape), wave(shape[0], 6, 2, 2, step=0.8, phase=1)
    assert sp_loss(student, teacher).item() == pytest.approx(naive_sp(student, teacher), rel=1e-9)


def test_similarities_of_two_samples_by_hand():
    rows = similarity(torch.tensor([[3.0, 0.0], [4.0, 3.0]]))
    # F Fᵀ = [[9, 12], [12, 25]]
    torch.testing.assert_close(rows, torch.tensor([[9 / 15, 12 / 15], [12 / 769**0.5, 25 / 769**0.5]]))


def test_loss_equals_the_published_code():
    # HobbitLong/RepDistiller 1e2f816, distiller_zoo/SP.py, verified by the paper's author.
    student, teacher = wave(6, 3, 4, 4, step=0.37), wave(6, 5, 2, 2, step=0.41, phase=1)
    assert sp_loss(student, teacher).item() == pytest.approx(0.3096931100793319, rel=1e-9)


def test_turning_and_scaling_the_features_change_nothing():
    teacher = wave(6, 5)
    assert sp_loss(7.0 * teacher @ rotation(5), teacher).item() == pytest.approx(0.0, abs=1e-20)


def test_the_order_of_the_batch_changes_nothing():
    student, teacher, order = wave(5, 4), wave(5, 6, step=0.9), torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(sp_loss(student[order], teacher[order]), sp_loss(student, teacher))


def test_gradient_is_that_of_the_value():
    teacher = wave(4, 3, 2, 2, step=0.9)
    assert torch.autograd.gradcheck(lambda features: sp_loss(features, teacher), wave(4, 5, 2).requires_grad_())


def test_a_sample_without_any_activation_has_a_moderate_gradient():
    student = wave(4, 5).float()
    student[2] = 0
    student.requires_grad_()
    sp_loss(student, wave(4, 5, step=0.9).float()).backward()
    assert student.grad.isfinite().all()
    assert student.grad.norm() < 10


def test_tokens_are_compared_with_maps():
    learner, teacher = knows(torch.zeros(3, 2), wave(3, 17, 8)), knows(torch.zeros(3, 2), wave(3, 6, 4, 4, step=0.9))
    loss = SP(stage=-1)(learner, teacher, lesson(learner), PROGRESS)
    torch.testing.assert_close(loss, sp_loss(wave(3, 17, 8), wave(3, 6, 4, 4, step=0.9)))
