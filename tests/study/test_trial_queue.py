"""A trial is taken once, finished once, and goes back in the queue once when the worker that had it is gone."""

import os
import subprocess
import sys

import optuna
import pytest
from optuna.trial import TrialState

from kdlab.study.search_space import Dimension
from kdlab.study.storage import open_storage
from kdlab.study.trial_queue import Presence, TrialQueue, identity

SPACE = (Dimension("x", "x", optuna.distributions.FloatDistribution(0.0, 1.0), {}),)
TPE = {"_target_": "optuna.samplers.TPESampler"}


@pytest.fixture
def where(tmp_path):
    return str(tmp_path / "journal.log")


def worker(where, name="study", **given):
    """A queue of a worker of its own."""
    return TrialQueue(open_storage(where), name, ["maximize"], space=SPACE, sampler=TPE, **given)


def gone(where):
    """A queue as a worker left it that took a trial and died."""
    queue = worker(where)
    queue.me = f"{identity().split('/')[0]}/{_dead()}/1"
    return queue


def _dead():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_two_workers_never_take_more_than_the_budget_nor_the_same_trial_nor_the_same_point(where):
    first, second = worker(where), worker(where)
    taken = [queue.take(4) for queue in (first, second, first, second, first, second)]
    assert [trial and trial.number for trial in taken] == [0, 1, 2, 3, None, None]
    assert len({trial.params["x"] for trial in taken if trial}) == 4


def test_what_waits_is_taken_first_and_counts_as_one_of_the_budget(where):
    queue = worker(where)
    queue.study.enqueue_trial({"x": 0.25})
    assert [queue.take(2).params["x"] == 0.25 for _ in range(2)] == [True, False]
    assert queue.take(2) is None


def test_trials_of_a_dead_worker_go_back_in_the_queue_once(where):
    dead, alive, late = gone(where), worker(where), worker(where)
    lost = dead.take(2)
    held = alive.take(2)
    assert late.give_up_lost({}) == [lost.number]
    assert alive.give_up_lost({}) == []
    trials = late.trials()
    assert [trial.state for trial in trials] == [TrialState.FAIL, TrialState.RUNNING, TrialState.WAITING]
    again = late.take(2)
    assert again.params == lost.params
    assert (again.user_attrs["retry_of"], again.user_attrs["retries"]) == (0, 0)
    assert late.take(2) is None
    assert alive.finish(held, [1.0])


def test_a_worker_that_died_while_it_gave_up_on_another_left_no_second_repetition(where):
    dead, late = gone(where), worker(where)
    lost = dead.take(1)
    late.study.enqueue_trial(lost.params, {"retry_of": lost.number, "retries": 0})  # what it had done by then
    assert late.give_up_lost({}) == [0]
    assert [trial.state for trial in late.trials()] == [TrialState.FAIL, TrialState.WAITING]


def test_a_trial_that_nobody_signed_was_left_behind(where):
    queue = worker(where)
    queue.study.ask()
    assert queue.give_up_lost({}) == [0]


def test_a_worker_thought_dead_cannot_finish_what_another_was_given(where):
    slow, other = gone(where), worker(where)
    trial = slow.take(1)
    other.give_up_lost({})
    again = other.take(1)
    assert not slow.finish(trial, [0.5])
    assert other.finish(again, [0.7])
    assert [trial.value for trial in other.trials()] == [None, 0.7]
    assert not other.fail(0, "again", again=True)
    assert len(other.trials()) == 2


def test_a_failed_trial_repeats_its_parameters_and_counts_its_retries(where):
    queue = worker(where)
    first = queue.take(1)
    queue.fail(first.number, "out of memory", again=True)
    second = queue.take(1)
    assert second.params == first.params
    assert second.user_attrs["retries"] == 1
    queue.fail(second.number, "out of memory", again=False)
    assert queue.take(1) is None
    assert [trial.user_attrs["reason"] for trial in queue.trials()] == ["out of memory"] * 2


def test_a_line_that_was_cut_off_spoils_nothing(where):
    queue = worker(where)
    queue.take(3)
    with open(where, "ab") as journal:
        journal.write(b'{"op_code":8,"worker_id":"dead","tri')
    queue.take(3)
    assert [trial.number for trial in worker(where).trials()] == [0, 1]
    with open(where) as journal:
        assert all(line.startswith("{") and line.endswith("}\n") for line in journal)


def test_a_process_that_is_gone_or_replaced_is_not_alive():
    machine, process, started = identity().split("/")
    presence = Presence()
    assert presence.alive(f"{machine}/{process}/{started}", None)
    assert not presence.alive(f"{machine}/{process}/{int(started) + 1}", None)
    assert not presence.alive(f"{machine}/{_dead()}/{started}", None)
    assert int(process) == os.getpid()


def test_a_worker_elsewhere_is_alive_while_its_sign_of_life_changes(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("kdlab.study.trial_queue.time.monotonic", lambda: clock[0])
    presence, elsewhere = Presence(lease=90), "another-1a2b/7/1"
    assert presence.alive(elsewhere, 5.0)
    clock[0] = 80
    assert presence.alive(elsewhere, 15.0)
    clock[0] = 160
    assert presence.alive(elsewhere, 15.0)
    clock[0] = 171
    assert not presence.alive(elsewhere, 15.0)
