"""Phases: what the losses propose, what the user writes, and which one an epoch belongs to."""

import pytest

from kdlab.config.schema import HeadConfig
from kdlab.core.errors import UsageError
from kdlab.training.phases import Phase, plan


def heads(**settings):
    return {name: HeadConfig(_target_=name, **own) for name, own in settings.items()}


def test_without_proposals_a_run_is_one_phase_of_all_its_heads():
    assert plan(30, heads(kd={}, crd={})) == (Phase(epochs=30, heads=("kd", "crd")),)
    assert plan(30, {}) == (Phase(epochs=30, heads=()),)


def test_a_head_that_is_fitted_first_stays_for_the_main_phase():
    ft = {"first": {"epochs": 3, "prepare": True, "train": "head", "stays": True}}
    assert plan(10, heads(kd={}, ft=ft)) == (
        Phase(epochs=3, heads=("ft",), task_weight=0.0, train="head", prepare=True),
        Phase(epochs=10, heads=("kd", "ft")),
    )


def test_a_head_that_trains_the_body_first_is_gone_from_the_main_phase():
    ab = {"first": {"epochs": 3, "train": "body", "stays": False, "task_weight": 0.0}}
    assert plan(10, heads(kd={}, ab=ab)) == (
        Phase(epochs=3, heads=("ab",), task_weight=0.0, train="body"),
        Phase(epochs=10, heads=("kd",)),
    )


def test_what_the_user_writes_wins():
    ab = {"first": {"epochs": 3, "train": "body"}}
    written = [Phase(epochs=1, heads=["ab"], task_weight=0.5), Phase(epochs=2, heads=[])]
    assert plan(10, heads(ab=ab), written) == (
        Phase(epochs=1, heads=("ab",), task_weight=0.5),
        Phase(epochs=2, heads=()),
    )


def test_a_phase_of_a_loss_that_was_not_chosen_is_refused():
    with pytest.raises(UsageError, match=r"^phases\.0\.heads=kdd: not a chosen loss; did you mean kd\?$"):
        plan(10, heads(kd={}), [Phase(epochs=3, heads=["kdd"])])
