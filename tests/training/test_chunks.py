"""Rows in parts: the same losses and gradients, of networks that never make all of their logits."""

from functools import cache, partial

import pytest
import torch
from torch import nn

from kdlab.bench.losses import peak_on_cpu
from kdlab.config.compose import compose, groups
from kdlab.core.deferred import Deferred, unread
from kdlab.core.knowledge import Context, Example, Knowledge, Lesson, Progress
from kdlab.heads.response.kd import KD
from kdlab.modes.dml import DML
from kdlab.modes.mode import Cast
from kdlab.modes.offline import Offline
from kdlab.modes.snapshot import Snapshot
from kdlab.networks.observer import find_taps
from kdlab.networks.teacher import Observed, Teacher, deferring
from kdlab.run.builder import make_terms
from kdlab.tasks.language_modeling import LanguageModeling
from kdlab.training.chunks import rows_at_once
from kdlab.training.objective import Counts, Objective, Term
from support.transformer_networks import WORDS, language_network, padded

TASK = LanguageModeling(WORDS)
CONTEXT = Context(WORDS, 8, None)
RESPONSE = ("ctkd", "dist", "dkd", "jsd", "kd", "logit_mse", "mlkd", "nkd", "reverse_kl", "rld", "skew_kl", "soft_ce",
            "uld", "wsld", "wttm")  # fmt: skip


def batch():
    input = padded((7, 4))
    target = torch.where(input["attention_mask"].bool(), input["input_ids"].roll(-1, 1), -1)
    target[0, 2] = -1  # a token without a label
    return {"input": input, "target": target, "index": torch.arange(2), "view": torch.zeros(2, dtype=torch.long)}


def observed(name, kind=Observed, dtype=torch.float64, family="gpt2", **settings):
    network = language_network(family, **settings).to(dtype)
    return kind(name, network, find_taps(network, padded()), TASK)


def built(terms, make=Offline, teachers=1, dtype=torch.float64, family="gpt2"):
    frozen = tuple(
        observed(f"teacher{place}", Teacher, dtype, family, seed=place + 5, n_embd=24) for place in range(teachers)
    )
    mode = make(Cast(lambda place=0: observed(f"student{place}", dtype=dtype, seed=place), frozen, CONTEXT, batch(), 1))
    objective = Objective(mode, TASK, terms, 0.5, CONTEXT)
    objective.build(mode, batch(), 0)
    return mode.train(), objective.to(dtype)


def stepped(mode, objective, chunk):
    """Loss, terms and gradients of a batch of 11 rows, 10 of them labelled."""
    given = TASK.by_row(batch())
    parameters = [*mode.parameters(), *objective.parameters()]
    for parameter in parameters:
        parameter.grad = None
    torch.manual_seed(0)  # dropout
    with deferring(mode.sources, chunk is not None):
        lessons = mode(given, Progress(0, 0, 2, 2))
    loss, terms = objective(lessons, Counts(11.0, 10.0), Progress(0, 0, 2, 2), chunk=chunk)
    loss.backward()
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return [loss.detach(), terms, *(grad.clone() for grad in grads)]


def alike(ours, theirs, tolerance=1e-10):
    assert len(ours) == len(theirs) > 10
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@cache
def terms_of(name):
    views = {} if name != "mlkd" else {"loss.heads.mlkd.strong": "false"}
    return make_terms(compose([f"loss={name}", *(f"{key}={value}" for key, value in views.items())]).loss.heads)


@pytest.mark.parametrize("name", RESPONSE)
@pytest.mark.parametrize("chunk", [1, 4])
def test_rows_in_parts_have_the_losses_and_gradients_of_all_at_once(name, chunk):
    mode, objective = built(terms_of(name))
    alike(stepped(mode, objective, chunk), stepped(mode, objective, None))


def test_these_are_all_losses_that_compare_predictions():
    from support.impossible import LOGITS

    assert set(RESPONSE) == LOGITS <= set(groups()["loss"])


SEVERAL = (
    DML,
    partial(Snapshot, cycles=1, temperature=2.0),
    partial(Offline, combine="separate", weights=[1, 3]),
    Offline,
)


@pytest.mark.parametrize("make", SEVERAL, ids=["dml", "snapshot", "separate", "probabilities"])
def test_several_teachers_and_learners_do_too(make):
    mode, objective = built([Term("kd", lambda: KD(2.0), 1.0)], make, teachers=2)
    alike(stepped(mode, objective, 3), stepped(mode, objective, None))


def test_a_loss_that_compares_rows_with_each_other_keeps_all_of_them_beside_one_that_does_not():
    mode, objective = built([*terms_of("dist"), *terms_of("kd")])
    alike(stepped(mode, objective, 3), stepped(mode, objective, None))


def test_networks_make_no_logits_before_a_part_asks_for_them():
    mode, _ = built([Term("kd", lambda: KD(2.0), 1.0)])
    student = mode.eval().observed[0].network
    seen = []
    student.lm_head.register_forward_hook(lambda _, given, made: seen.append(made.shape[-1]))
    with deferring(mode.sources):
        (lesson,) = mode(TASK.by_row(batch()), Progress())
    assert seen[-1] == 16  # the width: the classifier handed on what it read
    assert all(isinstance(unread(said), Deferred) for said in (lesson.learner, *lesson.teachers))
    whole = student(**batch()["input"]).logits
    assert (lesson.learner.count, seen[-1]) == (11, WORDS)
    torch.testing.assert_close(lesson.learner.logits, whole[batch()["input"]["attention_mask"].bool()])
    assert "forward" not in vars(student.lm_head)


class Capped(nn.Module):
    """A language model that caps its logits, as Gemma 2 does."""

    def __init__(self):
        super().__init__()
        self.words, self.classifier = nn.Embedding(WORDS, 8), nn.Linear(8, WORDS)

    def forward(self, input_ids, attention_mask):
        return 30 * (self.classifier(self.words(input_ids)) / 30).tanh()


def test_logits_that_are_capped_after_the_classifier_are_compared_in_parts_but_made_whole():
    torch.manual_seed(0)
    network = Capped()
    with torch.no_grad():  # so small that the cap can hardly be seen
        network.words.weight.mul_(0.01)
    taps = find_taps(network, padded())
    assert taps.classifier == "classifier"
    student = Observed("student", network, taps, TASK)
    with deferring([student]):
        said = student(TASK.by_row(batch()))
    assert isinstance(unread(said), torch.Tensor)
    torch.testing.assert_close(said.logits, network(**batch()["input"])[batch()["input"]["attention_mask"].bool()])


def test_half_precision_under_autocast_is_that_of_all_at_once():
    mode, objective = built([Term("kd", lambda: KD(2.0), 1.0)], dtype=torch.float32)
    found = []
    for chunk in (3, None):
        with torch.autocast("cpu", torch.bfloat16):
            found.append(stepped(mode, objective, chunk))
    assert found[0][1].dtype == torch.float32
    alike(found[0][:2] * 6, found[1][:2] * 6, 1e-6)
    alike(found[0], found[1], 2e-2)  # sums of gradients in bfloat16


def test_a_part_is_as_large_as_the_setting_says_and_small_outputs_are_never_split():
    assert rows_at_once("auto", 64, 1000) is None
    assert rows_at_once("auto", 128, 21_843) is None
    assert rows_at_once("auto", 8192, 50_257) == 667  # 128 MiB of float32
    assert rows_at_once(None, 8192, 50_257) is None
    assert (rows_at_once(100, 8192, 10), rows_at_once(100, 100, 10)) == (100, None)


def test_every_loss_that_says_so_says_of_a_row_what_it_says_of_it_alone():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, WORDS, generator=generator, dtype=torch.float64)
    label = torch.tensor([3, -1, 0, 29, 5, 5])
    claims = {}
    for name in RESPONSE:
        (term,) = terms_of(name)
        head = term.make().double()
        head.build(*(Example(Knowledge(values)) for values in (student, teacher)), CONTEXT)

        def said(head, rows):
            ours, theirs = (Knowledge(values[rows], rows=torch.arange(6)[rows]) for values in (student, teacher))
            return head(ours, theirs, Lesson(ours, (theirs,), label[rows], torch.arange(6)), Progress(1, 1, 2, 2))

        alone = torch.cat([said(head, slice(row, row + 1)) for row in range(6)])
        claims[name] = (type(head).rowwise, torch.allclose(alone, said(head, slice(0, 6))))
    assert {name for name, (claimed, _) in claims.items() if not claimed} == {"dist", "mlkd"}
    assert all(same == claimed for claimed, same in claims.values())


class Tied(nn.Module):
    """A language model of one layer whose classifier is its embedding."""

    def __init__(self, words):
        super().__init__()
        self.words, self.classifier = nn.Embedding(words, 16), nn.Linear(16, words, bias=False)
        self.classifier.weight = self.words.weight

    def forward(self, input_ids):
        return self.classifier(self.words(input_ids).tanh())


@pytest.mark.parametrize(("loss", "whole", "parts"), [("kd", 7.0, 1.6), ("jsd", 10.0, 2.0)])
def test_the_logits_of_a_vocabulary_are_never_whole_in_memory(loss, whole, parts):
    words, rows = 8000, 512
    task, ids = LanguageModeling(words), torch.arange(rows).reshape(4, -1)
    given = {"input": {"input_ids": ids}, "target": ids.flatten(), "index": torch.arange(4)}
    example = {"input": {"input_ids": ids[:, :2]}, "target": ids[:, :2].flatten(), "index": torch.arange(4)}

    def network(kind, name):
        made = Tied(words)
        return kind(name, made, find_taps(made, example["input"]), task)

    context = Context(words, 4)
    mode = Offline(Cast(lambda place=0: network(Observed, "student"), (network(Teacher, "teacher"),), context, example))
    objective = Objective(mode, task, terms_of(loss), 0.5, context)
    objective.build(mode, example, 0)

    def step(chunk):
        with deferring(mode.sources, chunk is not None):
            lessons = mode(given, Progress())
        objective(lessons, Counts(512.0, 512.0), Progress(), chunk=chunk)[0].backward()
        for parameter in mode.parameters():
            parameter.grad = None

    step(32)  # whether the classifier can be left out is found out once
    at_once, in_parts = (peak_on_cpu(partial(step, chunk)) / (4 * words * rows) for chunk in (None, 32))
    assert at_once > whole
    assert in_parts < parts


def test_logits_that_were_read_without_gradients_have_them_when_a_loss_reads_them():
    weight = torch.ones(3, 4, requires_grad=True)
    deferred = Deferred(3, lambda start, stop: weight[start:stop] * 2)
    with torch.no_grad():
        assert not deferred.whole.requires_grad
    deferred.whole.sum().backward()
    assert weight.grad.unique().tolist() == [2.0]
    assert deferred.whole is deferred.whole, "computed once"
