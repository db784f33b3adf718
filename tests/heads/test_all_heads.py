"""Every head of the catalogue on pairs of networks of every kind: put together, one step forward and back.

Heads are those of conf/loss; the few pairs that one cannot compare are listed in `support.impossible`.
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
from kdlab.config.schema import LossConfig, RunConfig
from kdlab.core.knowledge import Batch, Progress
from kdlab.heads.head import Head
from kdlab.run.builder import assemble, example_batch, make_terms
from kdlab.training.distiller import Distiller
from kdlab.training.objective import Counts
from kdlab.training.setup import Parts
from support.impossible import TRANSFORMER_PAIRS, TRANSFORMERS

HEADS = groups()["loss"]
PAIRS = {  # the student, from the teacher
    "narrow from wide": ["model=resnet8", "model.width=0.5", "teacher=resnet8"],
    "vgg from resnet": ["model=vgg8", "model.width=0.25", "teacher=resnet8"],
    "vit from resnet": ["model=tiny_vit", "teacher=resnet8"],
    "resnet from vit": ["model=resnet8", "teacher=tiny_vit"],
    "vit from vit": ["model=tiny_vit", "teacher=tiny_vit"],
}
NARROW = {"minilmv2": ["loss.heads.minilmv2.relation_heads=4"]}
"""Settings for networks as narrow as these."""
CONF = Path(__file__).parents[1] / "support" / "conf"

SECOND = Progress(epoch=1, step=1, epochs=2, steps=2)
"""The second of two epochs: in the first, a loss whose ramp starts from zero is silent."""

each_cell = pytest.mark.parametrize(("name", "pair"), list(product(HEADS, PAIRS)))


@cache
def networks(pair: str) -> RunConfig:
    return compose([*PAIRS[pair], "data.size=16", "data.classes=3"], [CONF])


@cache
def loss(name: str) -> LossConfig:
    return compose([f"loss={name}", *NARROW.get(name, [])]).loss


def head_of(name: str) -> Head:
    (term,) = make_terms(loss(name).heads)
    return term.make()


def put_together(name: str, pair: str) -> Parts:
    config = networks(pair)
    views = {view: {} for view in head_of(name).needs().views}
    torch.manual_seed(0)
    return assemble(config.replace(loss=loss(name), data=config.data.replace(views=views)))


def batch_for(parts: Parts, pair: str) -> Batch:
    batch = example_batch(networks(pair), samples=6)
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


@each_cell
def test_a_head_takes_a_step_or_says_why_not(name: str, pair: str) -> None:
    if words := TRANSFORMER_PAIRS.get((name, pair)):
        with pytest.raises(ValueError, match=words) as refused:
            put_together(name, pair)
        assert "\n" not in str(refused.value)
        return

    parts = put_together(name, pair)
    distiller = distiller_of(parts).train()
    (teacher,) = parts.mode.teachers
    (head,) = (placed.head for placed in parts.objective.placed(name))
    lessons = parts.mode(batch_for(parts, pair), SECOND)
    value, terms = parts.objective(lessons, Counts(6.0, 6.0), SECOND)
    value.backward()
    if fitted := {parameter for part in head.prepared() for parameter in part.parameters()}:
        assert not any(parameter.grad is not None for parameter in fitted)  # these learn in a phase of their own
        parts.objective(lessons, Counts(6.0, 6.0), SECOND, task_weight=0.0, prepare=True)[0].backward()
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


def test_the_table_of_refusals_names_losses_and_pairs_that_exist() -> None:
    assert len(HEADS) >= 35
    assert set(product(HEADS, PAIRS)) > TRANSFORMER_PAIRS.keys()


@pytest.mark.parametrize("name", HEADS)
def test_what_a_head_learns_moves_in_every_parameter(name: str) -> None:
    pair = "vit from vit" if name in TRANSFORMERS else "narrow from wide"
    parts = put_together(name, pair)
    (head,) = (placed.head for placed in parts.objective.placed(name))
    lessons = parts.mode(batch_for(parts, pair), SECOND)
    for prepare in (True, False) if head.prepared() else (False,):
        parts.objective(lessons, Counts(6.0, 6.0), SECOND, task_weight=0.0, prepare=prepare)[0].backward()
    parts.mode.close()
    still = [each for each, value in head.named_parameters() if value.requires_grad and not value.grad.abs().max() > 0]
    assert not still
