"""nkd, against scipy and the authors' code."""

from __future__ import annotations

import pytest
import torch
from scipy.special import log_softmax, softmax

from kdlab.heads.response.nkd import NKD


@pytest.mark.parametrize(("rows", "classes", "temperature"), [(1, 2, 1.0), (5, 3, 4.0), (4, 100, 2.5)])
def test_target_at_t_1_and_the_others_renormalised_at_t(sines, respond, rows, classes, temperature):
    student, teacher, label = sines(rows, classes)
    found = respond(NKD(temperature, 1.5), student, teacher, label)
    for row, target in enumerate(label.tolist()):
        s, t = student[row].numpy(), teacher[row].numpy()
        rest = [k for k in range(classes) if k != target]
        others = sum(softmax(t[rest] / temperature) * log_softmax(s[rest] / temperature))
        expected = -softmax(t)[target] * log_softmax(s)[target] - 1.5 * temperature**2 * others
        assert found[row].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("temperature", "weight", "published"), [(1.0, 1.5, 6.837379373276), (3.0, 3.5, 79.606660304763)]
)
def test_agrees_with_the_authors_code(sines, respond, temperature, weight, published):
    # yzd-v/cls_KD, mmcls/models/dis_losses/nkd.py at 9466b3f.
    student, teacher, label = sines()
    found = respond(NKD(temperature, weight), student, teacher, label).mean().item()
    assert found == pytest.approx(published, abs=1e-10)


def test_other_classes_of_identical_networks_keep_their_proportions(sines, respond):
    # What is left of the gradient moves the target against all others together, so theirs are as their softmax.
    student, _, label = sines()
    respond(NKD(1.0, 1.5), student.requires_grad_(), student.detach(), label).sum().backward()
    p = student.detach().softmax(dim=1)
    target = p.gather(1, label[:, None])
    expected = (target * p).scatter(1, label[:, None], target * (target - 1))
    torch.testing.assert_close(student.grad, expected)
