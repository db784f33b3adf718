import pytest
import torch
from torch import nn

from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Progress
from kdlab.heads.response.kd import KD
from kdlab.modes.cotrain import CoTrain
from kdlab.training.objective import Term
from support.school import batch, cast, step, taught


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def test_the_teacher_hears_the_labels_alone_and_the_student_hears_both():
    mode = CoTrain(cast(linear, 1, dtype=torch.float64))
    student, teacher = ([parameter.detach().clone() for parameter in network.parameters()] for network in mode.learners)
    objective = taught(mode, Term("kd", lambda: KD(1.0), 3.0), task_weight=0.5)
    given = batch(6, dtype=torch.float64)
    step(mode, objective, given, Progress())
    flat, hot = given["input"].flatten(1), nn.functional.one_hot(given["target"], 10)
    s, t = ((flat @ weight.T + bias).softmax(1) for weight, bias in (student, teacher))
    for (weight, _), network, delta in (
        (teacher, mode.learners[1], 0.5 * (t - hot)),
        (student, mode.learners[0], 0.5 * (s - hot) + 3 * (s - t)),
    ):
        moved = weight - 0.1 * delta.T @ flat / 6
        torch.testing.assert_close(network[1].weight.detach(), moved, rtol=0, atol=1e-14)


def test_there_is_one_teacher():
    with pytest.raises(
        UsageError, match=r"^mode.peers: expected 1, as cotrain trains one network with the student, not 2$"
    ):
        CoTrain(cast(linear, 2))
    mode = CoTrain(cast(linear, 1))
    assert [edge.name for edge in mode.edges] == ["student-peer1"]
    assert mode.source(mode.edges[0]) is mode.observed[1]
