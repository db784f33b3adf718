"""jsd, against scipy and the published form for language models."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr, softmax

from kdlab.heads.response.jsd import JSD, jsd_loss
from kdlab.heads.response.kd import KD
from kdlab.heads.response.reverse_kl import ReverseKL


@pytest.mark.parametrize(
    ("rows", "classes", "beta", "temperature"), [(1, 2, 0.5, 1.0), (5, 3, 0.1, 4.0), (4, 100, 0.8, 2.0)]
)
def test_both_sides_are_compared_with_the_mixture(sines, respond, rows, classes, beta, temperature):
    student, teacher, _ = sines(rows, classes)
    found = respond(JSD(beta, temperature), student, teacher)
    for row in range(rows):
        p, q = softmax(teacher[row].numpy() / temperature), softmax(student[row].numpy() / temperature)
        mixture = beta * p + (1 - beta) * q
        expected = beta * rel_entr(p, mixture).sum() + (1 - beta) * rel_entr(q, mixture).sum()
        assert found[row].item() == pytest.approx(expected, abs=1e-12)


def test_one_half_is_the_square_of_scipys_distance(sines, respond):
    student, teacher, _ = sines()
    distance = jensenshannon(softmax(teacher.numpy(), axis=1), softmax(student.numpy(), axis=1), axis=1)
    np.testing.assert_allclose(respond(JSD(0.5, 1.0), student, teacher).numpy(), distance**2)


@pytest.mark.parametrize(("beta", "temperature", "published"), [(0.5, 1.0, 0.446637198664), (0.1, 2.0, 0.117334551567)])
def test_agrees_with_the_published_code(sines, respond, beta, temperature, published):
    # huggingface/trl, trl/experimental/gkd/gkd_trainer.py at 7310b81: generalized_jsd_loss, which has no T² either.
    student, teacher, _ = sines()
    assert respond(JSD(beta, temperature), student, teacher).mean().item() == pytest.approx(published, abs=1e-11)


def test_limits_are_forward_and_reverse_kl(sines, respond):
    student, teacher, _ = sines()
    forward, backward = (respond(JSD(beta, 1.0), student, teacher) / 1e-6 for beta in (1e-6, 1 - 1e-6))
    torch.testing.assert_close(forward, respond(KD(1.0), student, teacher), rtol=1e-3, atol=0)
    torch.testing.assert_close(backward, respond(ReverseKL(1.0), student, teacher), rtol=1e-3, atol=0)


def test_networks_that_share_no_class_are_as_far_as_the_mixture_is_uncertain():
    apart = torch.tensor([[500.0, -500.0]], dtype=torch.float64)
    found = jsd_loss(apart, (-apart).log_softmax(dim=1), 0.3, 1.0).item()
    assert found == pytest.approx(-0.3 * log(0.3) - 0.7 * log(0.7), abs=1e-12)


@pytest.mark.parametrize("beta", [0.0, 1.0, -0.1, 1.5])
def test_ends_at_which_it_is_zero_are_refused(beta):
    with pytest.raises(ValueError, match=f"beta={beta}.*kd.*reverse_kl"):
        JSD(beta, 1.0)
