"""Whatever happens to a process, it is heard of, and happens to it alone."""

import os
import signal
import subprocess
import sys
import time

import pytest

from kdlab.core.errors import UsageError
from kdlab.run.store import Store
from kdlab.study.process_pool import Diverged, DivergedTrialError, Done, Epoch, Failed, ProcessPool


def talk(line):
    told = [line.stop(Epoch(done, 0.5)) for done in (1, 2)]
    return {"told": told, "pid": os.getpid()}


def die(line):
    os.kill(os.getpid(), signal.SIGKILL)


def leave(line):
    os._exit(3)


def refuse(line):
    raise UsageError("loss=fsp: no")


def diverge(line):
    raise DivergedTrialError("loss/kd became NaN or infinite")


def fail(line):
    print("before", flush=True)
    raise MemoryError("CUDA out of\nmemory")


def sleep(line):
    time.sleep(60)


def quiet(line):
    time.sleep(4)
    return {}


def heard(pool, seconds=20):
    """All that is heard until nothing runs, by slot."""
    found, end = {}, time.monotonic() + seconds
    while pool.jobs:
        assert time.monotonic() < end
        for job, message in pool.wait(0.5):
            found.setdefault(job.slot, []).append(message)
            if isinstance(message, Epoch):
                job.answer(message.done == 2)
    return found


def test_a_process_reports_is_answered_and_ends(tmp_path):
    pool = ProcessPool(1)
    pool.start(0, tmp_path, talk)
    *epochs, done = heard(pool)[0]
    assert epochs == [Epoch(1, 0.5), Epoch(2, 0.5)]
    assert done.metrics["told"] == [False, True]
    assert done.metrics["pid"] != os.getpid()


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (die, Failed("its process was killed by SIGKILL, perhaps out of memory", again=True)),
        (leave, Failed("its process ended with exit code 3", again=True)),
        (refuse, Failed("loss=fsp: no", again=False)),
        (fail, Failed("MemoryError: CUDA out of memory", again=True)),
        (diverge, Diverged("loss/kd became NaN or infinite")),
    ],
)
def test_an_end_is_told_with_its_reason_and_the_others_go_on(tmp_path, do, message):
    pool = ProcessPool(2)
    pool.start(0, tmp_path / "a", do)
    pool.start(1, tmp_path / "b", talk)
    found = heard(pool)
    assert found[0] == [message]
    assert isinstance(found[1][-1], Done)
    if do is fail:
        said = (tmp_path / "a" / "output.log").read_text()
        assert said.startswith("before\nTraceback")


def test_a_process_that_shows_no_sign_of_life_is_killed(tmp_path):
    pool = ProcessPool(1, hang_seconds=0.3)
    job = pool.start(0, tmp_path, sleep)
    assert heard(pool)[0] == [Failed("hung: it showed no sign of life for 0.3 s", again=True)]
    assert job.process.exitcode == -signal.SIGKILL


def test_a_process_that_waits_for_what_another_trains_is_not_taken_for_dead(tmp_path):
    def ask(line):
        def train():
            for done in range(6):
                time.sleep(0.3)
                line.stop(Epoch(done, 0.5))
            return {}, {"trained_by": os.getpid()}

        entry = Store(tmp_path / "store", waiting=line.waiting).get({"model": "contested"}, train)
        return {"by": entry.result["trained_by"]}

    pool = ProcessPool(2, hang_seconds=1.0)
    jobs = [pool.start(slot, tmp_path / str(slot), ask) for slot in (0, 1)]
    ends = [found[-1] for found in heard(pool).values()]
    assert [type(end) for end in ends] == [Done, Done], ends
    assert len({end.metrics["by"] for end in ends} & {job.process.pid for job in jobs}) == 1


def test_a_new_line_in_its_metrics_is_a_sign_of_life(tmp_path):
    pool = ProcessPool(1, hang_seconds=0.4)
    pool.start(0, tmp_path, sleep)
    for place in range(5):
        (tmp_path / "metrics.csv").write_text("step")
        os.utime(tmp_path / "metrics.csv", (place, place))
        assert list(pool.wait(0.3)) == []
    assert heard(pool)[0][0].reason.startswith("hung")


def test_a_slot_is_free_again_when_its_process_ended(tmp_path):
    pool = ProcessPool(2)
    assert pool.free() == 0
    pool.start(0, tmp_path, talk)
    assert pool.free() == 1
    pool.start(1, tmp_path, sleep)
    assert pool.free() is None
    pool.kill_all()
    assert pool.free() == 0


ORPHANS = """
import os, sys, time
from pathlib import Path
from kdlab.study.process_pool import ProcessPool
pool = ProcessPool(3)
for slot in range(3):
    pool.start(slot, Path(sys.argv[1]) / str(slot), lambda line: time.sleep(60))
print(*[job.process.pid for job in pool.jobs], flush=True)
time.sleep(60)
"""


def test_processes_leave_with_the_one_that_watches_them(tmp_path):
    watcher = subprocess.Popen([sys.executable, "-c", ORPHANS, tmp_path], stdout=subprocess.PIPE, text=True)
    children = [int(pid) for pid in watcher.stdout.readline().split()]
    assert len(children) == 3
    watcher.kill()
    watcher.communicate()
    end = time.monotonic() + 10
    while any(_runs(pid) for pid in children):
        assert time.monotonic() < end
        time.sleep(0.02)


def _runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("within", [True, False], ids=["while it is told something", "between"])
def test_a_process_is_not_taken_for_hung_while_nobody_listens(tmp_path, within):
    pool = ProcessPool(2, hang_seconds=2.5)
    pool.start(0, tmp_path / "a", talk)
    pool.start(1, tmp_path / "b", quiet)
    end, found = time.monotonic() + 20, []
    away = 3.0
    while pool.jobs:
        assert time.monotonic() < end
        for job, message in pool.wait(0.2):
            found.append(message)
            if isinstance(message, Epoch):
                if within:
                    time.sleep(away)
                    away = 0.0
                job.answer(False)
        if not within:
            time.sleep(away)
            away = 0.0
    assert found[-1] == Done({})
