"""A damaged journal costs what was running at the time, and moves no result to another trial."""

import json
import random
import resource

import optuna
import pytest
from optuna.trial import TrialState

from kdlab.core.errors import UsageError
from kdlab.study.search_space import Dimension
from kdlab.study.storage import open_storage
from kdlab.study.trial_queue import TrialQueue, identity

SPACE = (Dimension("x", "x", optuna.distributions.FloatDistribution(0.0, 1.0), {}),)


def queue_on(file):
    return TrialQueue(open_storage(str(file)), "kd", ["maximize"], space=SPACE)


def finish(queue, most):
    """Runs all trials; the value of each is its parameter."""
    queue.give_up_lost({})
    while (trial := queue.take(most)) is not None:
        trial.set_user_attr("metrics", {"double": 2 * trial.params["x"]})
        assert queue.finish(trial, [trial.params["x"]])


@pytest.fixture
def journal(tmp_path):
    """Eight trials that are done, and two that run."""
    queue = queue_on(tmp_path / "journal.log")
    for key, value in (("objectives", [["validation.accuracy", "maximize"]]), ("curve", "validation.accuracy"),
                       ("arm", None), ("plan", {"name": "kd"})):  # fmt: skip
        queue.study.set_user_attr(key, value)
    finish(queue, 8)
    queue.me = f"{identity().rsplit('/', 2)[0]}/4194305/1"  # a process that is gone
    queue.take(10)
    queue.take(10)
    return tmp_path / "journal.log"


def consistent(file, most=10):
    """Continues the study: every value is that of its own parameter, and there are as many as wanted."""
    queue = queue_on(file)
    finish(queue, most)
    trials = queue.trials()
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert [trial.number for trial in trials] == list(range(len(trials)))
    for trial in complete:
        assert trial.values == [trial.params["x"]]
        assert trial.user_attrs["metrics"] == {"double": 2 * trial.params["x"]}
    assert len(complete) == most
    return queue


def damaged(file, place, line):
    lines = file.read_bytes().splitlines(keepends=True)
    lines[place] = line
    file.write_bytes(b"".join(lines))


KINDS = {
    "garbage": b"!!! not json\n",
    "half a line": b'{"op_code":5,"work\n',
    "NULs": b"\0" * 512 + b"\n",
    "not UTF-8": b'{"op_code": 8, "user_attr": {"a": "\xff\xfe"}}\n',
    "no operation": b"[1, 2]\n",
    "unknown operation": b'{"op_code": 77}\n',
    "a trial that is missing": b'{"op_code":8,"worker_id":"x","trial_id":4000,"user_attr":{"a":1}}\n',
    "deep": b"[" * 100_000 + b"\n",
    "keys are missing": b'{"op_code":4,"worker_id":"x"}\n',
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_line_is_passed_over_the_file_kept_and_the_study_goes_on(journal, capsys, kind):
    damaged(journal, 30, KINDS[kind])
    before = journal.read_bytes()
    consistent(journal)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kdlab:")]
    assert len(said) == 1
    assert said[0].startswith(f"kdlab: {journal}: 1 line is damaged, the first is line 31")
    assert said[0].endswith("; the damaged file is journal.log.damaged-1")
    assert journal.with_name("journal.log.damaged-1").read_bytes() == before


def test_whichever_line_is_lost_no_result_moves_to_another_trial(journal):
    lines = journal.read_bytes().splitlines(keepends=True)
    known = {trial.params["x"] for trial in queue_on(journal).trials() if trial.state == TrialState.COMPLETE}
    for place in range(len(lines)):
        journal.write_bytes(b"".join([*lines[:place], b"\xff\n", *lines[place + 1 :]]))
        values = {trial.value for trial in queue_on(journal).trials() if trial.state == TrialState.COMPLETE}
        assert values <= known
        assert len(values) >= 7  # all but the one that was being written
        consistent(journal)


def test_lines_in_a_row_may_be_lost(journal):
    lines = journal.read_bytes().splitlines(keepends=True)
    draw = random.Random(0)
    for _ in range(30):
        start, count = draw.randrange(len(lines)), draw.randrange(1, 12)
        block = b"\0" * sum(map(len, lines[start : start + count]))
        journal.write_bytes(b"".join([*lines[:start], block, *lines[start + count :]]))
        consistent(journal)


def test_a_damaged_journal_is_kept_each_time(journal):
    for number in (1, 2, 3):
        damaged(journal, 20 + number, b"?\n")
        queue_on(journal)
        assert journal.with_name(f"journal.log.damaged-{number}").is_file()
    assert not journal.with_name("journal.log.damaged-4").exists()


@pytest.mark.parametrize("tail", [b"\0" * 5000, b'{"op_code":', b"\xff\xfe", b"\n\0\0", b"\0" * 100 + b"\n"])
def test_what_a_power_cut_leaves_at_the_end_is_passed_over(journal, tail):
    content = journal.read_bytes()
    for cut in (0, 1, 37):
        journal.write_bytes(content[: len(content) - cut] + tail)
        consistent(journal)


def test_a_journal_that_is_whole_is_left_as_it_is(journal):
    before = journal.read_bytes()
    queue_on(journal).storage.close()
    assert {file.name for file in journal.parent.iterdir()} <= {"journal.log", "journal.log.lock", "journal.log.turn"}
    assert journal.read_bytes().startswith(before)


def test_a_worker_that_meets_damage_says_so_in_a_line(journal):
    queue = queue_on(journal)
    with journal.open("ab") as stream:
        stream.write(b"garbage\n")
    with pytest.raises(UsageError, match=r"line \d+ is damaged; start the same command again"):
        queue.trials()


def test_a_full_disk_is_a_line_and_leaves_the_journal_whole(journal):
    queue = queue_on(journal)
    size = journal.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))
    try:
        with pytest.raises(UsageError, match="File too large; the study needs to read and write it"):
            queue.study.set_user_attr("a", "b" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert journal.stat().st_size == size
    queue.study.set_user_attr("a", "b")
    assert json.loads(journal.read_bytes().splitlines()[-1])["user_attr"] == {"a": "b"}


@pytest.mark.parametrize("name", ["journal.log", "journal.log.lock", "journal.log.turn"])
def test_a_journal_or_lock_that_is_no_file_is_a_line(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(UsageError, match=rf"{name}: Is a directory; the study needs to read and write it"):
        queue_on(tmp_path / "journal.log").take(1)
