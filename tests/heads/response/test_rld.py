"""rld, against scipy and the authors' code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax

from kdlab.heads.response.rld import RLD


@pytest.mark.parametrize(
    ("rows", "classes", "t", "t_confidence"), [(3, 2, 1.0, 2.0), (5, 4, 4.0, 1.0), (9, 30, 2.5, 2.5)]
)
def test_confidence_goes_to_the_target_and_order_to_classes_below_it(sines, respond, rows, classes, t, t_confidence):
    student, teacher, label = sines(rows, classes)
    found = respond(RLD(t, t_confidence, 1.5, 8.0), student, teacher, label)
    for row, target in enumerate(label.tolist()):
        p, q = (softmax(logits[row].numpy() / t_confidence) for logits in (teacher, student))
        confidence = rel_entr(p.max(), q[target]) + rel_entr(1 - p.max(), 1 - q[target])
        below = [k for k in range(classes) if teacher[row, k] < teacher[row, target]]
        p, q = (np.exp(logits[row, below].numpy() / t) for logits in (teacher, student))
        correlation = rel_entr(p / p.sum(), q / q.sum()).sum() if below else 0.0
        expected = 1.5 * t_confidence**2 * confidence + 8 * t**2 * correlation
        assert found[row].item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("t_confidence", "correlation", "published"),
    [(1.0, 8.0, 31.095783908866), (1.0, 0.0, 1.612476281268), (4.0, 8.0, 31.581417814328)],
)
def test_agrees_with_the_authors_code(sines, respond, t_confidence, correlation, published):
    # zju-SWJ/RLD, mdistiller/distillers/RLD.py at 95224f3: T 4.
    student, teacher, label = sines()
    found = respond(RLD(4.0, t_confidence, 1.0, correlation), student, teacher, label).mean().item()
    assert found == pytest.approx(published, abs=1e-10)


def test_nothing_is_said_of_order_where_the_teacher_puts_the_target_last(respond):
    student = torch.tensor([[3.0, -1.0, 0.5]], requires_grad=True)
    loss = respond(RLD(4.0, 1.0, 0.0, 8.0), student, torch.tensor([[-9.0, 1.0, 2.0]]), torch.tensor([0]))
    loss.sum().backward()
    assert loss.item() == 0.0
    assert student.grad.abs().max().item() == 0.0


def test_a_wrong_teacher_does_not_pull_the_student_from_the_target(respond):
    # The student has the teacher's very probabilities, but with the target first: nothing is left to correct.
    student, teacher = torch.tensor([[5.0, 2.0, 1.0]]), torch.tensor([[2.0, 5.0, 1.0]])
    assert respond(RLD(4.0, 1.0, 1.0, 8.0), student, teacher, torch.tensor([0])).item() == pytest.approx(0.0, abs=1e-6)
