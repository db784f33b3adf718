"""dkd, against scipy, its relation to kd, and mdistiller."""

from __future__ import annotations

from math import log

import pytest
import torch
from scipy.special import rel_entr, softmax

from kdlab.heads.response.dkd import DKD, dkd_loss
from kdlab.heads.response.kd import KD


@pytest.mark.parametrize(("rows", "classes", "temperature"), [(1, 2, 1.0), (5, 3, 4.0), (4, 100, 2.5)])
def test_target_and_other_classes_are_compared_apart(sines, respond, rows, classes, temperature):
    student, teacher, label = sines(rows, classes)
    found = respond(DKD(temperature, 1.5, 6.0), student, teacher, label)
    for row, target in enumerate(label.tolist()):
        p, q = softmax(teacher[row].numpy() / temperature), softmax(student[row].numpy() / temperature)
        rest = [k for k in range(classes) if k != target]
        tckd = rel_entr(p[target], q[target]) + rel_entr(1 - p[target], 1 - q[target])
        nckd = rel_entr(p[rest] / p[rest].sum(), q[rest] / q[rest].sum()).sum()
        assert found[row].item() == pytest.approx(temperature**2 * (1.5 * tckd + 6 * nckd), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("target_weight", "nontarget_weight", "published"),
    [(1.0, 8.0, 61.850687404546), (1.0, 0.0, 1.618883748222), (0.0, 1.0, 7.52897545704)],
)
def test_agrees_with_the_authors_code(sines, respond, target_weight, nontarget_weight, published):
    # megvii-research/mdistiller, mdistiller/distillers/DKD.py at e8c5bb3: T 4.
    student, teacher, label = sines()
    found = respond(DKD(4.0, target_weight, nontarget_weight), student, teacher, label).mean().item()
    assert found == pytest.approx(published, abs=1e-10)


def test_kd_is_the_sum_with_the_teachers_doubt_as_weight(sines, respond):
    # Zhao et al., equation 6: KD = TCKD + (1 - p_t of the target) NCKD.
    student, teacher, label = sines()
    doubt = 1 - (teacher / 4).softmax(dim=1).gather(1, label[:, None])[:, 0]
    parts = [respond(DKD(4.0, *weights), student, teacher, label) for weights in ((1.0, 0.0), (0.0, 1.0))]
    torch.testing.assert_close(parts[0] + doubt * parts[1], respond(KD(4.0), student, teacher))


def test_a_certain_teacher_and_an_undecided_student_differ_by_the_log_of_the_classes():
    certain = torch.tensor([[400.0, 0.0, 0.0, 0.0]]).log_softmax(dim=1)
    loss = dkd_loss(torch.zeros(1, 4), certain, torch.tensor([0]), 1.0, 1.0, 8.0)
    assert loss.item() == pytest.approx(log(4), rel=1e-6)


def test_two_classes_leave_nothing_among_the_others(sines, respond):
    student, teacher, label = sines(4, 2)
    assert respond(DKD(4.0, 0.0, 1.0), student, teacher, label).tolist() == [0.0] * 4
