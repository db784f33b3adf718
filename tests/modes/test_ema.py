from copy import deepcopy

import torch

from kdlab.core.knowledge import Fields, Progress
from kdlab.heads.response.kd import KD
from kdlab.modes.ema import EMA
from kdlab.training.objective import Term
from support.school import batch, cast, step, taught


def weights(network):
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def run(decay, steps, **options):
    mode = EMA(cast(dtype=torch.float64), decay, **options)
    objective = taught(mode, Term("kd", lambda: KD(1.0), 1.0))
    seen = [weights(mode.learners[0])]
    for seed in range(steps):
        step(mode, objective, batch(6, seed, dtype=torch.float64), Progress())
        seen.append(weights(mode.learners[0]))
    return mode, seen


def test_after_k_steps_the_average_is_its_closed_form():
    # d_k = k / (k + 1) for k up to 3, which makes the mean of the first four; then 0.75.
    mode, seen = run(0.75, 7)
    expected = 0.75**4 * sum(seen[:4]) / 4 + 0.25 * sum(0.75 ** (7 - k) * seen[k] for k in range(4, 8))
    torch.testing.assert_close(weights(mode.copy), expected, rtol=0, atol=1e-14)


def test_a_decay_near_one_is_the_mean_of_all_weights():
    mode, seen = run(0.999, 5)
    torch.testing.assert_close(weights(mode.copy), sum(seen) / 6, rtol=0, atol=1e-14)


def test_the_average_teaches_in_train_mode_and_is_judged_in_eval_mode_with_statistics_of_its_own():
    # CuriousAI/mean-teacher pytorch/main.py:204-205: `ema_model.train()`, and its own forward pass.
    mode, _ = run(0.9, 3)
    assert all(module.training for module in mode.copy.modules())
    assert not any(parameter.requires_grad for parameter in mode.copy.parameters())
    assert not any(module.training for module in mode.eval().modules())
    assert all(module.training for module in mode.train().copy.modules())
    given = batch(6, dtype=torch.float64)
    before = [value.clone() for value in mode.learners[0].buffers()]
    (lesson,) = mode(given, Progress())
    alone = deepcopy(mode.copy).train()
    assert torch.equal(lesson.teachers[0].logits, alone(given["input"]))
    means = [next(network.buffers()) for network in (mode.copy, mode.learners[0])]
    assert not torch.equal(*means)
    assert not torch.equal(before[0], means[1])


def test_the_average_may_be_shown_another_draw():
    mode = EMA(cast(), 0.9, train_mode=False, view="again")
    assert mode.shows == ("again",)
    other = batch(6, 9)
    (lesson,) = mode({**batch(), "views": {"again": other}}, Progress())
    assert torch.equal(lesson.teachers[0].logits, mode.copy(other["input"]))
    assert torch.equal(lesson.learner.logits, mode.learners[0](batch()["input"]))
    assert lesson.views == {}


def test_buffers_are_the_students_and_the_average_stays_in_eval_mode_and_frozen():
    mode, _ = run(0.9, 3, train_mode=False)
    mode.train()
    assert not any(module.training for module in mode.copy.modules())
    assert mode.learners[0].training
    assert not any(parameter.requires_grad for parameter in mode.copy.parameters())
    for ours, theirs in zip(mode.copy.buffers(), mode.learners[0].buffers(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours is not theirs


def test_a_resumed_average_goes_on_as_if_nothing_had_happened():
    whole, _ = run(0.9, 5)
    half, _ = run(0.9, 3)
    other = EMA(cast(dtype=torch.float64), 0.9)
    other.load_state_dict(half.state_dict())
    objective = taught(other, Term("kd", lambda: KD(1.0), 1.0))
    for seed in (3, 4):
        step(other, objective, batch(6, seed, dtype=torch.float64), Progress())
    assert torch.equal(weights(other.copy), weights(whole.copy))


def test_the_average_answers_with_all_that_a_network_knows_and_can_be_kept():
    mode = EMA(cast(), 0.9)
    (edge,) = mode.edges
    assert mode.offers(edge) == (mode.observed[0].offers, mode.observed[0].offers)
    mode.listen({edge: (Fields(), Fields(stages=(-1,), embedding=True))})
    (lesson,) = mode(batch(), Progress())
    assert lesson.teachers[0].stage(-1).shape == (6, 8, 4, 4)
    assert lesson.learner.stages == (None, None)
    mode.kept = "average"
    assert [*mode.validated()] == ["average", "student"]
    assert mode.describe("average", {"student": {"a": 1}}) == {"a": 1}
