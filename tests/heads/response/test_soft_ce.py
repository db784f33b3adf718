"""soft_ce, against kd's gradient and scipy's entropy."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy

from kdlab.heads.response.kd import KD
from kdlab.heads.response.soft_ce import SoftCE, soft_ce_loss


def test_value_worked_out_by_hand():
    student, teacher = torch.zeros(1, 4, dtype=torch.float64), torch.tensor([[0.7, 0.1, 0.1, 0.1]]).double().log()
    assert soft_ce_loss(student, teacher, 3.0).item() == pytest.approx(9 * log(4), abs=1e-7)


def test_has_the_gradient_of_kd(sines, respond):
    gradients = []
    for head in (KD(4.0), SoftCE(4.0)):
        student, teacher, _ = sines()
        respond(head, student.requires_grad_(), teacher).sum().backward()
        gradients.append(student.grad)
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=0)


def test_value_is_higher_than_kd_by_the_entropy_of_the_teacher(sines, respond):
    student, teacher, _ = sines()
    difference = respond(SoftCE(4.0), student, teacher) - respond(KD(4.0), student, teacher)
    np.testing.assert_allclose(difference.numpy(), 16 * entropy(softmax(teacher.numpy() / 4, axis=1), axis=1))
