import math

import pytest
import torch

from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Progress
from kdlab.heads.response.kd import KD
from kdlab.modes.tf_kd import TfKD, virtual_logits
from kdlab.training.objective import Term
from support.school import batch, cast, step, taught


def test_the_virtual_teacher_is_the_softmax_of_its_probabilities_over_the_temperature():
    teacher = virtual_logits(torch.tensor([2, 0]), 5, 0.96, 20.0).softmax(1)
    right, wrong = math.exp(0.96 / 20), math.exp(0.01 / 20)
    expected = torch.tensor([wrong, wrong, right, wrong, wrong]) / (right + 4 * wrong)
    torch.testing.assert_close(teacher[0], expected)
    torch.testing.assert_close(teacher[1], expected[[2, 0, 1, 3, 4]])


def test_the_loss_is_that_of_the_published_code():
    mode = TfKD(cast(), 0.99, 20.0)
    objective = taught(mode, Term("kd", lambda: KD(1.0), 0.1), task_weight=0.9)
    given = batch(6)
    logits = mode(given, Progress())[0].learner.logits.detach()
    soft = torch.full((6, 10), 0.01 / 9)
    soft[torch.arange(6), given["target"]] = 0.99
    # The authors' mean over rows and classes, times their multiplier, which is the number of classes.
    kl = torch.nn.KLDivLoss(reduction="none")(logits.log_softmax(1), (soft / 20).softmax(1)).mean() * 10
    by_hand = 0.9 * torch.nn.functional.cross_entropy(logits, given["target"]) + 0.1 * kl
    torch.testing.assert_close(step(mode, objective, given, Progress(), rate=0.0)[0], by_hand)


def test_a_sample_without_a_label_has_no_virtual_teacher():
    mode = TfKD(cast(), 0.99, 20.0)
    taught(mode)
    given = batch(4)
    given["target"][2] = -1
    assert mode(given, Progress())[0].weight.tolist() == [[1, 1, 0, 1]]


def test_a_probability_is_below_one():
    with pytest.raises(UsageError, match=r"mode\.correct=1\.0: expected a number between 0 and 1"):
        TfKD(cast(), 1.0, 20.0)
