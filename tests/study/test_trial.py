"""A trial is a run of `kdlab.train` that never sees the test part; a study of them ends whatever becomes of one."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from optuna.trial import TrialState

from kdlab.core.errors import UsageError
from kdlab.data.dataset import Data
from kdlab.run.derive import drop_unused
from kdlab.run.execute import run
from kdlab.run.store import Store
from kdlab.study.process_pool import Assignment, DivergedTrialError, Epoch, Known
from kdlab.study.search_space import written
from kdlab.study.spec import curve_of
from kdlab.study.spec_file import make_plan
from kdlab.study.storage import stored
from kdlab.study.trial import Distillation
from support.study_command import Command, accounted

SWEEP = [sys.executable, "-m", "kdlab.sweep"]
SMALL = [
    "model=resnet8", "model.width=0.25", "teacher=resnet8", "teacher.model.width=0.25", "teacher.trainer.max_epochs=1",
    "loss=kd", "logger=csv", "trainer.max_epochs=2", "trainer.progress=false", "data.subset=256",
]  # fmt: skip
STUDY = {
    "name": "small",
    "overrides": SMALL,
    "space": {"loss.temperature": {"low": 1.0, "high": 8.0}, "model.width": {"choices": [0.25, 0.5]}},
    "objectives": {"validation.accuracy": "maximize", "student.multiply_accumulates": "minimize"},
}


class Told:
    """A line whose other end says stop after so many reports. `waits`: how often it was told of a wait."""

    def __init__(self, patience=99):
        self.patience, self.messages, self.waits = patience, [], 0

    def stop(self, message):
        self.messages.append(message)
        return len(self.messages) >= self.patience

    def waiting(self):
        self.waits += 1


@pytest.fixture
def trial(tmp_path, monkeypatch):
    """Does one trial of a study, at its published setting, in this process."""
    monkeypatch.setenv("KDLAB_HOME", str(tmp_path / "home"))
    threads = torch.get_num_threads()

    def do(line, folder="trial", do=Distillation.trial, **changes):
        plan = make_plan({**STUDY, **changes})
        work = Distillation()
        work.prepare(plan)
        assignment = Assignment("small-0000", _published(plan), tmp_path / folder, 0)
        assignment.folder.mkdir()
        return do(work, line, plan, assignment)

    monkeypatch.chdir(tmp_path)
    yield do
    torch.set_num_threads(threads)


def _published(plan):
    return [*plan.arms[0].overrides, *written(plan.arms[0].default)]


def test_a_trial_has_the_numbers_of_the_run_that_it_is(trial, tmp_path):
    line = Told()
    found = trial(line)
    config = drop_unused(make_plan(STUDY).compose(_published(make_plan(STUDY))))
    outcome = run(config.replace(alone=False), folder=tmp_path / "trial" / "..")
    student = outcome.result["student"]
    assert found["validation.accuracy"] == student["validation"]["last"]
    assert found["student.parameters"] == student["parameters"]
    assert found["student.multiply_accumulates"] == student["multiply_accumulates"]
    assert found["student.bytes"] == student["bytes"]
    known, *epochs = line.messages
    assert known == Known({key: found[key] for key in known.metrics}, 2)
    assert [message.done for message in epochs] == [1, 2]
    assert epochs[-1] == Epoch(2, found["validation.accuracy"])


def test_a_trial_never_asks_for_the_test_part_and_keeps_no_weights(trial, tmp_path, monkeypatch):
    loader = Data.eval_loader

    def guarded(self, part, *arguments, **given):
        assert part == "validation"
        return loader(self, part, *arguments, **given)

    trial(Told(), folder="first")  # its teacher is tested, once, as every network of the store
    monkeypatch.setattr(Data, "eval_loader", guarded)
    trial(Told(), folder="second")
    assert sorted(file.name for file in (tmp_path / "second").rglob("*")) == ["config.yaml", "metrics.csv"]


def test_a_trial_stops_before_training_or_after_an_epoch_where_it_is_told_to(trial):
    never, one = Told(1), Told(2)
    assert "validation.accuracy" not in trial(never, folder="never")
    assert len(never.messages) == 1
    assert trial(one, folder="one")["validation.accuracy"] == one.messages[1].value
    assert len(one.messages) == 2


def test_the_value_is_the_mean_over_seeds_and_the_curve_the_firsts(trial):
    line, alone = Told(), [Told(), Told()]
    found = trial(line, seeds=2)
    each = [
        trial(alone[seed], folder=f"seed{seed}", overrides=[*SMALL, f"seed={seed}"])["validation.accuracy"]
        for seed in (0, 1)
    ]
    assert each[0] != each[1]
    assert found["validation.accuracy"] == pytest.approx(sum(each) / 2)
    assert line.messages == alone[0].messages


def test_a_trial_whose_loss_is_no_number_is_a_result(trial):
    with pytest.raises(DivergedTrialError, match="became NaN or infinite"):
        trial(Told(), overrides=[*SMALL, "optimizer.lr=1e12"])


def test_a_trial_and_a_refit_that_wait_for_anothers_network_show_that_they_live(trial, tmp_path, monkeypatch):
    asked, line = Store.get, Told()
    monkeypatch.setattr(Store, "get", lambda store, *given: store._waiting() or asked(store, *given))
    trial(line)
    assert line.waits == 1  # for its teacher

    def run(config, folder, store):
        store.get({"alone": 1}, lambda: ({}, {}))
        raise KeyboardInterrupt

    monkeypatch.setattr("kdlab.study.trial.run", run)
    with pytest.raises(KeyboardInterrupt):
        trial(line, folder="refit", do=Distillation.refit)
    assert line.waits == 2


def test_a_metric_that_no_run_writes_and_a_run_that_cannot_be_are_refused():
    work = Distillation()
    with pytest.raises(UsageError, match=r"no run writes validation.acuracy; did you mean validation.accuracy"):
        work.check(make_plan({**STUDY, "objectives": {"validation.acuracy": "maximize"}}))
    with pytest.raises(UsageError, match=r"compare mlkd: .*strong"):
        work.check(make_plan({**STUDY, "space": {}, "compare": {"loss": ["kd", "mlkd"]}}))


# ---- minutes rather than seconds


@pytest.mark.slow
def test_a_study_on_digits_with_two_workers_of_which_one_is_killed(tmp_path):
    study = Command(tmp_path, **{**STUDY, "name": "study", "budget": {"trials": 6}, "final": {"seeds": 2}})
    process = study.start("workers=2", "trainer.max_epochs=6", command=SWEEP)
    study.wait_for(lambda: len(list((study.home / "trials").glob("*/metrics.csv"))) == 2)
    os.kill(_children(process.pid)[0], signal.SIGKILL)
    said = process.communicate(timeout=250)[0]
    assert process.returncode == 0, said
    found = study.trials()
    accounted(found, 6)
    failed = [trial for trial in found if trial.state == TrialState.FAIL]
    assert [trial.user_attrs["reason"][:36] for trial in failed] == ["its process was killed by SIGKILL, p"]
    assert all(len(curve_of(trial)) == 6 for trial in found if trial.state == TrialState.COMPLETE)
    final = json.loads((study.home / "final.json").read_text())
    assert all(len(setting["test"]["accuracy"]) == 2 for setting in final["settings"])
    assert all((study.home / folder / "result.json").is_file() for s in final["settings"] for folder in s["folders"])


def _children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.parametrize(("logger", "share"), [("csv", 1 / 5), ("wandb", 1 / 3)])
def test_a_trial_costs_little_beside_its_training_steps(logger, share, tmp_path, capsys):
    # A study of trials with hardly a validation sample, so that steps are all that takes long; and the same run
    # once by a python of its own.
    changes = {**STUDY, "name": "study", "budget": {"trials": 8}, "final": {"seeds": 0}}
    study = Command(tmp_path, **changes)
    given = ["data.validation=20", "data.subset=null", "trainer.max_epochs=3", f"logger={logger}"]
    study.run("budget.trials=1", *given, command=SWEEP, WANDB_MODE="offline")  # trains the teacher
    study.run(*given, command=SWEEP, WANDB_MODE="offline")
    found = study.trials()[1:]
    seconds = (found[-1].datetime_complete - found[0].datetime_start).total_seconds()
    overhead = (seconds - sum(trial.user_attrs["metrics"]["student.seconds"] for trial in found)) / len(found)

    start = time.perf_counter()
    process = study.launch(
        sys.executable, "-m", "kdlab.train", "alone=false", "runs=fresh", *SMALL, *given, WANDB_MODE="offline"
    )
    said = process.communicate(timeout=100)[0]
    assert process.returncode == 0, said
    [result] = (tmp_path / "fresh").glob("*/result.json")
    fresh = time.perf_counter() - start - json.loads(result.read_text())["student"]["seconds"]
    with capsys.disabled():
        print(f"\n{logger}: a trial takes {overhead:.2f} s beside its steps, {fresh:.2f} s by a python of its own")
    assert overhead < fresh * share


@pytest.mark.slow
def test_w_and_b_has_a_run_for_each_trial_with_tags_and_one_for_the_study(tmp_path):
    changes = {**STUDY, "name": "study", "budget": {"trials": 5}, "final": {"seeds": 1},
               "pruner": {"_target_": "kdlab.study.pruner.DominatedPruner", "grace": 0.0, "margin": 0.0}}  # fmt: skip
    study = Command(tmp_path, **changes)
    study.run("logger=wandb", "trainer.max_epochs=4", command=SWEEP, WANDB_MODE="offline")
    found = [_wandb(file) for file in sorted(study.home.rglob("offline-run-*/*.wandb"))]
    assert {board.run_group for board, _ in found} == {"study"}
    tags = {}
    for board, _ in found:
        tags.setdefault((board.job_type, board.display_name), set()).update(board.tags)
    with stored(study.home) as studies:
        trials = studies[0].trials
    states = {f"study-{trial.number:04d}": trial.state for trial in trials}
    own = {name: these for (job, name), these in tags.items() if job == "trial"}
    assert own.keys() == states.keys()
    assert {name for name, these in own.items() if "pruned" in these} == {
        name for name, state in states.items() if state == TrialState.PRUNED
    }
    best = max((t for t in trials if t.state == TrialState.COMPLETE), key=lambda trial: trial.values[0])
    assert {name for name, these in own.items() if "best" in these} == {f"study-{best.number:04d}"}
    [summary] = [summary for board, summary in found if board.job_type == "study"]
    assert summary["trials/complete"] + summary["trials/pruned"] == 5
    assert summary["best/study/loss.temperature"] == best.params["loss.temperature"]


def _wandb(file):
    """The run and the summary of an offline W&B file: protocol buffers in LevelDB's log format, in blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record

    raw, place, record, board, summary = file.read_bytes(), 7, b"", None, {}
    while place + 7 <= len(raw):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = int.from_bytes(raw[place + 4 : place + 6], "little"), raw[place + 6]
        record += raw[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            read = Record.FromString(record)
            record = b""
            if read.WhichOneof("record_type") == "run":
                board = read.run
            for update in read.summary.update:
                summary[update.key or ".".join(update.nested_key)] = json.loads(update.value_json)
    return board, summary
