"""ctkd, against kd at its temperature and the authors' code."""

from __future__ import annotations

from math import cos, exp, pi

import pytest
import torch

from kdlab.core.knowledge import Progress
from kdlab.heads.response.ctkd import CTKD, reversal, reversed_gradient
from kdlab.heads.response.kd import KD


def published():
    return CTKD(floor=1.0, span=20.0, reversal_epochs=10)


@pytest.mark.parametrize(
    ("epoch", "gradient"), [(0, -0.001736843135), (2, -0.014628144557), (9, -0.070973416834), (49, -0.070973416834)]
)
def test_agrees_with_the_authors_code(sines, respond, epoch, gradient):
    # zhengli97/CTKD: distiller_zoo/KD.py at b366783, CosineDecay(0, -1, 10) of train_student.py and the temperature
    # of helper/loops.py at 8ca3ce8, whose epochs begin at 1; Global_T as kept in
    # sunshangquan/logit-standardization-KD, CTKD/models/temp_global.py at 6083e2d.
    student, teacher, _ = sines()
    head = published()
    loss = respond(head, student.requires_grad_(), teacher, progress=Progress(epoch=epoch, epochs=240)).mean()
    loss.backward()
    assert head.temperature(1.0).item() == pytest.approx(15.6211715726, rel=1e-6)  # θ is float32
    assert loss.item() == pytest.approx(9.919048388055, rel=1e-6)
    assert student.grad[0, 0].item() == pytest.approx(-0.060288211294, rel=1e-5)
    assert head.theta.grad.item() == pytest.approx(gradient, rel=1e-4)


def test_value_is_kd_at_the_temperature(sines, respond):
    student, teacher, _ = sines()
    plain = respond(KD(1 + 20 / (1 + exp(-1))), student, teacher)
    torch.testing.assert_close(respond(published(), student, teacher), plain, rtol=1e-6, atol=0)


def test_temperature_learns_to_raise_the_loss(sines, respond):
    student, teacher, _ = sines()
    head, late = published(), Progress(epoch=100)
    before = respond(head, student, teacher, progress=late).mean()
    before.backward()
    with torch.no_grad():
        head.theta -= 0.1 * head.theta.grad
    assert respond(head, student, teacher, progress=late).mean().item() > before.item()


def test_reversal_rises_along_a_cosine():
    assert [reversal(epoch, 4) for epoch in range(6)] == pytest.approx(
        [(1 - cos(pi / 4)) / 2, 0.5, (1 + cos(pi / 4)) / 2, 1.0, 1.0, 1.0]
    )
    assert reversal(0, 0) == 1.0


def test_reversed_gradient_keeps_the_value():
    value = torch.tensor(0.3, requires_grad=True)
    turned = reversed_gradient(value, 0.25)
    (turned * 8).backward()
    assert turned.item() == value.item()
    assert value.grad.item() == pytest.approx(-2.0)


def test_the_temperature_is_learned_and_saved_with_the_head(sines, respond):
    head = published()
    respond(head, *sines()[:2])
    assert [name for name, part in head.named_parameters() if part.requires_grad] == ["theta"]
    assert list(head.state_dict()) == ["theta"]
