"""skew_kl: KL to a mixture, in either direction."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax

from kdlab.heads.response.kd import kd_loss
from kdlab.heads.response.reverse_kl import reverse_kl_loss
from kdlab.heads.response.skew_kl import SkewKL, skew_kl_loss
from support.feature_examples import wave

STUDENT, TEACHER = wave(4, 5, scale=3), wave(4, 5, step=1.7, phase=1.0, scale=3)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_it_is_the_divergence_from_a_mixture(direction: str, temperature: float) -> None:
    p, q = (softmax(logits.numpy() / temperature, axis=1) for logits in (TEACHER, STUDENT))
    one, other = (p, q) if direction == "forward" else (q, p)
    expected = rel_entr(one, 0.1 * one + 0.9 * other).sum(1)
    target = (TEACHER / temperature).log_softmax(1)
    np.testing.assert_allclose(skew_kl_loss(STUDENT, target, 0.1, direction, temperature).numpy(), expected)


def test_without_skew_it_is_forward_or_reverse_kl() -> None:
    target = TEACHER.log_softmax(1)
    for direction, loss in (("forward", kd_loss), ("reverse", reverse_kl_loss)):
        found = skew_kl_loss(STUDENT, target, 1e-12, direction, 1.0)
        torch.testing.assert_close(found, loss(STUDENT, target, 1.0))


def test_its_gradient_stays_small_where_kl_explodes() -> None:
    """Where the student gives the teacher's class next to nothing, section 3.1: the mixture bounds 1 / q."""
    value = skew_kl_loss(torch.tensor([[0.0, 80.0]]), torch.tensor([[80.0, 0.0]]).log_softmax(1), 0.1, "forward", 1.0)
    assert value.item() == pytest.approx(-np.log(0.1), rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"skew": 0.0}, r"skew=0\.0; expected a number between 0 and 1; for 0 use kd \(forward\) or reverse_kl$"),
        ({"skew": 1.0}, r"skew=1\.0"),
        ({"direction": "both"}, r"direction=both; expected forward or reverse$"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SkewKL(**{"direction": "forward", "skew": 0.1, "temperature": 1.0, **settings})
