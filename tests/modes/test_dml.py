import pytest
import torch
from torch import nn

from kdlab.core.knowledge import Progress
from kdlab.heads.response.kd import KD
from kdlab.modes.dml import DML
from kdlab.training.objective import Term
from support.school import batch, cast, step, taught


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def descend(weights, biases, input, target, rate):
    """One step of deep mutual learning, with its derivatives written out.

    Of CE(p_i, y) + 1/(K − 1) Σ KL(p_j ‖ p_i) to the logits: p_i − y + p_i − mean of the p_j.
    """
    flat = input.flatten(1)
    logits = [flat @ weight.T + bias for weight, bias in zip(weights, biases, strict=True)]
    said = [torch.exp(z - z.amax(1, keepdim=True)) for z in logits]
    said = [each / each.sum(1, keepdim=True) for each in said]
    hot = torch.zeros_like(said[0])
    hot[torch.arange(len(target)), target] = 1
    for place, p in enumerate(said):
        others = [other for k, other in enumerate(said) if k != place]
        delta = (2 * p - hot - sum(others) / len(others)) / len(target)
        weights[place] -= rate * delta.T @ flat
        biases[place] -= rate * delta.sum(0)


@pytest.mark.parametrize("peers", [1, 2])
def test_a_step_moves_every_peer_as_the_derivatives_by_hand(peers):
    mode = DML(cast(linear, peers, dtype=torch.float64))
    objective = taught(mode, Term("kd", lambda: KD(1.0), 1.0))
    weights = [network[1].weight.detach().clone() for network in mode.learners]
    biases = [network[1].bias.detach().clone() for network in mode.learners]
    for seed in (1, 2, 3):
        given = batch(6, seed, dtype=torch.float64)
        step(mode, objective, given, Progress())
        descend(weights, biases, given["input"], given["target"], 0.1)
        for network, weight, bias in zip(mode.learners, weights, biases, strict=True):
            torch.testing.assert_close(network[1].weight.detach(), weight, rtol=0, atol=1e-14)
            torch.testing.assert_close(network[1].bias.detach(), bias, rtol=0, atol=1e-14)


def test_peers_begin_differently_and_their_answers_teach_without_gradient():
    mode = DML(cast(peers=2))
    taught(mode)
    lessons = mode(batch(), Progress())
    assert [len(lesson.teachers) for lesson in lessons] == [2, 2, 2]
    for place, lesson in enumerate(lessons):
        others = [other.learner.logits for k, other in enumerate(lessons) if k != place]
        for heard, said in zip(lesson.teachers, others, strict=True):
            assert torch.equal(heard.logits, said)
            assert not heard.logits.requires_grad
        assert not torch.equal(others[0], others[1])


def test_an_edge_asks_the_peer_that_it_names():
    mode = DML(cast(peers=2))
    for edge in mode.edges:
        assert edge.name == f"{mode.observed[edge.learner].name}-{mode.source(edge).name}"
    assert len({edge.name for edge in mode.edges}) == 6


def test_the_ensemble_is_the_mean_of_the_peers_probabilities():
    mode = DML(cast(peers=2)).eval()
    students = mode.students()
    assert [*students] == ["student", "peer1", "peer2", "ensemble"]
    input = batch()["input"]
    mean = sum(students[name](input).softmax(1) for name in ("student", "peer1", "peer2")) / 3
    torch.testing.assert_close(students["ensemble"](input).softmax(1), mean)
