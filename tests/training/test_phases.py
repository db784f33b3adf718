"""Phases: what the losses propose, what the user writes, and which one an epoch belongs to."""

import pytest

from kdlab.core.errors import UsageError
from kdlab.training.phases import Phase, at, plan


def test_without_proposals_a_run_is_one_phase_of_all_its_heads():
    assert plan(30, {"kd": {}, "crd": {}}) == (Phase(30, ("kd", "crd")),)
    assert plan(30, {}) == (Phase(30, ()),)


def test_a_head_that_is_fitted_first_stays_for_the_main_phase():
    heads = {"kd": {}, "ft": {"first": {"epochs": 3, "prepare": True, "train": "head", "stays": True}}}
    assert plan(10, heads) == (
        Phase(3, ("ft",), task_weight=0.0, train="head", prepare=True),
        Phase(10, ("kd", "ft")),
    )


def test_a_head_that_trains_the_body_first_is_gone_from_the_main_phase():
    heads = {"kd": {}, "ab": {"first": {"epochs": 3, "train": "body", "stays": False, "task_weight": 0.0}}}
    assert plan(10, heads) == (Phase(3, ("ab",), task_weight=0.0, train="body"), Phase(10, ("kd",)))


def test_what_the_user_writes_wins():
    heads = {"ab": {"first": {"epochs": 3, "train": "body"}}}
    written = [{"epochs": 1, "heads": ["ab"], "task_weight": 0.5}, {"epochs": 2, "heads": []}]
    assert plan(10, heads, written) == (Phase(1, ("ab",), 0.5), Phase(2, ()))


@pytest.mark.parametrize(
    ("phase", "said"),
    [
        ({"epoch": 3}, r"^phases\.0\.epoch: a phase has no such key; did you mean epochs\?$"),
        ({"heads": ["kd"]}, r"^phases\.0: say how long it lasts, epochs=N$"),
        ({"epochs": 3, "heads": ["kdd"]}, r"^phases\.0\.heads=kdd: not a chosen loss; did you mean kd\?$"),
    ],
)
def test_a_wrong_phase_is_refused(phase, said):
    with pytest.raises(UsageError, match=said):
        plan(10, {"kd": {}}, [phase])


def test_an_epoch_belongs_to_the_phase_that_has_begun():
    phases = (Phase(3), Phase(0), Phase(2))
    assert [at(phases, epoch) for epoch in range(6)] == [(0, 0), (0, 0), (0, 0), (2, 3), (2, 3), (2, 3)]
