"""Outages of a PostgreSQL server lose no trial and double none, whatever they interrupt."""

import random
import time

import pytest
from optuna.trial import TrialState
from sqlalchemy import create_engine, text

from kdlab.core.errors import UsageError
from kdlab.study.server import Server
from kdlab.study.storage import open_storage
from kdlab.study.trial_queue import TrialQueue
from support.study_command import Command, accounted


def queue_on(server, **options):
    storage = Server(server.url, **options)
    return storage.exclusively(lambda: TrialQueue(storage, "study", ["maximize"]))


def cut(server):
    """Ends all connections of others, as a failing network does."""
    engine = create_engine(server.url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        connection.execute(text("select pg_terminate_backend(pid) from pg_stat_activity "
                                "where pid <> pg_backend_pid() and backend_type = 'client backend'"))  # fmt: skip
    engine.dispose()


def test_every_step_of_a_trial_survives_an_outage_and_is_made_once(server, capsys):
    queue = queue_on(server)
    server.out(0, "fast")
    taken = queue.take(2)
    server.out(0, "immediate")
    assert not queue.report(taken, 1, 0.5)
    server.out(0, "immediate")
    assert queue.finish(taken, [1.0])
    server.out(0, "fast")
    second = queue.take(2)
    server.out(0, "fast")
    assert queue.fail(second.number, "broke", again=True)
    queue.storage.close()
    trials = queue.trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.WAITING]
    assert (trials[0].values, trials[0].intermediate_values) == ([1.0], {1: 0.5})
    assert trials[2].user_attrs["retry_of"] == 1
    queue.storage.close()
    said = capsys.readouterr().err.splitlines()
    told = [line for line in said if line.startswith("kdlab:")]
    assert told[0].startswith("kdlab: the storage does not answer, trying again for 10 min: ")
    assert told[1].startswith("kdlab: the storage answers again, after ")
    assert "secret" not in "".join(said)


def test_a_trial_is_taken_once_wherever_its_taking_is_interrupted(server, monkeypatch):
    steps = 0
    while interrupted(server, steps, monkeypatch):
        steps += 1
    assert steps > 8


def interrupted(server, step, monkeypatch):
    """Takes two trials while all connections end around one call to the storage; False where there are fewer calls."""
    storage = Server(server.url)
    queue = storage.exclusively(lambda: TrialQueue(storage, f"study{step}", ["maximize"]))
    queue.study.enqueue_trial({})
    calls = [0]

    def cutting(original):
        def call(*args, **given):
            calls[0] += 1
            now = calls[0] == step + 1
            if now:
                cut(server)
            found = original(*args, **given)
            if now:
                cut(server)
            return found

        return call

    for name in ("create_new_trial", "set_trial_state_values", "set_trial_user_attr", "get_all_trials"):
        monkeypatch.setattr(storage.optuna, name, cutting(getattr(storage.optuna, name)))
    taken = [queue.take(2), queue.take(2), queue.take(2)]
    monkeypatch.undo()
    assert [trial and trial.number for trial in taken] == [0, 1, None]
    assert [trial.state for trial in queue.trials()] == [TrialState.RUNNING] * 2
    storage.close()
    return calls[0] > step


def test_nothing_is_written_once_the_lock_is_lost(server):
    queue, other = queue_on(server), queue_on(server)
    seen = []

    def do():
        seen.append(len(queue.trials()))
        if len(seen) == 1:
            cut(server)
            other.study.enqueue_trial({})  # another worker has the lock meanwhile
        queue.study.enqueue_trial({})

    queue.storage.exclusively(do)
    assert seen == [0, 1]  # it began anew and saw what the other did
    assert len(queue.trials()) == 2
    queue.storage.close()
    other.storage.close()


def test_a_worker_gives_up_in_a_line_when_the_server_stays_away(server):
    queue = queue_on(server, patience=0.5)
    server.stop()
    with pytest.raises(UsageError, match=r"storage=postgresql://kdlab:\*\*\*@.*: no answer for 0.5 s: ") as found:
        queue.trials()
    assert "\n" not in str(found.value)
    server.start()


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("postgresql://me:s3cret@127.0.0.1:1/db", "refused"),
        ("postgresql://me:s3cret@127.0.0.1:notaport/db", "expected postgresql://USER@HOST:PORT/DATABASE"),
        ("postgresql://me:s3cret@127.0.0.1:99999999/db", "99999999 is not a port"),
        ("postgresql+pigeon://me:s3cret@127.0.0.1/db", "expected a file for a journal, or postgresql://"),
        ("mysql://me:s3cret@127.0.0.1/db", "expected a file for a journal, or postgresql://"),
        ("postgresql://me:half@s3cret@127.0.0.1:1/db", "write an @ in the password as %40"),
        ("postgresql://127.0.0.1:1/db?password=s3cret", "refused"),
        ("postgresql:/me:s3cret@127.0.0.1/db", "expected postgresql://USER@HOST/DATABASE"),
    ],
)
def test_an_address_that_cannot_be_is_refused_in_a_line_without_its_password(where, said):
    began = time.monotonic()
    with pytest.raises(UsageError) as found:
        open_storage(where)
    assert said in str(found.value)
    assert "s3cret" not in str(found.value)
    assert "\n" not in str(found.value)
    assert time.monotonic() - began < 8


@pytest.mark.slow
@pytest.mark.parametrize("how", ["fast", "immediate"])
def test_a_study_with_several_commands_survives_ten_outages(tmp_path, server, how):
    study = Command(tmp_path, budget={"trials": 80}, storage=server.url)
    processes = [study.start("workers=2", SECONDS="0.5") for _ in range(3)]
    study.wait_for(lambda: sum(study.executed().values()) >= 3)
    draw = random.Random(how)
    for _ in range(10):
        server.out(draw.choice([0.4, 1, 2, 3]), how)
        time.sleep(draw.uniform(0.5, 3))
    for process in processes:
        said = process.communicate(timeout=280)[0]
        assert process.returncode == 0, said
        assert "Traceback" not in said
    trials = study.trials(server.url)
    accounted(trials, 80)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 80
    assert study.executed() == {str(number): 1 for number in range(80)}
