import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Progress
from kdlab.heads.response.kd import KD
from kdlab.modes.kdcl import KDCL, linear, min_logit, naive
from kdlab.training.objective import Term
from support.school import batch, cast, step, taught


def entropy(logits, label):
    return float(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label])


def optimum(logits, label):
    """The least cross-entropy of any convex combination, found by a general solver."""
    count = len(logits)
    starts = [np.full(count, 1 / count), *np.eye(count)]
    found = [
        minimize(
            lambda a: entropy(a @ logits, label), start, method="SLSQP", bounds=[(0, 1)] * count,
            constraints={"type": "eq", "fun": lambda a: a.sum() - 1}, options={"ftol": 1e-13, "maxiter": 500},
        ).fun
        for start in starts
    ]  # fmt: skip
    return min(found)


@pytest.mark.parametrize("peers", [2, 3, 4])
def test_the_linear_combination_is_the_optimum_of_a_general_solver(peers):
    generator = torch.Generator().manual_seed(peers)
    logits = 2 * torch.randn(peers, 12, 5, generator=generator, dtype=torch.float64)
    target = torch.arange(12) % 5
    made = linear(logits, target)
    for row in range(12):
        best = optimum(logits[:, row].numpy(), int(target[row]))
        assert entropy(made[row].numpy(), int(target[row])) == pytest.approx(best, abs=2e-4 if peers > 2 else 1e-7)


def test_two_peers_that_err_in_turn_are_mixed_where_the_derivative_vanishes():
    # At α z_1 + (1 − α) z_2 the loss of class 0 is log(1 + e^(2 − 5α) + e^(5α − 3)), least where α = 1/2.
    logits = torch.tensor([[[0.0, -3.0, 2.0]], [[0.0, 2.0, -3.0]]], dtype=torch.float64)
    torch.testing.assert_close(linear(logits, torch.tensor([0])), torch.tensor([[0, -0.5, -0.5]], dtype=torch.float64),
                               rtol=0, atol=1e-7)  # fmt: skip
    torch.testing.assert_close(min_logit(logits, torch.tensor([0])), torch.tensor([[0.0, -3, -3]]).double())


def test_a_peer_that_is_right_everywhere_is_chosen_alone():
    logits = torch.tensor([[[4.0, 0.0, 0.0]], [[0.0, 1.0, 2.0]]])
    for combine in (linear, naive):
        torch.testing.assert_close(combine(logits, torch.tensor([0])), logits[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(combine(logits, torch.tensor([2])), logits[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("combine", ["linear", "naive", "min_logit"])
def test_no_peer_knows_the_label_better_than_the_ensemble(combine):
    mode = KDCL(cast(peers=2), combine)
    taught(mode)
    given = batch(10)
    lessons = mode(given, Progress())
    ensemble = lessons[0].teachers[-1].logits
    losses = [torch.nn.functional.cross_entropy(z, given["target"], reduction="none")
              for z in (ensemble, *(lesson.learner.logits for lesson in lessons))]  # fmt: skip
    assert (losses[0] <= torch.stack(losses[1:]).amin(0) + 1e-6).all()
    assert not ensemble.requires_grad


def test_the_mean_is_averaged_at_the_heads_own_temperature():
    mode = KDCL(cast(peers=1), "mean")
    objective = taught(mode, Term("kd", lambda: KD(3.0), 1.0), task_weight=0.0)
    given = batch(5)
    lessons = mode(given, Progress())
    said = [lesson.learner.logits.detach() for lesson in lessons]
    mean = sum((z / 3).softmax(1) for z in said) / 2
    by_hand = sum(9 * (mean * (mean.log() - (z / 3).log_softmax(1))).sum(1).mean() for z in said)
    _, terms = step(mode, objective, given, Progress(), rate=0.0)
    torch.testing.assert_close(terms[1], by_hand)


def test_a_sample_without_a_label_is_taught_by_the_mean_logits():
    mode = KDCL(cast(peers=1), "naive")
    taught(mode)
    given = batch(4)
    given["target"][1] = -1
    lessons = mode(given, Progress())
    said = [lesson.learner.logits for lesson in lessons]
    torch.testing.assert_close(lessons[0].teachers[-1].logits[1], (said[0][1] + said[1][1]).detach() / 2)


def test_each_peer_may_see_a_view_of_its_own():
    mode = KDCL(cast(peers=1), "mean", views=["again"])
    taught(mode)
    assert mode.shows == ("again",)
    given, again = batch(4), batch(4, 5)
    lessons = mode({**given, "views": {"again": again}}, Progress())
    assert torch.equal(lessons[0].learner.logits, mode.observed[0](given).logits)
    assert torch.equal(lessons[1].learner.logits, mode.observed[1](again).logits)
    with pytest.raises(UsageError, match=r"mode.views=\['a', 'b'\]: expected one for each of the 1 peers"):
        KDCL(cast(peers=1), "mean", views=["a", "b"])
    with pytest.raises(UsageError, match=r"mode\.combine=median: expected linear or naive or min_logit or mean"):
        KDCL(cast(peers=1), "median")
