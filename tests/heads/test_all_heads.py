"""Every head of the catalogue on pairs of networks of every kind: put together, one step forward and back.

Nothing is listed by hand: heads are those of conf/loss, and whether a head can compare two networks follows
from what it needs and what their taps offer.
"""

from __future__ import annotations

import sys
from functools import cache
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import nn

from kdlab.config.compose import compose, groups
from kdlab.core.knowledge import Batch, Offer, Progress
from kdlab.heads.head import Head
from kdlab.networks.observer import Taps, find_taps
from kdlab.run.builder import Config, assemble, example_batch, make_network, make_terms
from kdlab.training.distiller import Distiller
from kdlab.training.objective import Counts
from kdlab.training.setup import Parts

HEADS = groups()["loss"]
PAIRS = {  # the student, from the teacher
    "narrow from wide": ["model=resnet8", "model.width=0.5", "teacher=resnet8"],
    "vgg from resnet": ["model=vgg8", "model.width=0.25", "teacher=resnet8"],
    "vit from resnet": ["model=tiny_vit", "teacher=resnet8"],
    "resnet from vit": ["model=resnet8", "teacher=tiny_vit"],
}
CONF = Path(__file__).parents[1] / "support" / "conf"

each_cell = pytest.mark.parametrize(("name", "pair"), list(product(HEADS, PAIRS)))


@cache
def networks(pair: str) -> Config:
    return compose([*PAIRS[pair], "data.size=16", "data.classes=3"], [CONF])


@cache
def loss(name: str) -> Config:
    return compose([f"loss={name}"])["loss"]


def head_of(name: str) -> Head:
    (term,) = make_terms(loss(name)["heads"])
    return term.make()


def put_together(name: str, pair: str) -> Parts:
    config = networks(pair)
    views = {view: {} for view in head_of(name).needs().views}
    torch.manual_seed(0)
    return assemble({**config, "loss": loss(name), "data": {**config["data"], "views": views}})


@cache
def taps(pair: str) -> tuple[Taps, Taps]:
    config = networks(pair)
    input = example_batch(config["data"])["input"]
    learner, teacher = (find_taps(make_network(side["model"])[0], input) for side in (config, config["teacher"]))
    return learner, teacher


def unmet(name: str, pair: str) -> list[str]:
    needs = head_of(name).needs()
    learner, teacher = taps(pair)
    return needs.unmet(Offer(learner.offers, teacher.offers, views=needs.views))


def batch_for(parts: Parts, pair: str) -> Batch:
    batch = example_batch(networks(pair)["data"], samples=6)
    views = {view: {**batch, "input": batch["input"].flip(3)} for view in parts.objective.views()}
    return {**batch, "views": views} if views else batch


def distiller_of(parts: Parts) -> Distiller:
    return Distiller(
        parts,
        1,
        lambda parameters, _: torch.optim.SGD(parameters, lr=0.1),
        lambda optimizer, *_: (torch.optim.lr_scheduler.ConstantLR(optimizer), "epoch"),
    )


def storages(module: nn.Module) -> set[int]:
    return {value.data_ptr() for value in module.state_dict(keep_vars=True).values() if value.numel()}


def check_refusal(name: str, pair: str, said: str) -> None:
    """One line that names all that a head needs and a network does not offer, else the layers that do not fit."""
    assert "\n" not in said
    if missing := unmet(name, pair):
        assert all(words in said for words in missing)
    else:
        assert any(layer in said for side in taps(pair) for layer in side.stages)


@each_cell
def test_a_head_takes_a_step_or_says_why_not(name: str, pair: str) -> None:
    try:
        parts = put_together(name, pair)
    except ValueError as error:
        check_refusal(name, pair, str(error))
        return

    assert not unmet(name, pair)
    distiller = distiller_of(parts).train()
    (teacher,) = parts.mode.teachers
    (head,) = (placed.head for placed in parts.objective.placed(name))
    lessons = parts.mode(batch_for(parts, pair), Progress())
    value, terms = parts.objective(lessons, Counts(6.0, 6.0), Progress())
    value.backward()
    if fitted := {parameter for part in head.prepared() for parameter in part.parameters()}:
        assert not any(parameter.grad is not None for parameter in fitted)  # these learn in a phase of their own
        parts.objective(lessons, Counts(6.0, 6.0), Progress(), task_weight=0.0, prepare=True)[0].backward()
    parts.mode.close()

    assert value.isfinite()
    assert terms.isfinite().all()
    learned = [parameter for parameter in head.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for parameter in learned)
    assert len(learned) == len(list(head.parameters())) or "fixed" in sys.modules[type(head).__module__].__doc__
    assert any(parameter.grad is not None for parameter in parts.mode.learners.parameters())
    ((optimizer,), _) = distiller.configure_optimizers()
    trained = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    assert trained == {parameter for parameter in distiller.parameters() if parameter.requires_grad}
    assert trained.issuperset(learned)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.network.parameters())
    assert not storages(teacher.network) & storages(distiller)


def test_most_heads_can_compare_most_networks() -> None:
    refused = []
    for name, pair in product(HEADS, PAIRS):
        try:
            put_together(name, pair).mode.close()
        except ValueError:
            refused.append((name, pair))
    assert len(HEADS) >= 35
    assert len(refused) <= 0.06 * len(HEADS) * len(PAIRS)
    assert {pair for _, pair in refused} <= {"vit from resnet", "resnet from vit"}


@pytest.mark.parametrize("name", HEADS)
def test_what_a_head_learns_moves_in_every_parameter(name: str) -> None:
    parts = put_together(name, "narrow from wide")
    (head,) = (placed.head for placed in parts.objective.placed(name))
    lessons = parts.mode(batch_for(parts, "narrow from wide"), Progress())
    for prepare in (True, False) if head.prepared() else (False,):
        parts.objective(lessons, Counts(6.0, 6.0), Progress(), task_weight=0.0, prepare=prepare)[0].backward()
    parts.mode.close()
    still = [each for each, value in head.named_parameters() if value.requires_grad and not value.grad.abs().max() > 0]
    assert not still
