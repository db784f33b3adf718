"""Shows a study while it runs: on a terminal a live table, else one line for each finished trial."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.live import Live

from kdlab.core.printable import printable
from kdlab.core.terminal import PlainTable, say, terminal, verbatim
from kdlab.study.spec import feasible
from kdlab.study.trial_queue import Quota, TrialQueue, originals

if TYPE_CHECKING:
    from kdlab.study.process_pool import Job

ENDS = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class ProgressView:
    """Shows a study.

    Args:
        title: the study's name.
        console: standard error by default.
    """

    def __init__(self, title: str, console: Console | None = None) -> None:
        self.title = title
        self.console = console or terminal(stderr=True)
        self.quotas: Sequence[Quota] = ()
        self._live: Live | None = None
        self._start = self._drawn = time.monotonic()
        self._finished = 0

    @contextmanager
    def showing(self, quotas: Sequence[Quota]) -> Iterator[None]:
        """Shows the live table, on a terminal. No thread draws it, since processes are forked here."""
        self.quotas = quotas
        if not self.console.is_terminal:
            yield
            return
        with Live(console=self.console, auto_refresh=False, transient=True) as self._live:
            yield
        self._live = None

    def ended(self, queue: TrialQueue, number: int) -> None:
        """A trial ended."""
        self._finished += 1
        say(self.console, printable(line(queue.name, queue.trials()[number], queue.study.user_attrs)))

    def draw(self, jobs: Sequence[Job]) -> None:
        """Redraws the table, at most twice a second."""
        if self._live is None or time.monotonic() - self._drawn < 0.5:
            return
        self._drawn = time.monotonic()
        self._live.update(self._table(jobs), refresh=True)

    def _table(self, jobs: Sequence[Job]) -> PlainTable:
        shown = PlainTable(f"study {self.title}")
        for column in ("", "done", "pruned", "failed", "running", "to do", "best so far"):
            shown.add_column(column, justify="left" if column in ("", "best so far") else "right")
        left = 0
        for quota in self.quotas:
            trials = quota.queue.trials()
            states = [trial.state for trial in trials]
            waiting = states.count(TrialState.WAITING)
            to_do = max(waiting, quota.most - len(originals(trials)) + waiting)
            left += to_do + states.count(TrialState.RUNNING)
            counts = [states.count(state) for state in (*ENDS, TrialState.RUNNING)]
            found = best(trials, quota.queue.study.user_attrs)
            cells = [*map(str, counts), str(to_do), found and numbers(found, quota.queue.study.user_attrs)]
            shown.add_row(quota.queue.name, *[cell or "" for cell in cells])
        spent = time.monotonic() - self._start
        about = f"about {duration(spent / self._finished * left)} left" if self._finished else "just started"
        shown.caption = verbatim(f"{len(jobs)} running here, {duration(spent)} elapsed, {about}")
        return shown


def line(name: str, trial: FrozenTrial, about: dict[str, Any]) -> str:
    """A finished trial in one line: state, values or reason, parameters."""
    params = trial.params or trial.user_attrs.get("params", {})
    given = " ".join(f"{key}={short(value)}" for key, value in params.items())
    what = (
        f"done, {numbers(trial, about)}" if trial.state == TrialState.COMPLETE else trial.user_attrs.get("reason", "")
    )
    if trial.state == TrialState.FAIL:
        what = f"failed, {what}"
    whose = f" {trial.user_attrs['setting']}, seed {trial.user_attrs['seed']}:" if "setting" in trial.user_attrs else ""
    return f"{name} {trial.number}:{whose} {what}  ({given})"


def best(trials: Sequence[FrozenTrial], about: dict[str, Any]) -> FrozenTrial | None:
    """The feasible complete trial with the best value of the curve's metric."""
    objectives = about.get("objectives")
    if not objectives:
        return None
    place, sign = next((place, -1 if direction == "minimize" else 1)
                       for place, (metric, direction) in enumerate(objectives) if metric == about["curve"])  # fmt: skip
    candidates = [trial for trial in trials if trial.state == TrialState.COMPLETE and feasible(trial)]
    return max(candidates, key=lambda trial: sign * trial.values[place], default=None)


def numbers(trial: FrozenTrial, about: dict[str, Any]) -> str:
    """A trial's values with the names of their metrics."""
    names = [metric.split(".")[-1] for metric, _ in about.get("objectives", [])] or ["test"]
    return ", ".join(f"{name} {short(value)}" for name, value in zip(names, trial.values, strict=True))


def short(value: Any) -> str:
    """A number in few digits."""
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
