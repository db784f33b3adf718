"""Modes that split a network or keep its input do so with named tokens, and padding says nothing."""

import pytest
import torch

from kdlab.core.knowledge import Context, Progress
from kdlab.heads.response.kd import KD
from kdlab.modes.byot import BYOT
from kdlab.modes.dlb import DLB
from kdlab.modes.mode import Cast
from kdlab.modes.one import ONE
from kdlab.networks.observer import find_taps
from kdlab.networks.teacher import Observed
from kdlab.tasks.classification import Classification
from kdlab.training.objective import Objective, Term
from support.school import step
from support.transformer_networks import language_network, padded

CONTEXT = Context(2, 8, torch.arange(8) % 2)


def texts(*lengths, first=0, **changes):
    count = len(lengths)
    place = torch.arange(count)
    return {"input": padded(lengths, **changes), "target": place % 2, "index": place + first, "view": place * 0}


def cast():
    def learners(place=0):
        network = language_network("bert", seed=place)
        return Observed(f"branch{place}" if place else "student", network, find_taps(network, padded()))

    return Cast(learners, (), CONTEXT, texts(7, 4))


def taught(mode):
    objective = Objective(mode, Classification(2), [Term("kd", lambda: KD(3.0), 1.0)], 1.0, CONTEXT)
    objective.refuse_impossible(mode)
    objective.build(mode, texts(7, 4), 0)
    return objective


MODES = {"byot": lambda: BYOT(cast(), exit_task=0.7), "one": lambda: ONE(cast(), branches=2)}


@pytest.mark.parametrize("name", MODES)
def test_padding_changes_no_prediction_of_any_learner(name):
    mode = MODES[name]()
    taught(mode)
    mode.eval()
    short, long = texts(7, 4), texts(7, 4, length=9, noise=11)
    for ours, theirs in zip(mode(short, Progress()), mode(long, Progress()), strict=True):
        torch.testing.assert_close(ours.learner.logits, theirs.learner.logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODES)
def test_what_may_be_kept_says_of_texts_what_its_learner_says(name):
    mode = MODES[name]()
    taught(mode)
    mode.eval()
    given = texts(7, 4, 2)
    said = [lesson.learner.logits for lesson in mode(given, Progress())]
    for network, logits in zip(mode.students().values(), said, strict=True):
        answer = network.eval()(**given["input"])
        torch.testing.assert_close(answer if isinstance(answer, torch.Tensor) else answer.logits, logits)


def test_the_batch_before_returns_with_its_tokens_and_their_mask():
    mode = DLB(cast())
    objective = taught(mode)
    first, second = texts(7, 4), texts(5, 2, first=4, length=9)
    step(mode, objective, first, Progress())
    before = mode.logits.clone()
    resumed = DLB(cast())
    resumed.load_state_dict(mode.state_dict())
    for one in (mode, resumed):
        taught(one)
        one.eval()
        new, again = one(second, Progress())
        assert (new.index.tolist(), again.index.tolist()) == ([4, 5], [0, 1])
        assert torch.equal(again.teachers[0].logits, before)
        torch.testing.assert_close(again.learner.logits, one.observed[0].network(**first["input"]).logits)
