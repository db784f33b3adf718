"""How response heads and modes read a teacher, and what standardisation is."""

from __future__ import annotations

from statistics import mean, stdev

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from kdlab.core.knowledge import Knowledge
from kdlab.core.soft_targets import soft_logits, soft_targets, standardize

MEMBERS = tuple(torch.tensor(rows, dtype=torch.float64) for rows in ([[4.0, 0.0, -1.0]], [[0.0, 3.0, 1.0]]))


def ensemble(members=MEMBERS):
    return Knowledge(logits=torch.zeros_like(members[0]), members=members)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_targets_of_one_teacher_are_its_softened_log_probabilities(temperature):
    logits = 5 * torch.sin(torch.arange(12, dtype=torch.float64)).view(3, 4)
    found = soft_targets(Knowledge(logits), temperature)
    np.testing.assert_allclose(found.numpy(), log_softmax(logits.numpy() / temperature, axis=1), atol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_targets_of_an_ensemble_are_averaged_at_the_temperature(temperature):
    each = [softmax(member.numpy() / temperature, axis=1) for member in MEMBERS]
    np.testing.assert_allclose(soft_targets(ensemble(), temperature).exp().numpy(), (each[0] + each[1]) / 2)


def test_averaging_first_and_softening_after_would_be_another_target():
    averaged = sum(softmax(member.numpy(), axis=1) for member in MEMBERS) / 2
    after = softmax(np.log(averaged) / 4, axis=1)
    assert np.abs(soft_targets(ensemble(), 4.0).exp().numpy() - after).max() > 0.02


def test_soft_targets_follow_a_learned_temperature():
    temperature = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: soft_targets(ensemble(), t), temperature)


def test_soft_targets_stay_finite_in_half_types():
    members = tuple(torch.tensor([row]).half() for row in ([1000.0, -1000.0], [-1000.0, 1000.0]))
    found = soft_targets(ensemble(members))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.exp(), torch.tensor([[0.5, 0.5]]))


def test_soft_logits_are_the_teachers_own_and_an_ensembles_log_mean_probability_on_their_level():
    torch.testing.assert_close(soft_logits(Knowledge(MEMBERS[0])), MEMBERS[0])
    averaged = sum(softmax(member.numpy(), axis=1) for member in MEMBERS) / 2
    level = np.mean([np.log(np.exp(member.numpy()).sum(axis=1)) for member in MEMBERS])
    np.testing.assert_allclose(soft_logits(ensemble()).numpy(), np.log(averaged) + level)
    alike = Knowledge(MEMBERS[0], members=(MEMBERS[0], MEMBERS[0]))
    torch.testing.assert_close(soft_logits(alike), MEMBERS[0])


def test_standardize_is_the_z_score_of_each_row():
    logits = torch.tensor([[1.0, 2.0, 4.0, 9.0], [-3.0, 0.0, 0.5, 0.25]], dtype=torch.float64)
    for row, found in zip(logits.tolist(), standardize(logits).tolist(), strict=True):
        assert found == pytest.approx([(z - mean(row)) / (stdev(row) + 1e-7) for z in row], abs=1e-12)


def test_standardize_agrees_with_the_authors_code():
    # sunshangquan/logit-standardization-KD, mdistiller/distillers/KD.py at 6083e2d: normalize.
    logits = 4 * torch.sin(torch.arange(80, dtype=torch.float64)).view(8, 10)
    assert standardize(logits)[3, 7].item() == pytest.approx(-0.822087601366, abs=1e-12)


def test_standardize_of_equal_logits_is_zero_with_a_finite_gradient():
    logits = torch.full((2, 5), 3.0, dtype=torch.bfloat16, requires_grad=True)
    found = standardize(logits)
    (found * torch.arange(5)).sum().backward()
    assert found.dtype == torch.float32
    assert found.abs().max() == 0
    assert logits.grad.abs().max() == 2  # arange less its mean, not 1e7 times as much
