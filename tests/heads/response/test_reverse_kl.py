"""reverse_kl, against scipy and the published form for language models."""

from __future__ import annotations

from math import log

import pytest
import torch
from scipy.special import rel_entr, softmax

from kdlab.heads.response.reverse_kl import ReverseKL, reverse_kl_loss


def test_value_worked_out_by_hand():
    student, teacher = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[0.75, 0.25]], dtype=torch.float64).log()
    by_hand = 0.5 * log(0.5 / 0.75) + 0.5 * log(0.5 / 0.25)
    assert reverse_kl_loss(student, teacher, 2.0).item() == pytest.approx(4 * by_hand, abs=1e-12)


@pytest.mark.parametrize(("rows", "classes", "temperature"), [(1, 2, 1.0), (5, 3, 4.0), (4, 100, 2.5)])
def test_every_row_weighs_by_the_students_probabilities(sines, respond, rows, classes, temperature):
    student, teacher, _ = sines(rows, classes)
    found = respond(ReverseKL(temperature), student, teacher)
    for row in range(rows):
        p, q = softmax(teacher[row].numpy() / temperature), softmax(student[row].numpy() / temperature)
        assert found[row].item() == pytest.approx(temperature**2 * rel_entr(q, p).sum(), abs=1e-12)


def test_agrees_with_the_published_code(sines, respond):
    # huggingface/trl, trl/experimental/gkd/gkd_trainer.py at 7310b81: generalized_jsd_loss, beta 1.
    student, teacher, _ = sines()
    assert respond(ReverseKL(1.0), student, teacher).mean().item() == pytest.approx(4.395786745905, abs=1e-11)


def test_leaves_out_a_mode_that_kd_would_cover():
    # Half of the teacher's mass on each of two classes: a student on one of them is 2^-1 away, not infinitely far.
    teacher = torch.tensor([[0.0, 0.0, -60.0]], dtype=torch.float64).log_softmax(dim=1)
    one_mode = torch.tensor([[60.0, 0.0, 0.0]], dtype=torch.float64)
    assert reverse_kl_loss(one_mode, teacher, 1.0).item() == pytest.approx(log(2), abs=1e-12)
