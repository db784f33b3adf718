"""A trial stops where a finished one that costs no more was ahead of it."""

import optuna
import pytest
from optuna.trial import TrialState

from kdlab.study.pruner import DominatedPruner, TrialCurve, dominated
from support.written_runs import finished_study as finished

RULES = {"grace": 0.5, "margin": 0.0, "patience": 1}


def course(*curve, epochs=4, costs=(10.0,)):
    return TrialCurve(curve, epochs, costs)


GOOD = course(0.5, 0.7, 0.8, 0.9)


@pytest.mark.parametrize(
    ("case", "trial", "stops"),
    [
        ("worse, and no smaller", course(0.4, 0.6, 0.7), True),
        ("worse, but smaller", course(0.4, 0.6, 0.7, costs=(9.0,)), False),
        ("worse, and bigger", course(0.4, 0.6, 0.7, costs=(11.0,)), True),
        ("level is not worse", course(0.5, 0.7, 0.8), False),
        ("a dip counts for nothing: the best so far is compared", course(0.5, 0.85, 0.6), False),
        ("within the grace", course(0.1, 0.1), False),
        ("at its last epoch it has cost all that it will", course(0.1, 0.1, 0.1, 0.1), False),
        ("the same share of a schedule of another length", course(*[0.1] * 5, epochs=8), True),
    ],
)
def test_a_trial_is_dominated_by_one_that_is_ahead_and_no_bigger(case, trial, stops):
    assert dominated(trial, [GOOD], **RULES) is stops, case


def test_the_share_of_a_schedule_is_an_epoch_whatever_rounding_makes_of_it():
    hundred = course(*range(1, 101), epochs=100)
    assert 7 / 100 * 100 > 7
    assert [hundred.at(epoch / 100) for epoch in (1, 7, 100)] == [1, 7, 100]


def test_a_late_jump_is_safe_within_the_grace():
    stepped = course(0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.9, 0.9, epochs=8)
    flat = course(*[0.5] * 8, epochs=8)
    ends = {grace: [done for done in range(1, 9) if dominated(course(*stepped.curve[:done], epochs=8), [flat],
                                                              grace=grace, margin=0.0, patience=1)]
            for grace in (0.25, 0.75)}  # fmt: skip
    assert ends == {0.25: [3, 4, 5, 6], 0.75: []}


def test_a_margin_and_patience_make_it_hold_back():
    trial = course(0.4, 0.6, 0.78)
    assert dominated(trial, [GOOD], **RULES)
    assert not dominated(trial, [GOOD], **{**RULES, "margin": 0.03})
    assert not dominated(trial, [GOOD], **{**RULES, "patience": 2})
    assert dominated(trial, [GOOD], **{**RULES, "grace": 0.25, "patience": 2})


def test_each_known_cost_counts():
    two = course(0.5, 0.7, 0.8, 0.9, costs=(10.0, 5.0))
    assert dominated(course(0.1, 0.1, 0.1, costs=(10.0, 5.0)), [two], **RULES)
    assert not dominated(course(0.1, 0.1, 0.1, costs=(20.0, 4.0)), [two], **RULES)


def running(study, cost, *curve, epochs=4):
    trial = study.ask()
    trial.set_user_attr("metrics", {"student.multiply_accumulates": cost})
    trial.set_user_attr("epochs", epochs)
    for done, value in enumerate(curve, 1):
        trial.set_user_attr(f"curve/{done}", value)
    return study.trials[-1]


def test_the_pruner_reads_a_study_with_several_objectives():
    study = finished((10.0, GOOD.curve))
    pruner = DominatedPruner(grace=0.5, margin=0.0)
    assert pruner.prune(study, running(study, 12.0, 0.1, 0.2, 0.3))
    assert not pruner.prune(study, running(study, 8.0, 0.1, 0.2, 0.3))
    assert not pruner.prune(study, running(study, 12.0))


def test_where_less_is_better_the_pruner_stops_what_has_more():
    study = finished((10.0, (3.0, 2.0, 1.0, 0.5)), metric="validation.cross_entropy", direction="minimize")
    pruner = DominatedPruner(grace=0.5, margin=0.0)
    assert pruner.prune(study, running(study, 10.0, 4.0, 3.0, 2.0))
    assert not pruner.prune(study, running(study, 10.0, 2.0, 1.0, 0.9))


def test_an_infeasible_trial_dominates_nothing():
    for violation, pruned in ((-0.5, True), (0.5, False)):
        study = finished((10.0, GOOD.curve, violation))
        assert DominatedPruner(margin=0.0).prune(study, running(study, 12.0, 0.1, 0.2, 0.3)) is pruned


def test_optunas_sampler_goes_on_beside_pruned_trials_of_several_objectives():
    study = finished((10.0, GOOD.curve))
    study.sampler = optuna.samplers.TPESampler(n_startup_trials=1, seed=0)
    pruned = running(study, 12.0, 0.1, 0.2, 0.3)
    study.tell(pruned.number, state=TrialState.PRUNED)
    assert 0 <= study.ask({"x": optuna.distributions.FloatDistribution(0, 1)}).params["x"] <= 1
