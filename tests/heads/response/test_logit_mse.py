"""logit_mse, by hand and as the limit of kd."""

from __future__ import annotations

import pytest
import torch

from kdlab.heads.response.kd import KD
from kdlab.heads.response.logit_mse import LogitMSE


def test_rows_are_means_over_classes(respond):
    student, teacher = (
        torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]),
        torch.tensor([[1.0, 4.0, 0.0], [3.0, 0.0, 0.0]]),
    )
    assert respond(LogitMSE(), student, teacher).tolist() == pytest.approx([(4 + 9) / 3, 9 / 3])


def test_gradient_is_twice_the_difference_over_the_classes(sines, respond):
    student, teacher, _ = sines()
    respond(LogitMSE(), student.requires_grad_(), teacher).sum().backward()
    torch.testing.assert_close(student.grad, 2 * (student.detach() - teacher) / 10)


def test_half_of_it_is_kd_at_high_temperature(sines, respond):
    # Kim et al., IJCAI 2021: for logits of zero mean, T² KL tends to the squared difference over 2 C.
    student, teacher, _ = sines()
    student, teacher = (logits - logits.mean(dim=1, keepdim=True) for logits in (student, teacher))
    limit = respond(LogitMSE(), student, teacher) / 2
    torch.testing.assert_close(respond(KD(1e4), student, teacher), limit, rtol=1e-3, atol=0)
