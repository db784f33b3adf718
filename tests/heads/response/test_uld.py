"""uld: sorted probabilities of any two vocabularies."""

from __future__ import annotations

import pytest
import torch

from kdlab.core.knowledge import Context, Example, Knowledge, Lesson, Progress
from kdlab.heads.response.uld import ULD, uld_loss


def test_it_is_the_distance_of_sorted_probabilities() -> None:
    ours, theirs = torch.tensor([[0.2, 0.5, 0.3]]).log(), torch.tensor([[0.1, 0.1, 0.2, 0.6]]).log()
    # 0.5, 0.3, 0.2, 0 against 0.6, 0.2, 0.1, 0.1, in either direction.
    torch.testing.assert_close(uld_loss(ours, theirs, 1.0), torch.tensor([0.4]))
    torch.testing.assert_close(uld_loss(theirs, ours, 1.0), torch.tensor([0.4]))


def test_classes_may_be_named_in_any_order() -> None:
    logits = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]], dtype=torch.float64)
    target = logits[:, [2, 0, 1]].log_softmax(1)
    torch.testing.assert_close(uld_loss(logits, target, 1.0), torch.zeros(2, dtype=torch.float64))


def test_temperature_divides_the_students_logits() -> None:
    half = torch.tensor([[0.25, 0.75]], dtype=torch.float64).log()
    found = uld_loss(2 * half, half, 2.0)
    torch.testing.assert_close(found, torch.zeros(1, dtype=torch.float64))


def test_the_kth_row_of_a_sample_learns_from_the_teachers_kth() -> None:
    ours = Knowledge(torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.6, 0.4]]).log(), rows=torch.tensor([0, 0, 1]))
    theirs = Knowledge(torch.tensor([[1.0, 0.0], [0.3, 0.7], [0.2, 0.8], [0.0, 1.0]]).clamp(min=1e-9).log(),
                       rows=torch.tensor([0, 1, 1, 2]))  # fmt: skip
    head = ULD(temperature=1.0)
    head.build(Example(ours), Example(theirs), Context(classes=2, samples=3))
    found = head(ours, theirs, Lesson(ours, (theirs,), None, torch.arange(3)), Progress())
    # Sample 0 has one row of the teacher's for its two; sample 1 two for its one.
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0, 0.2]))


def test_a_gradient_reaches_the_logits() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    uld_loss(logits, torch.tensor([[0.0, 0.0]]).log_softmax(1), 1.0).sum().backward()
    assert logits.grad.abs().max() > 0


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^temperature=0: expected a number above 0$"):
        ULD(temperature=0)
