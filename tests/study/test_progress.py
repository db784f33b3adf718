"""One line for each finished trial, and on a terminal a table of how far the study is."""

from io import StringIO

import optuna
import pytest
from optuna.trial import TrialState
from rich.console import Console

from kdlab.study.progress import ProgressView, best, duration, line
from kdlab.study.search_space import Dimension
from kdlab.study.storage import open_storage
from kdlab.study.trial_queue import Quota, TrialQueue

ABOUT = {
    "objectives": [["validation.accuracy", "maximize"], ["student.multiply_accumulates", "minimize"]],
    "curve": "validation.accuracy",
}


@pytest.fixture
def quota(tmp_path):
    """A study of five trials: two complete, one pruned, one failed that waits again, one that runs."""
    space = (Dimension("x", "x", optuna.distributions.FloatDistribution(0.0, 1.0), {}),)
    queue = TrialQueue(open_storage(str(tmp_path / "journal.log")), "kd", ["maximize", "minimize"], space=space)
    for key, value in ABOUT.items():
        queue.study.set_user_attr(key, value)
    queue.study.enqueue_trial({"x": 0.25})
    trials = [queue.take(10) for _ in range(5)]
    queue.finish(trials[0], [0.9, 30000.0])
    queue.finish(trials[1], [0.95, 40000.0])
    queue.finish(trials[2], None, "pruned after epoch 3 of 4")
    queue.fail(3, "its process was killed by SIGKILL", again=True)
    return Quota(queue, None, 10)


def test_a_line_tells_what_came_of_a_trial(quota):
    said = [line("kd", trial, ABOUT) for trial in quota.queue.trials()[:4]]
    assert said[0] == "kd 0: done, accuracy 0.9, multiply_accumulates 30,000  (x=0.25)"
    assert said[2].startswith("kd 2: pruned after epoch 3 of 4  (x=")
    assert said[3].startswith("kd 3: failed, its process was killed by SIGKILL  (x=")


def test_the_best_is_of_the_followed_metric_in_its_direction(quota):
    trials = quota.queue.trials()
    assert best(trials, ABOUT).number == 1
    assert (
        best(trials, {**ABOUT, "objectives": [["validation.accuracy", "minimize"], ABOUT["objectives"][1]]}).number == 0
    )
    assert best([trial for trial in trials if trial.state != TrialState.COMPLETE], ABOUT) is None


def show(quota, terminal):
    out = StringIO()
    view = ProgressView("kd", Console(file=out, force_terminal=terminal, width=120, color_system=None))
    with view.showing([quota]):
        view.ended(quota.queue, 0)
        view._drawn = float("-inf")  # else it waits for half a second
        view.draw([])
    return out.getvalue()


def test_a_terminal_shows_how_far_the_study_is(quota):
    shown = show(quota, terminal=True)
    row = next(row for row in shown.splitlines() if row.startswith("│ kd"))
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells == ["kd", "2", "1", "1", "1", "6", "accuracy 0.95, multiply_accumulates 40,000"]
    assert "left" in shown


def test_what_is_no_terminal_gets_lines_alone(quota):
    assert show(quota, terminal=False) == line("kd", quota.queue.trials()[0], ABOUT) + "\n"


@pytest.mark.parametrize(("seconds", "said"), [(59.6, "60 s"), (300, "5 min"), (9000, "2.5 h")])
def test_times_are_told_in_the_unit_that_suits_them(seconds, said):
    assert duration(seconds) == said


def test_a_reason_is_shown_as_it_is_whatever_it_holds(quota):
    quota.queue.fail(4, "KeyError: '[/layer]' \x1b[2J\ngone", again=False)
    out = StringIO()
    ProgressView("[/red]", Console(file=out, width=120)).ended(quota.queue, 4)
    assert "KeyError: '[/layer]' \\x1b[2J gone" in out.getvalue()
    assert out.getvalue().count("\n") == 1
    named = Quota(quota.queue, None, 10)
    named.queue.name = "[/red]"
    assert "[/red]" in show(named, terminal=True)
