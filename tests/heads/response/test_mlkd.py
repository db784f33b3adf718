"""mlkd, against loops over samples and classes, and the authors' code."""

from __future__ import annotations

import pytest
from scipy.special import rel_entr, softmax

from kdlab.core.knowledge import Needs
from kdlab.heads.response.mlkd import MLKD


def single(temperature, instance=0.0, batch=0.0, classes=0.0):
    """One term, at one temperature, of one view."""
    return MLKD([temperature], instance, batch, classes, strong=False)


def divergence(student, teacher, temperature):
    """Mean over rows of T² KL."""
    p, q = (softmax(logits.numpy() / temperature, axis=1) for logits in (teacher, student))
    return temperature**2 * rel_entr(p, q).sum() / len(p)


@pytest.mark.parametrize(("rows", "classes", "temperature"), [(1, 3, 1.0), (5, 3, 4.0), (4, 20, 2.0)])
def test_batch_and_class_terms_compare_all_pairs(sines, respond, rows, classes, temperature):
    student, teacher, _ = sines(rows, classes)
    s, t = (softmax(logits.numpy() / temperature, axis=1) for logits in (student, teacher))
    samples = sum((s[i] @ s[j] - t[i] @ t[j]) ** 2 for i in range(rows) for j in range(rows)) / rows
    pairs = [(j, k) for j in range(classes) for k in range(classes)]
    between = sum((s[:, j] @ s[:, k] - t[:, j] @ t[:, k]) ** 2 for j, k in pairs) / classes
    assert respond(single(temperature, batch=1.0), student, teacher).mean().item() == pytest.approx(samples)
    assert respond(single(temperature, classes=1.0), student, teacher).mean().item() == pytest.approx(between)


@pytest.mark.parametrize(
    ("term", "published"),
    [({"instance": 1.0}, 8.426146763724), ({"batch": 1.0}, 0.01626375859), ({"classes": 1.0}, 0.014549526231)],
)
def test_each_term_alone_agrees_with_the_authors_code(sines, respond, term, published):
    # Jin-Ying/Multi-Level-Logit-Distillation, mdistiller/distillers/KD_ours.py at 6327e73: kd_loss, bc_loss, cc_loss.
    student, teacher, _ = sines()
    assert respond(single(4.0, **term), student, teacher).mean().item() == pytest.approx(published, abs=1e-11)


def test_two_views_agree_with_the_authors_code(sines, respond):
    # The same file: all distillation losses of one step, weight 0.9. Its strong sum reads the weak view at T 2
    # and 6, which is undone here.
    (student, teacher, _), strong = sines(), sines(shift=0.5)[:2]
    head = MLKD([2.0, 3.0, 4.0, 5.0, 6.0], 0.5, 0.5, 0.5, strong=True)
    loss = respond(head, student, teacher, strong=strong).mean().item()
    for temperature in (2.0, 6.0):
        loss += divergence(student, teacher, temperature) - divergence(*strong, temperature)
    assert 0.9 * loss == pytest.approx(54.734710651492, abs=1e-10)


def test_the_strong_view_is_asked_for_only_in_the_published_form():
    assert MLKD([4.0], 1.0, 1.0, 1.0, strong=True).needs() == Needs(views=("strong",), supervised=("strong",))
    assert MLKD([4.0], 1.0, 1.0, 1.0, strong=False).needs() == Needs()


def test_a_student_that_permutes_classes_alike_is_told_by_the_class_term_alone(sines, respond):
    # Similarities between samples do not know which class is which.
    student, _, _ = sines()
    turned = student.roll(1, dims=1)
    assert respond(single(4.0, batch=1.0), student, turned).sum().item() == pytest.approx(0.0, abs=1e-20)
    assert respond(single(4.0, classes=1.0), student, turned).sum().item() > 1e-3
