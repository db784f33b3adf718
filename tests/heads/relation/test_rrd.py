from math import exp, log

import pytest
import torch

from kdlab.heads.relation.rrd import RRD, rrd_loss
from support.relation_examples import CONTEXT, PROGRESS, as_identity, example, knows, lesson, wave


def unit(rows):
    return rows / rows.norm(dim=1, keepdim=True)


def made(memory=8, width=4):
    head = RRD(dim=4, memory=memory, student_temperature=0.1, teacher_temperature=0.02)
    head.build(example(wave(4, width)), example(wave(4, width)), CONTEXT)
    as_identity(head.learner_projection, head.teacher_projection)
    return head.double()


def said(head, student, teacher):
    learner = knows(student)
    return head(learner, knows(teacher), lesson(learner), PROGRESS)


def naive_rrd(student, teacher, memory, student_temperature, teacher_temperature):
    def distribution(row, temperature):
        values = [exp(float(row @ other) / temperature) for other in memory]
        return [value / sum(values) for value in values]

    total = 0.0
    for one, other in zip(student, teacher, strict=True):
        p, q = distribution(other, teacher_temperature), distribution(one, student_temperature)
        total += sum(a * log(a / b) for a, b in zip(p, q, strict=True))
    return total / len(student)


@pytest.mark.parametrize(("rows", "size", "filled"), [(3, 7, 7), (1, 5, 3), (4, 9, 1)])
def test_loss_is_the_divergence_of_similarities_to_what_is_filled(rows, size, filled):
    student, teacher, memory = unit(wave(rows, 4)), unit(wave(rows, 4, step=0.9)), unit(wave(size, 4, step=0.83))
    expected = naive_rrd(student, teacher, memory[:filled], 0.1, 0.04)
    assert rrd_loss(student, teacher, memory, filled, 0.1, 0.04).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_equal_rows_and_temperatures_lose_nothing():
    rows, memory = unit(wave(3, 4)), unit(wave(7, 4, step=0.83))
    assert rrd_loss(rows, rows, memory, 7, 0.1, 0.1).item() == pytest.approx(0.0, abs=1e-15)


def test_gradient_is_the_difference_of_the_distributions():
    student, teacher, memory = unit(wave(3, 4)).requires_grad_(), unit(wave(3, 4, step=0.9)), unit(wave(7, 4, step=2.3))
    rrd_loss(student, teacher, memory, 5, 0.1, 0.02).backward()
    filled = memory[:5]
    ours, theirs = (student.detach() @ filled.T / 0.1).softmax(1), (teacher @ filled.T / 0.02).softmax(1)
    torch.testing.assert_close(student.grad, (ours - theirs) @ filled / 0.1 / 3)
    assert torch.autograd.gradcheck(lambda rows: rrd_loss(rows, teacher, memory, 5, 0.1, 0.02), student)


def test_three_steps_equal_the_authors_code():
    # giakoumoglou/distillers 1c0e48d, cifar/distillers/RRD.py RRD_FifoMemory_Loss on a full queue, less the
    # teacher's entropy: 7.070143302217495, 8.038869759289199 and 8.706301328604562 with it.
    head = made()
    head.queue.copy_(unit(wave(8, 4, step=0.83)))
    head.entered.fill_(8)
    losses = [said(head, wave(4, 4, phase=step), wave(4, 4, step=0.41, phase=1 + step)).item() for step in range(3)]
    assert losses == pytest.approx([7.067309102194787, 7.818485522230483, 8.620631641038008], rel=1e-9)
    assert (head.queue * wave(8, 4, step=0.97)).sum().item() == pytest.approx(-0.9737279480208613, rel=1e-9)


def test_the_batch_enters_before_it_is_compared_and_empty_rows_do_not_count():
    head, student, teacher = made(memory=50), wave(3, 4), wave(3, 4, step=0.9)
    expected = naive_rrd(unit(student), unit(teacher), unit(teacher), 0.1, 0.02)
    assert said(head, student, teacher).item() == pytest.approx(expected, rel=1e-9)
    assert head.entered.item() == 3


def test_the_oldest_rows_leave_first_whatever_the_size_of_the_batch():
    head, rows = made(memory=5), wave(8, 4)
    for part in rows.split(3):
        said(head, part, part)
    torch.testing.assert_close(head.queue[[3, 4, 0, 1, 2]], unit(rows[3:]))


def test_a_batch_larger_than_the_memory_leaves_its_last_rows():
    head, rows = made(memory=5), wave(8, 4)
    assert said(head, rows, rows).isfinite()
    assert head.entered.item() == 5
    assert {tuple(row) for row in head.queue.tolist()} == {tuple(row) for row in unit(rows[3:]).tolist()}


def test_nothing_enters_in_eval_mode():
    head = made().eval()
    assert said(head, wave(3, 4), wave(3, 4)).isfinite()
    assert head.entered.item() == 0
    assert (head.queue == 0).all()


def test_the_teachers_projection_is_fixed_and_the_queue_is_saved():
    head = made(width=9)
    assert not any(parameter.requires_grad for parameter in head.teacher_projection.parameters())
    assert {"queue", "entered", "teacher_projection.weight"} <= set(head.state_dict())


def test_two_batches_may_enter_before_either_is_differentiated():
    head, student = made(), wave(3, 4).requires_grad_()
    (said(head, student, wave(3, 4, step=0.9)) + said(head, 2 * student, wave(3, 4, step=0.8))).backward()
    assert student.grad.norm() > 0
