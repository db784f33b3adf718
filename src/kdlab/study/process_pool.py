"""Processes that each run one trial, forked from a warm one, and the messages they send.

The warm process has imported torch and Lightning once and holds the data, so a trial starts in milliseconds and
shares them read-only. A crash, an out-of-memory kill or a deadlock affects only the process of its trial. A trial ends
when
its warm process dies.
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
    """Before training: the student's costs, and for how many epochs it will train."""

    metrics: dict[str, float]
    epochs: int


@dataclass(frozen=True)
class Epoch:
    """After an epoch: the value of the curve."""

    done: int
    value: float


@dataclass(frozen=True)
class Waiting:
    """Sent while another process trains what this one needs: only a sign of life."""


@dataclass(frozen=True)
class Done:
    """The end: the measured metrics."""

    metrics: dict[str, Any]


@dataclass(frozen=True)
class Failed:
    """The end by an error: why, and whether a retry might succeed."""

    reason: str
    again: bool


class DivergedTrialError(RuntimeError):
    """A trial whose numbers became NaN or infinite: also a result, from which the sampler learns."""


@dataclass(frozen=True)
class Diverged:
    """The end by a DivergedTrialError."""

    reason: str


@dataclass(frozen=True)
class Assignment:
    """What a process runs: a run, given by overrides, with its name and folder.

    slot: index of the process on this machine, from 0.
    """

    name: str
    overrides: Sequence[str]
    folder: Path
    slot: int


class TrialRunner(Protocol):
    """What the processes of a study run."""

    def check(self, plan: Plan) -> None:
        """Refuses an impossible plan, before anything slow; raises UsageError."""

    def prepare(self, plan: Plan) -> None:
        """Prepares, once, what all trials share."""

    def trial(self, line: Channel, plan: Plan, assignment: Assignment) -> dict[str, float]:
        """Runs a trial, in its own process; returns its metrics."""

    def refit(self, line: Channel, plan: Plan, assignment: Assignment) -> dict[str, Any]:
        """Runs a final refit, in its own process; returns what `kdlab.study.refit.of_result` does."""

    def publish(self, plan: Plan, final: Mapping[str, Any] | None) -> None:
        """Publishes the results of the study; `final` is the content of final.json, if there is one."""


Message = Known | Epoch | Done | Failed | Diverged
"""What the pool returns of a process; `Waiting` stays within the pool."""


class Channel:
    """A trial's connection to the process that watches it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def stop(self, message: Known | Epoch) -> bool:
        """Reports, and returns whether to stop."""
        self._connection.send(message)
        return bool(self._connection.recv())

    def waiting(self) -> None:
        """Reports that it is alive and waits for another process."""
        self._connection.send(Waiting())


@dataclass(eq=False)
class Job:
    """A running process. `seen`: its last sign of life, by the monotonic clock; `mark`: the last change of its
    files."""

    slot: int
    folder: Path
    process: ForkProcess
    connection: Connection
    seen: float = field(default_factory=time.monotonic)
    mark: float = 0.0

    def answer(self, stop: bool) -> None:
        """Replies to its report."""
        try:
            self.connection.send(stop)
        except OSError:  # it died meanwhile, which `ProcessPool.wait` will report
            return


class ProcessPool:
    """Up to `size` processes at once.

    Args:
        size: how many.
        hang_seconds: a process without a sign of life for this long, neither a message nor a new line in a
            metrics.csv of its folder, is killed; None: never.
    """

    def __init__(self, size: int, hang_seconds: float | None = None) -> None:
        self.size, self.hang_seconds = size, hang_seconds
        self.jobs: list[Job] = []
        self._left = time.monotonic()
        self._context = multiprocessing.get_context("fork")

    def free(self) -> int | None:
        """A free slot, from 0 to size - 1."""
        return next((slot for slot in range(self.size) if all(job.slot != slot for job in self.jobs)), None)

    def start(self, slot: int, folder: Path, do: Callable[..., dict[str, Any]], *arguments: Any) -> Job:
        """Forks a process that runs `do(line, *arguments)`; its output goes to `output.log` in its folder."""
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
        """The messages within `seconds`, as soon as there are any. The end of a process comes last."""
        self._excuse()
        waited: dict[Any, Job] = {job.connection: job for job in self.jobs}
        waited |= {job.process.sentinel: job for job in self.jobs}
        ready = wait(list(waited), seconds)
        for job in dict.fromkeys(waited[thing] for thing in ready):
            for message in self._receive(job):
                self._left = time.monotonic()
                yield job, message
                self._excuse()
        for job in self._hung():
            self.kill(job)
            yield job, Failed(f"hung: it showed no sign of life for {self.hang_seconds:g} s", again=True)
        self._left = time.monotonic()

    def _excuse(self) -> None:
        """Time in which nobody listened, because the storage was out of reach, is no silence of the processes."""
        now = time.monotonic()
        for job in self.jobs:
            job.seen += max(0.0, now - max(self._left, job.seen))

    def kill(self, job: Job) -> None:
        """Ends a process at once."""
        job.process.kill()
        self._forget(job)

    def kill_all(self) -> list[Job]:
        """Ends all processes at once; returns their jobs."""
        jobs = list(self.jobs)
        for job in jobs:
            self.kill(job)
        return jobs

    def _receive(self, job: Job) -> Iterator[Message]:
        job.seen = time.monotonic()
        try:
            while job in self.jobs and job.connection.poll():
                message: Message | Waiting = job.connection.recv()
                if isinstance(message, Waiting):
                    continue
                if isinstance(message, (Done, Failed, Diverged)):
                    self._forget(job)
                yield message
        except (EOFError, OSError):
            pass
        if job in self.jobs and job.process.exitcode is not None:
            reason = _ended(job.process.exitcode)
            self._forget(job)
            yield Failed(reason, again=True)

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
        if job.process.exitcode is None:  # its last message has arrived
            job.process.kill()
            job.process.join()
        job.connection.close()


def _child(
    connection: Connection, others: list[Connection], folder: Path, do: Callable[..., dict[str, Any]], arguments: Any
) -> None:
    for other in others:
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the study, which ends its trials itself
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    sys.stdout = sys.stderr = (folder / "output.log").open("a", buffering=1)
    for descriptor in (1, 2):  # also the output of libraries
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
        return f"its process ended with exit code {code}"
    name = signal.Signals(-code).name
    return f"its process was killed by {name}" + (", perhaps out of memory" if name == "SIGKILL" else "")
