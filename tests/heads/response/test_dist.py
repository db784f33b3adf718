"""dist, against scipy's correlation and the authors' code."""

from __future__ import annotations

import pytest
import torch
from scipy.special import softmax
from scipy.stats import pearsonr

from kdlab.heads.response.dist import DIST


@pytest.mark.parametrize(("rows", "classes", "temperature"), [(3, 4, 1.0), (5, 3, 4.0), (6, 20, 2.0)])
def test_rows_and_columns_are_correlated(sines, respond, rows, classes, temperature):
    student, teacher, _ = sines(rows, classes)
    s, t = (softmax(logits.numpy() / temperature, axis=1) for logits in (student, teacher))
    columns = sum(1 - pearsonr(s[:, k], t[:, k]).statistic for k in range(classes)) / classes
    found = respond(DIST(temperature, 2.0, 3.0), student, teacher)
    for row in range(rows):
        expected = temperature**2 * (2 * (1 - pearsonr(s[row], t[row]).statistic) + 3 * columns)
        assert found[row].item() == pytest.approx(expected, rel=1e-5)  # the 1e-8 of the formula


@pytest.mark.parametrize(
    ("temperature", "weight", "published"), [(1.0, 1.0, 2.067727242627), (4.0, 2.0, 64.799421019786)]
)
def test_mean_agrees_with_the_authors_code(sines, respond, temperature, weight, published):
    # hunto/DIST_KD, segmentation/losses/dist_kd.py at 6d93ca0, which has T 1; with a temperature, its copy in
    # zkxufo/TTM, distiller_zoo/dist.py at 2de9060.
    student, teacher, _ = sines()
    found = respond(DIST(temperature, weight, weight), student, teacher).mean().item()
    assert found == pytest.approx(published, abs=1e-10)


def test_probabilities_on_a_line_with_the_teachers_are_as_good(respond):
    # Two students whose probabilities are a mixture of the teacher's and the uniform ones, in one proportion.
    teacher = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.3, 0.5, 0.2]], dtype=torch.float64)
    student = 0.4 * teacher + 0.6 / 3
    loss = respond(DIST(1.0, 2.0, 2.0), student.log(), teacher.log())
    torch.testing.assert_close(loss, torch.zeros_like(loss), atol=1e-5, rtol=0)


def test_a_single_row_has_no_columns_to_correlate(sines, respond):
    student, teacher, _ = sines(1, 5)
    respond(DIST(1.0, 0.0, 2.0), student.requires_grad_(), teacher).sum().backward()
    assert student.grad.abs().max().item() == 0.0


def test_a_student_without_an_opinion_gets_no_endless_gradient(sines, respond):
    # A classifier that starts at zero: without variation there is no correlation, and no direction to improve it.
    student = torch.zeros(8, 10, requires_grad=True)
    loss = respond(DIST(4.0, 1.0, 1.0), student, sines()[1].float())
    loss.sum().backward()
    torch.testing.assert_close(loss, torch.full((8,), 32.0))
    assert student.grad.abs().max().item() == 0.0
