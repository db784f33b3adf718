"""wttm, against scipy and the authors' code."""

from __future__ import annotations

import pytest
import torch
from scipy.special import rel_entr, softmax

from kdlab.heads.response.kd import KD
from kdlab.heads.response.wttm import WTTM, wttm_loss


@pytest.mark.parametrize(("rows", "classes", "gamma"), [(1, 2, 1.0), (5, 3, 0.25), (4, 100, 0.1)])
def test_the_transformed_teacher_is_matched_by_the_plain_student(sines, respond, rows, classes, gamma):
    student, teacher, _ = sines(rows, classes)
    found = respond(WTTM(gamma), student, teacher)
    for row in range(rows):
        power = softmax(teacher[row].numpy()) ** gamma
        expected = power.sum() * rel_entr(power / power.sum(), softmax(student[row].numpy())).sum()
        assert found[row].item() == pytest.approx(expected, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize(("gamma", "published"), [(0.2, 10.651693051796), (0.1, 14.66160349664)])
def test_agrees_with_the_authors_code(sines, respond, gamma, published):
    # zkxufo/TTM, distiller_zoo/wttm.py at 2de9060.
    student, teacher, _ = sines()
    assert respond(WTTM(gamma), student, teacher).mean().item() == pytest.approx(published, abs=1e-10)


def test_without_the_transform_it_is_kd_at_t_1(sines, respond):
    student, teacher, _ = sines()
    torch.testing.assert_close(respond(WTTM(1.0), student, teacher), respond(KD(1.0), student, teacher))


def test_soft_samples_weigh_more():
    # U is 1 for a certain teacher and C^(1 - γ) for an undecided one; KL to the other is log 4 both times.
    certain, undecided = torch.tensor([[300.0, 0.0, 0.0, 0.0]]), torch.zeros(1, 4)
    sure = wttm_loss(undecided, certain.log_softmax(dim=1), 0.5).item()
    assert sure == pytest.approx(torch.tensor(4.0).log().item(), rel=1e-6)
    unsure = wttm_loss(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), undecided.log_softmax(dim=1), 0.5).item()
    q = softmax([1.0, 0.0, 0.0, 0.0])
    assert unsure == pytest.approx(2 * rel_entr([0.25] * 4, q).sum(), rel=1e-6)
