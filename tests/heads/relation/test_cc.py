import pytest
import torch

from kdlab.heads.relation.cc import CC, cc_loss
from support.relation_examples import CONTEXT, PROGRESS, example, knows, lesson, wave


@pytest.mark.parametrize("shape", [(2, 3), (5, 4), (7, 1)])
def test_loss_is_the_mean_product_of_errors_on_neighbours(shape):
    student, teacher = wave(*shape), wave(*shape, step=0.9)
    total = 0.0
    for row in range(shape[0] - 1):
        for column in range(shape[1]):
            error = abs(student[row, column] - teacher[row, column])
            total += error * abs(student[row + 1, column] - teacher[row + 1, column])
    torch.testing.assert_close(cc_loss(student, teacher), total / (shape[0] - 1))


def test_three_rows_by_hand():
    student = torch.tensor([[1.0, -2.0], [3.0, 1.0], [0.0, -1.0]])
    # Neighbours: 1 · 3 + 2 · 1 = 5 and 3 · 0 + 1 · 1 = 1.
    assert cc_loss(student, torch.zeros(3, 2)).item() == 3.0


def test_loss_equals_the_published_code():
    # HobbitLong/RepDistiller 1e2f816, distiller_zoo/CC.py, received from the paper's author.
    assert cc_loss(wave(6, 8, step=0.37), wave(6, 8, step=0.41, phase=1)).item() == pytest.approx(
        10.579257187538287, rel=1e-9
    )


def test_what_keeps_or_scales_every_difference_keeps_or_scales_the_loss():
    student, teacher = wave(5, 4), wave(5, 4, step=0.9)
    loss = cc_loss(student, teacher)
    torch.testing.assert_close(cc_loss(student + 3, teacher + 3), loss)
    torch.testing.assert_close(cc_loss(-3 * student, -3 * teacher), 9 * loss)
    torch.testing.assert_close(cc_loss(student.flip(0), teacher.flip(0)), loss)
    assert cc_loss(teacher, teacher).item() == 0.0


def test_gradient_is_that_of_the_value():
    assert torch.autograd.gradcheck(lambda rows: cc_loss(rows, wave(5, 4, step=0.9)), wave(5, 4).requires_grad_())


def test_embeddings_of_any_width_pass_a_linear_layer_each():
    head = CC(dim=4)
    learner, teacher = knows(wave(5, 3).float()), knows(wave(5, 9, step=0.9).float())
    head.build(example(learner.vector()), example(teacher.vector()), CONTEXT)
    ours = learner.vector() @ head.learner_projection.weight.T + head.learner_projection.bias
    theirs = teacher.vector() @ head.teacher_projection.weight.T + head.teacher_projection.bias
    assert ours.shape == theirs.shape == (5, 4)
    torch.testing.assert_close(head(learner, teacher, lesson(learner), PROGRESS), cc_loss(ours, theirs))
