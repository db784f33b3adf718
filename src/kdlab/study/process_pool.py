"""Processes that each do one trial, forked from a warm one, and what is heard of them.

The warm process has imported torch and Lightning once and holds the data, so a trial starts in milliseconds and
shares them read-only. Whatever happens to a trial, a crash, a kill for want of memory, a deadlock, happens to
its process alone. A trial whose warm process dies leaves with it.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any, Protocol

from kdlab.core.errors import UsageError
from kdlab.study.spec import Plan


@dataclass(frozen=True)
class Known:
    """Before training: what the student costs, and how many epochs it will be trained for."""

    metrics: dict[str, float]
    epochs: int


@dataclass(frozen=True)
class Epoch:
    """After an epoch: the value of the curve."""

    done: int
    value: float


@dataclass(frozen=True)
class Waiting:
    """Now and then, while another process trains what this one needs: a sign of life, and no more."""


@dataclass(frozen=True)
class Done:
    """The end: what was measured."""

    metrics: dict[str, Any]


@dataclass(frozen=True)
class Failed:
    """Another end: why, and whether the same might go well another time."""

    reason: str
    again: bool


class DivergedTrialError(RuntimeError):
    """A trial whose numbers are none any more: a result like any other, which tells the sampler to stay away."""


@dataclass(frozen=True)
class Diverged:
    """A third end."""

    reason: str


@dataclass(frozen=True)
class Assignment:
    """What a process is to do: a run, described by overrides, called `name`, in a folder.

    slot: which of the processes of this machine it is, from 0.
    """

    name: str
    overrides: Sequence[str]
    folder: Path
    slot: int


class TrialRunner(Protocol):
    """What the processes of a study do."""

    def check(self, plan: Plan) -> None:
        """Refuses a plan that cannot be carried out, before anything slow; raises UsageError."""

    def prepare(self, plan: Plan) -> None:
        """Obtains, once, what all trials share."""

    def trial(self, line: Channel, plan: Plan, assignment: Assignment) -> dict[str, float]:
        """Does a trial, in a process of its own; its metrics."""

    def refit(self, line: Channel, plan: Plan, assignment: Assignment) -> dict[str, Any]:
        """Does a final refit, in a process of its own; what `kdlab.study.refit.of_result` says."""

    def publish(self, plan: Plan, final: Mapping[str, Any] | None) -> None:
        """Tells others what came of the study; `final` is the content of final.json, if there is one."""


Message = Known | Epoch | Done | Failed | Diverged
"""What is heard of a process; that it waits is for its pool alone."""


class Channel:
    """A trial's end of the line to the process that watches it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def stop(self, message: Known | Epoch) -> bool:
        """Reports, and asks whether to stop."""
        self._connection.send(message)
        return bool(self._connection.recv())

    def waiting(self) -> None:
        """Says that it is alive and waits for another process."""
        self._connection.send(Waiting())


@dataclass(eq=False)
class Job:
    """A process at work. `seen`: when it was last heard of, by the monotonic clock; `mark`: of its files."""

    slot: int
    folder: Path
    process: ForkProcess
    connection: Connection
    seen: float = field(default_factory=time.monotonic)
    mark: float = 0.0

    def answer(self, stop: bool) -> None:
        """Replies to what it reported."""
        try:
            self.connection.send(stop)
        except OSError:  # it died meanwhile, which `ProcessPool.wait` will tell
            return


class ProcessPool:
    """Up to `size` processes at once.

    Args:
        size: how many.
        hang_seconds: a process that has shown no sign of life for so long, neither a message nor a new line in a
            metrics.csv of its folder, is killed; None: never.
    """

    def __init__(self, size: int, hang_seconds: float | None = None) -> None:
        self.size, self.hang_seconds = size, hang_seconds
        self.jobs: list[Job] = []
        self._context = multiprocessing.get_context("fork")

    def free(self) -> int | None:
        """A slot from 0 to size - 1 in which nothing runs."""
        return next((slot for slot in range(self.size) if all(job.slot != slot for job in self.jobs)), None)

    def start(self, slot: int, folder: Path, do: Callable[..., dict[str, Any]], *arguments: Any) -> Job:
        """Forks a process that does `do(line, *arguments)`; what it prints goes to `output.log` in its folder."""
        ours, theirs = self._context.Pipe()
        others = [job.connection for job in self.jobs] + [ours]
        process = self._context.Process(target=_child, args=(theirs, others, folder, do, arguments), daemon=False)
        folder.mkdir(parents=True, exist_ok=True)
        gc.collect()
        gc.freeze()  # else the first collection of each fork would copy what they share
        sys.stdout.flush()
        sys.stderr.flush()
        process.start()
        theirs.close()
        job = Job(slot, folder, process, ours)
        self.jobs.append(job)
        return job

    def wait(self, seconds: float) -> Iterator[tuple[Job, Message]]:
        """What is heard within so many seconds, at once where something is. The end of a process comes last."""
        waited: dict[Any, Job] = {job.connection: job for job in self.jobs}
        waited |= {job.process.sentinel: job for job in self.jobs}
        heard = wait(list(waited), seconds)
        for job in dict.fromkeys(waited[thing] for thing in heard):
            yield from self._hear(job)
        for job in self._hung():
            self.kill(job)
            yield job, Failed(f"hung: it showed no sign of life for {self.hang_seconds:g} s", again=True)

    def kill(self, job: Job) -> None:
        """Ends a process at once."""
        job.process.kill()
        self._forget(job)

    def kill_all(self) -> list[Job]:
        """Ends all processes at once; who they were."""
        jobs = list(self.jobs)
        for job in jobs:
            self.kill(job)
        return jobs

    def _hear(self, job: Job) -> Iterator[tuple[Job, Message]]:
        job.seen = time.monotonic()
        try:
            while job in self.jobs and job.connection.poll():
                message: Message | Waiting = job.connection.recv()
                if isinstance(message, Waiting):
                    continue
                if isinstance(message, (Done, Failed, Diverged)):
                    self._forget(job)
                yield job, message
        except (EOFError, OSError):
            pass
        if job in self.jobs and job.process.exitcode is not None:
            reason = _ended(job.process.exitcode)
            self._forget(job)
            yield job, Failed(reason, again=True)

    def _hung(self) -> list[Job]:
        if self.hang_seconds is None:
            return []
        found = []
        for job in self.jobs:
            if time.monotonic() - job.seen < self.hang_seconds:
                continue
            mark = max((file.stat().st_mtime for file in job.folder.rglob("metrics.csv")), default=0.0)
            if mark == job.mark:
                found.append(job)
            job.seen, job.mark = time.monotonic(), mark
        return found

    def _forget(self, job: Job) -> None:
        self.jobs.remove(job)
        job.process.join(10)
        if job.process.exitcode is None:  # all that it had to say is said
            job.process.kill()
            job.process.join()
        job.connection.close()


def _child(
    connection: Connection, others: list[Connection], folder: Path, do: Callable[..., dict[str, Any]], arguments: Any
) -> None:
    for other in others:
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who presses Ctrl-C means the study, which ends its trials itself
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    sys.stdout = sys.stderr = (folder / "output.log").open("a", buffering=1)
    for descriptor in (1, 2):  # what libraries print, too
        os.dup2(sys.stdout.fileno(), descriptor)
    message: Message
    try:
        message = Done(do(Channel(connection), *arguments))
    except DivergedTrialError as error:
        message = Diverged(_line(error))
    except UsageError as error:
        message = Failed(_line(error), again=False)
    except Exception as error:
        traceback.print_exc()
        message = Failed(f"{type(error).__name__}: {_line(error)}", again=True)
    connection.send(message)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]


def _ended(code: int) -> str:
    if code >= 0:
        return f"its process left with exit code {code}"
    name = signal.Signals(-code).name
    return f"its process was killed by {name}" + (", as where memory runs out" if name == "SIGKILL" else "")
