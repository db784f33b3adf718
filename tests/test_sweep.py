"""A study ends with every trial accounted for, whatever is killed, by however many workers, in either storage."""

import json
import os
import signal
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from optuna.trial import TrialState

from kdlab.study.spec import curve_of
from kdlab.study.spec_file import read_plan
from kdlab.study.wandb_summary import publish
from support.study_command import STUDY, Command, accounted


def test_a_trial_whose_process_is_killed_is_marked_failed_and_done_again(tmp_path):
    study = Command(tmp_path)
    said = study.run("workers=2", DIE="2")
    trials = study.trials()
    accounted(trials, 6)
    failed = trials[2]
    again = next(trial for trial in trials if trial.user_attrs.get("retry_of") == 2)
    assert failed.user_attrs["reason"] == "its process was killed by SIGKILL, perhaps out of memory"
    assert again.params == failed.params
    assert again.user_attrs["retries"] == 1
    assert study.executed()["2"] == 1
    assert "study 2: failed, its process was killed" in said


def test_a_trial_that_keeps_failing_is_given_up_and_the_study_goes_on(tmp_path):
    study = Command(tmp_path)
    process = study.start("workers=2", "retries=0", RAISE="1")
    process.communicate(timeout=60)
    trials = study.trials()
    assert [trial.state for trial in trials].count(TrialState.COMPLETE) == 5
    assert trials[1].state == TrialState.FAIL
    assert trials[1].user_attrs["reason"] == "RuntimeError: no good"
    assert "no good" in (study.home / trials[1].user_attrs["folder"] / "output.log").read_text()
    assert len(trials) == 6


def test_a_trial_that_hangs_is_killed(tmp_path):
    study = Command(tmp_path)
    study.run("workers=2", "hang_seconds=1", HANG="3")
    trials = study.trials()
    accounted(trials, 6)
    assert trials[3].user_attrs["reason"] == "hung: it showed no sign of life for 1 s"


def test_two_runs_with_one_worker_and_one_seed_give_the_same_trials(tmp_path):
    both = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        study = Command(tmp_path / name, budget={"trials": 14})
        study.run()
        both.append([(trial.params, trial.values, curve_of(trial)) for trial in study.trials()])
    assert both[0] == both[1]
    assert len({str(params) for params, _, _ in both[0]}) == 14
    assert both[0][0][0] == {"loss.temperature": 4.0, "loss.alpha": 0.9}


def test_one_of_two_commands_is_killed_and_the_other_does_its_trials(tmp_path):
    study = Command(tmp_path)
    doomed = study.start("workers=2", SECONDS="30")
    study.wait_for(lambda: len(study.executed()) == 2)
    doomed.kill()
    doomed.communicate()
    study.run("workers=2")
    trials = study.trials()
    accounted(trials, 6)
    lost = [trial for trial in trials if trial.user_attrs.get("reason", "").startswith("its worker is gone")]
    assert [trial.number for trial in lost] == [0, 1]
    repeated = [trial for trial in trials if "retry_of" in trial.user_attrs]
    assert [trial.params for trial in repeated] == [trial.params for trial in lost]
    assert all(trial.user_attrs["retries"] == 0 for trial in repeated)


def test_ctrl_c_stops_a_study_and_the_same_command_goes_on(tmp_path):
    study = Command(tmp_path)
    process = study.start("workers=2", SECONDS="30")
    study.wait_for(lambda: len(study.executed()) == 2)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=20)[0]
    assert process.returncode == 130
    assert "the same command resumes the study" in said
    states = [trial.state for trial in study.trials()]
    assert states.count(TrialState.WAITING) == states.count(TrialState.FAIL) == 2
    study.run("workers=2")
    accounted(study.trials(), 6)


def test_no_process_of_a_killed_study_lives_on(tmp_path):
    study = Command(tmp_path)
    process = study.start("workers=2", SECONDS="60")
    study.wait_for(lambda: len(study.executed()) == 2)
    process.kill()
    process.communicate()
    study.wait_for(lambda: not _group_lives(process.pid), seconds=10)


def _group_lives(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_time_budget_ends_a_study_which_then_goes_on(tmp_path):
    study = Command(tmp_path)
    study.run("budget.seconds=1", SECONDS="0.8")
    assert 1 <= len(study.trials()) < 6
    study.run()
    accounted(study.trials(), 6)


def test_a_study_goes_on_with_a_larger_budget_and_not_with_another_space(tmp_path):
    study = Command(tmp_path)
    study.run("budget.trials=2")
    said = study.run("space.loss.alpha={low: 0.5, high: 1.0}", code=2)
    assert said.startswith("kdlab: space: the study study was started with another value")
    assert said.count("\n") == 1
    study.run("budget.trials=4")
    accounted(study.trials(), 4)


def test_a_study_goes_on_with_its_config_files_as_they_were_wherever_they_are(tmp_path):
    def config(folder, weight):
        file = tmp_path / folder / "loss" / "own.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        kd = Path(__file__).parents[1] / "conf" / "loss" / "kd.yaml"
        file.write_text(f"{kd.read_text()}# {weight}\n")
        return ["--config-dir", folder]

    study = Command(tmp_path)
    study.run("budget.trials=1", *config("mine", 1))
    said = study.run("budget.trials=2", *config("mine", 50), code=2)
    assert said == (
        "kdlab: --config-dir: loss/own.yaml changed since the study study was started; give this one another name, "
        "name=NAME\n"
    )
    assert study.run("budget.trials=2", code=2).startswith("kdlab: --config-dir: loss/own.yaml is missing since")
    study.run("budget.trials=2", *config("renamed", 1))
    accounted(study.trials(), 2)


def test_a_trial_that_breaks_a_constraint_is_not_trained(tmp_path):
    space = {**STUDY["space"], "model.width": {"choices": [0.2, 0.4]}}
    study = Command(tmp_path, space=space, constraints=["student.parameters <= 300"], budget={"trials": 12})
    study.run()
    trials = study.trials()
    for trial in trials:
        wide = trial.params["model.width"] == 0.4
        assert trial.state == (TrialState.PRUNED if wide else TrialState.COMPLETE)
        assert len(curve_of(trial)) == (0 if wide else 4)
        assert trial.constraints["student.parameters <= 300"] == pytest.approx((1 / 3) if wide else (-1 / 3))
    assert {trial.state for trial in trials} == {TrialState.PRUNED, TrialState.COMPLETE}


def test_where_no_trial_keeps_the_constraints_that_is_said(tmp_path):
    study = Command(tmp_path, constraints=["validation.accuracy >= 2"], budget={"trials": 1}, final={"seeds": 2})
    assert "No finished trial meets the constraints" in study.run()


def test_compared_options_get_the_same_number_of_trials_each_in_its_own_space(tmp_path):
    study = Command(tmp_path, compare={"loss": ["kd", "dkd"]}, space={}, budget={"trials": 3}, final={"seeds": 2})
    said = study.run()
    own = {"kd": "loss.heads.kd.weight", "dkd": "loss.heads.dkd.nontarget_weight"}
    for option, key in own.items():
        trials = study.trials(name=f"study/{option}")
        accounted(trials, 3)
        assert all(key in trial.params for trial in trials)
        assert trials[0].params["loss.temperature"] == 4.0
    final = json.loads((study.home / "final.json").read_text())
    assert [(found["setting"], found["against"]) for found in final["comparisons"]] == [
        ("kd", "kd default"),
        ("dkd", "dkd default"),
    ]
    assert said.index("study/dkd 0") < said.index("study/kd 2")


def test_refits_are_tested_with_seeds_that_no_trial_had(tmp_path):
    study = Command(tmp_path, budget={"trials": 12}, final={"seeds": 3})
    said = study.run("workers=2")
    final = json.loads((study.home / "final.json").read_text())
    best = max(study.trials(), key=lambda trial: trial.value)
    assert final["seeds"] == [1, 2, 3]
    assert [setting["name"] for setting in final["settings"]] == ["default", "best"]
    assert final["settings"][1]["params"] == best.params
    away = abs(best.params["loss.temperature"] - 4)
    assert final["settings"][1]["test"]["accuracy"] == pytest.approx([1 - 0.01 * away + 0.001 * s for s in (1, 2, 3)])
    assert final["comparisons"][0]["mean"] == pytest.approx(-0.01 * away)
    assert "best is worse than default" in said


def test_a_refit_that_failed_is_tried_again_by_the_same_command(tmp_path):
    study = Command(tmp_path, final={"seeds": 2})
    said = study.run(code=1, FULL="best-seed2")
    tried = [trial.user_attrs["reason"] for trial in study.trials(name="study/final") if trial.state == TrialState.FAIL]
    assert tried == ["OSError: disk full"] * 2
    assert "best: left out, because not every seed finished" in said
    assert "accuracy on test over seeds [1, 2]" in said
    said = study.run()
    assert "not every seed" not in said
    refits = study.trials(name="study/final")
    states = [trial.state for trial in refits]
    assert (states.count(TrialState.COMPLETE), states.count(TrialState.FAIL)) == (4, 2)
    final = json.loads((study.home / "final.json").read_text())
    assert len(final["comparisons"]) == 1
    study.run()
    assert len(study.trials(name="study/final")) == len(refits)


def test_refits_that_are_missing_leave_the_other_comparisons(tmp_path):
    changes = {"compare": {"loss": ["kd", "dkd", "dist"]}, "space": {}, "final": {"seeds": 2, "default": False}}
    study = Command(tmp_path, budget={"trials": 2}, retries=0, **changes)
    said = study.run(code=1, FULL="dist-seed1")
    final = json.loads((study.home / "final.json").read_text())
    assert [(one["setting"], one["against"]) for one in final["comparisons"]] == [("dkd", "kd")]
    assert "dkd is better than kd: accuracy on test" in said
    assert "dist: left out, because not every seed finished" in said


def test_a_study_that_could_not_be_prepared_has_not_begun(tmp_path):
    study = Command(tmp_path)
    said = study.run("space={loss.temperature: {low: 1.0, high: 16.0}}", code=2, UNPREPARED="yes")
    assert said == "kdlab: teacher: it cannot be trained\n"
    objectives = "objectives={validation.accuracy: maximize, student.parameters: minimize}"
    study.run(objectives)
    accounted(study.trials(), 6)
    assert "space" in study.run("space={loss.temperature: {low: 1.0, high: 16.0}}", objectives, code=2)


# ---- a server


@pytest.mark.timeout(30)
def test_what_a_study_on_postgresql_came_to_is_published_once(tmp_path, postgres, monkeypatch):
    study = Command(tmp_path, budget={"trials": 2}, storage=postgres)
    study.run()
    monkeypatch.chdir(tmp_path)
    boards = []

    @contextmanager
    def board(folder, settings, config, **about):
        boards.append(about["job"])
        yield SimpleNamespace(experiment=SimpleNamespace(log=lambda figures: None)), {}

    monkeypatch.setattr("kdlab.study.wandb_summary.wandb_run", board)
    plan = read_plan(tmp_path / "study.yaml")
    for _ in range(2):
        assert publish(plan, {"tags": []}, None) == {"finished": 2}
    assert boards == ["study"]


# ---- minutes rather than seconds


@pytest.mark.slow
def test_eight_commands_on_one_journal_neither_lose_nor_double_a_trial(tmp_path):
    share(Command(tmp_path, budget={"trials": 200}))


@pytest.mark.slow
def test_eight_commands_on_one_postgresql_neither_lose_nor_double_a_trial(tmp_path, postgres):
    share(Command(tmp_path, budget={"trials": 200}, storage=postgres), postgres)
    assert "secret" not in (tmp_path / "runs" / "study" / "study.yaml").read_text()


def share(study, storage=None):
    processes = [study.start() for _ in range(8)]
    for process in processes:
        said = process.communicate(timeout=280)[0]
        assert process.returncode == 0, said
    trials = study.trials(storage)
    accounted(trials, 200)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 200
    assert study.executed() == {str(number): 1 for number in range(200)}
    assert len({trial.user_attrs["worker"] for trial in trials}) == 8


@pytest.mark.slow
def test_eight_commands_some_of_which_are_killed_neither_lose_nor_double_a_trial(tmp_path, postgres):
    study = Command(tmp_path, budget={"trials": 60}, storage=postgres)
    processes = [study.start(SECONDS="0.5") for _ in range(8)]
    for count, process in zip((10, 20, 30), processes, strict=False):
        study.wait_for(lambda count=count: sum(study.executed().values()) >= count, seconds=150)
        process.kill()
    for process in processes:
        process.communicate(timeout=280)
    trials = study.trials(postgres)
    accounted(trials, 60)
    assert sum(study.executed().values()) == len(trials)
