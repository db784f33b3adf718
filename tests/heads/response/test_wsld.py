"""wsld, against scipy and the authors' code."""

from __future__ import annotations

from math import exp

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from kdlab.heads.response.wsld import WSLD


def weights(student, teacher, label):
    """w of each row, one at a time."""
    return [
        1 - exp(log_softmax(s)[y] / (1e-7 - log_softmax(t)[y]))
        for s, t, y in zip(student.numpy(), teacher.numpy(), label.tolist(), strict=True)
    ]


@pytest.mark.parametrize(("rows", "classes", "temperature"), [(1, 2, 1.0), (5, 3, 4.0), (4, 100, 2.5)])
def test_every_row_is_weighted_by_how_much_worse_the_student_is(sines, respond, rows, classes, temperature):
    student, teacher, label = sines(rows, classes)
    found = respond(WSLD(temperature), student, teacher, label)
    for row, weight in enumerate(weights(student, teacher, label)):
        soft = softmax(teacher[row].numpy() / temperature) @ log_softmax(student[row].numpy() / temperature)
        assert found[row].item() == pytest.approx(-(temperature**2) * weight * soft, rel=1e-12)


def test_agrees_with_the_authors_code(sines, respond):
    # bellymonster/Weighted-Soft-Label-Distillation, knowledge_distiller.py at 4ecf930: cross-entropy + 2.5 times
    # the loss at T 2, for the 1000 classes that are written into it; its one-hot labels made float64.
    student, teacher, label = sines(4, 1000)
    loss = torch.nn.functional.cross_entropy(student, label) + 2.5 * respond(WSLD(2.0), student, teacher, label).mean()
    assert loss.item() == pytest.approx(53.656739852969, abs=1e-9)


def test_the_weight_is_not_differentiated(sines, respond):
    student, teacher, label = sines()
    expected = np.array(weights(student, teacher, label))[:, None] * 2.0
    expected = expected * (softmax(student.numpy() / 2, axis=1) - softmax(teacher.numpy() / 2, axis=1))
    respond(WSLD(2.0), student.requires_grad_(), teacher, label).sum().backward()
    np.testing.assert_allclose(student.grad.numpy(), expected, atol=1e-12)


def test_a_student_that_is_sure_of_the_label_has_nothing_to_learn(respond):
    student, teacher = torch.tensor([[200.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 2.0]])
    assert respond(WSLD(2.0), student, teacher, torch.tensor([0])).item() == 0.0
