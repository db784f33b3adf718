"""What every response head does with logits, and what a head refuses by default."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import nn

from kdlab.core.knowledge import Example, Knowledge, Lesson, Needs, Progress
from kdlab.core.soft_targets import standardize
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
