"""A replay counts what pruning would have saved and lost in a study that did not prune."""

from kdlab.study.pruner import DominatedPruner
from kdlab.tools.replay_pruner import Replay, front, main, replay, summary
from support.written_runs import OBJECTIVES, WrittenStudy
from support.written_runs import finished_study as finished


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
        "kd: 100 complete trials in 2 random orders: compute saved 40% on average, at least 30%; of 4 points of "
        "the front 1.00 lost on average, 2 at the most, the worst of them 0.01 better than what was left"
    )


def test_what_is_no_study_is_refused_in_one_line(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
