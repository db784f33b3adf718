"""How response heads read a teacher, what standardisation is, and what a head refuses by default."""

from __future__ import annotations

from statistics import mean, stdev

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch import nn

from kdlab.core.knowledge import Example, Knowledge, Lesson, Needs, Progress
from kdlab.core.soft_targets import soft_logits, soft_targets, standardize
from kdlab.heads.head import Head, ResponseHead
from kdlab.heads.response.ctkd import CTKD
from kdlab.heads.response.dist import DIST
from kdlab.heads.response.dkd import DKD
from kdlab.heads.response.jsd import JSD
from kdlab.heads.response.kd import KD
from kdlab.heads.response.mlkd import MLKD
from kdlab.heads.response.nkd import NKD
from kdlab.heads.response.reverse_kl import ReverseKL
from kdlab.heads.response.rld import RLD
from kdlab.heads.response.soft_ce import SoftCE
from kdlab.heads.response.wsld import WSLD

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
    assert logits.grad.isfinite().all()


def test_a_response_head_standardizes_both_sides_and_each_member():
    head = ResponseHead(standardize=True)
    torch.testing.assert_close(head.scale(MEMBERS[0]), standardize(MEMBERS[0]))
    torch.testing.assert_close(head.teacher_logits(Knowledge(MEMBERS[0])), standardize(MEMBERS[0]))
    each = [softmax(standardize(member).numpy() / 2, axis=1) for member in MEMBERS]
    found = head.teacher_log_probabilities(ensemble(), 2.0)
    np.testing.assert_allclose(found.exp().numpy(), (each[0] + each[1]) / 2)


def test_a_response_head_leaves_logits_as_they_are_unless_asked():
    head = ResponseHead()
    torch.testing.assert_close(head.scale(MEMBERS[0]), MEMBERS[0], rtol=0, atol=0)
    torch.testing.assert_close(head.teacher_logits(Knowledge(MEMBERS[0])), MEMBERS[0], rtol=0, atol=0)


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize(
    "make",
    [KD, lambda t: DIST(t, 1.0, 1.0), lambda t: DKD(t, 1.0, 8.0), lambda t: JSD(0.5, t), lambda t: NKD(t, 1.5),
     ReverseKL, SoftCE, WSLD, lambda t: RLD(4.0, t, 1.0, 1.0), lambda t: MLKD([4.0, t], 1.0, 1.0, 1.0, False),
     lambda t: CTKD(t, 20.0, 10)],
)  # fmt: skip
def test_a_temperature_that_cannot_divide_is_refused(make, temperature):
    make(0.5)
    with pytest.raises(ValueError, match=rf"^temperature={temperature}: expected a number above 0$"):
        make(temperature)


def test_a_head_asks_for_logits_alone_and_refuses_what_it_does_not_do():
    class Plain(Head):
        pass

    knowledge = Knowledge(torch.zeros(2, 3))
    assert Plain().needs() == Needs()
    with pytest.raises(NotImplementedError):
        Plain()(knowledge, knowledge, Lesson(knowledge, (), None, torch.arange(2)), Progress())
    with pytest.raises(NotImplementedError, match="Plain has nothing to prepare"):
        Plain().prepare(knowledge)
    with pytest.raises(NotImplementedError, match="Plain has nothing to graft"):
        Plain().graft(nn.Identity(), Example(knowledge), Example(knowledge))
