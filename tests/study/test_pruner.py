"""A trial stops where a finished one that costs no more was ahead of it; a replay counts what that saves and loses."""

import optuna
import pytest
from optuna.trial import TrialState

from kdlab.study.pruner import DominatedPruner, TrialCurve, dominated
from kdlab.tools.replay_pruner import Replay, front, main, replay, summary
from support.written_runs import WrittenStudy

RULES = {"grace": 0.5, "margin": 0.0, "patience": 1}
OBJECTIVES = [["validation.accuracy", "maximize"], ["student.multiply_accumulates", "minimize"]]


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


def finished(*curves, metric="validation.accuracy", direction="maximize"):
    """Complete trials, each (cost, curve) and perhaps how it breaks a constraint, as a study of ours leaves them."""
    objectives = [[metric, direction], OBJECTIVES[1]]
    study = optuna.create_study(directions=[direction, "minimize"])
    study.set_user_attr("objectives", objectives)
    for cost, curve, *broken in curves:
        trial = study.ask()
        for violation in broken:
            trial.set_constraint("validation.calibration_error <= 0.1", violation)
        trial.set_user_attr("metrics", {"student.multiply_accumulates": cost})
        trial.set_user_attr("epochs", len(curve))
        for done, value in enumerate(curve, 1):
            trial.set_user_attr(f"curve/{done}", value)
        study.tell(trial, [curve[-1], cost])
    return study


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


def test_the_front_is_what_no_other_point_beats():
    assert front([(1, 5), (2, 3), (2, 4), (3, 3), (4, 1), (1, 5)]) == {(1, 5), (2, 3), (4, 1)}


def test_a_replay_counts_compute_and_lost_points():
    steady = [(10.0, (0.5, 0.6, 0.7, 0.8)), (10.0, (0.1, 0.2, 0.3, 0.4))]
    trials = finished(*steady).trials
    # The worse one, if it comes second, is stopped after three of four epochs: an eighth of all is saved.
    found = {seed: replay(trials, OBJECTIVES, DominatedPruner(grace=0.5, margin=0.0), seed) for seed in range(8)}
    assert set(found.values()) == {Replay(0.125, 1, 0, 0.0), Replay(0.0, 1, 0, 0.0)}

    jumping = [*steady, (20.0, (0.1, 0.1, 0.1, 0.95))]  # best of all, by its last epoch
    trials = finished(*jumping).trials
    found = [replay(trials, OBJECTIVES, DominatedPruner(grace=0.5, margin=0.0), seed) for seed in range(8)]
    assert {one.front for one in found} == {2}
    assert {(one.lost, round(one.drop, 6)) for one in found} == {(0, 0.0), (1, 0.15)}
    # Its last epoch is 20 of 160 in all; that of the worse one, where that was stopped too, 10 more.
    assert {one.saved for one in found if one.lost} == {20 / 160, 30 / 160}


def test_in_a_replay_an_infeasible_trial_dominates_nothing_and_is_none_of_the_front():
    for violation, saved in ((-0.5, 0.125), (0.5, 0.0)):
        trials = finished((10.0, (0.5, 0.6, 0.7, 0.8), violation), (10.0, (0.1, 0.2, 0.3, 0.4))).trials
        found = [replay(trials, OBJECTIVES, DominatedPruner(grace=0.5, margin=0.0), seed) for seed in range(8)]
        assert max(one.saved for one in found) == saved
        assert {(one.front, one.lost) for one in found} == {(1, 0)}


def test_a_study_whose_objectives_are_not_all_known_before_training_is_not_replayed(tmp_path, capsys):
    folder = tmp_path / "kd"
    written = WrittenStudy(folder)
    written.add(4.0, 0.2, [0.5, 0.8, 0.90])
    written.study.set_user_attr("objectives", [OBJECTIVES[0], ["student.seconds", "minimize"]])
    assert main([str(folder)]) == 2
    assert capsys.readouterr().err.startswith("kdlab: objectives.student.seconds: ")


def test_the_summary_tells_means_and_the_worst():
    said = summary("kd", 100, [Replay(0.3, 4, 0, 0.0), Replay(0.5, 4, 2, 0.01)])
    assert said == (
        "kd: 100 complete trials in 2 random orders: compute saved 40% on average, 30% at the least; of 4 points of "
        "the front 1.00 lost on average, 2 at the most, the worst of them 0.01 better than what was left"
    )


def test_what_is_no_study_is_refused_in_one_line(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
