"""kd, against values worked out by hand, scipy, and RepDistiller."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax

from kdlab.heads.response.kd import KD, kd_loss


def test_value_worked_out_by_hand():
    student, teacher = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[0.75, 0.25]], dtype=torch.float64).log()
    by_hand = 0.75 * log(0.75 / 0.5) + 0.25 * log(0.25 / 0.5)
    assert kd_loss(student, teacher, 1.0).item() == pytest.approx(by_hand, abs=1e-12)
    assert kd_loss(student, teacher, 3.0).item() == pytest.approx(9 * by_hand, abs=1e-12)


@pytest.mark.parametrize(("rows", "classes", "temperature"), [(1, 2, 1.0), (5, 3, 4.0), (4, 100, 2.5)])
def test_every_row_is_t_squared_times_its_divergence(sines, respond, rows, classes, temperature):
    student, teacher, _ = sines(rows, classes)
    found = respond(KD(temperature), student, teacher)
    for row in range(rows):
        p, q = softmax(teacher[row].numpy() / temperature), softmax(student[row].numpy() / temperature)
        assert found[row].item() == pytest.approx(temperature**2 * rel_entr(p, q).sum(), abs=1e-12)


@pytest.mark.parametrize(("temperature", "published"), [(4.0, 8.426146763724), (1.0, 3.531922538555)])
def test_agrees_with_repdistiller(sines, respond, temperature, published):
    # HobbitLong/RepDistiller, distiller_zoo/KD.py at 1e2f816: a sum over classes, divided by the batch, times T².
    student, teacher, _ = sines()
    assert respond(KD(temperature), student, teacher).mean().item() == pytest.approx(published, abs=1e-11)


def test_agrees_with_the_published_code_of_logit_standardization(sines, respond):
    # sunshangquan/logit-standardization-KD, mdistiller/distillers/KD.py at 6083e2d: T 2.
    student, teacher, _ = sines()
    found = respond(KD(2.0, standardize=True), student, teacher).mean().item()
    assert found == pytest.approx(0.8617314955, abs=1e-10)


def test_gradient_is_t_times_the_difference_of_probabilities(sines, respond):
    student, teacher, _ = sines()
    respond(KD(4.0), student.requires_grad_(), teacher).sum().backward()
    expected = 4.0 * (softmax(student.detach().numpy() / 4.0, axis=1) - softmax(teacher.numpy() / 4.0, axis=1))
    np.testing.assert_allclose(student.grad.numpy(), expected, atol=1e-12)


def test_gradient_keeps_its_size_as_the_temperature_rises(sines, respond):
    # Hinton et al., section 2.1: with logits of zero mean the gradient tends to (s - t) / C.
    student, teacher, _ = sines()
    student, teacher = (logits - logits.mean(dim=1, keepdim=True) for logits in (student, teacher))
    respond(KD(1e4), student.requires_grad_(), teacher).sum().backward()
    torch.testing.assert_close(student.grad, (student.detach() - teacher) / 10, atol=1e-3, rtol=0)


def test_identical_networks_have_nothing_to_learn(sines, respond):
    student = sines()[0].requires_grad_()
    loss = respond(KD(4.0), student, student.detach() + 7.0)  # a constant added to all logits means nothing
    loss.sum().backward()
    torch.testing.assert_close(loss, torch.zeros_like(loss), atol=1e-13, rtol=0)
    torch.testing.assert_close(student.grad, torch.zeros_like(student), atol=1e-13, rtol=0)
