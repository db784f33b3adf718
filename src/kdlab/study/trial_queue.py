"""The trials of a study in its storage: which worker runs which, so that none is lost and none runs twice.

Optuna's storage is shared by any number of `python -m kdlab.sweep`, called workers here, on any machines. What
two must not do at once (start a study, take a trial, give up on a dead worker's) is done under a lock that the system
releases when its holder dies. A trial is taken, and then completed, pruned or failed by
the worker that took it. A worker that dies leaves its trials running; the others, or the next start of the same
command, see that it is gone, mark them failed and put the same parameters back in the queue.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import BasePruner, NopPruner
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from kdlab.study.search_space import Dimension, suggest
from kdlab.study.spec import Arm, make_sampler
from kdlab.study.storage import Storage

BEAT = 10.0
"""Seconds between two signs of life of a worker."""

LEASE = 90.0
"""Seconds without one before a worker on another machine counts as dead."""


WRITTEN = ("setting", "arm", "seed", "params", "overrides")
"""The user attributes that define what a trial runs, where its parameters do not."""


def identity() -> str:
    """The identity of this process, by which others can check whether it is alive: machine, id, start."""
    return f"{_machine()}/{os.getpid()}/{_started(os.getpid())}"


class Presence:
    """Which workers are alive: here those whose process exists, elsewhere those with a recent sign of life.

    Recent by our own clock: machines need not agree on the time.
    """

    def __init__(self, lease: float = LEASE) -> None:
        self.lease = lease
        self._beats: dict[str, tuple[Any, float]] = {}

    def alive(self, worker: str, beat: Any) -> bool:
        """Whether a worker is alive, given its last sign of life."""
        machine, process, started = worker.rsplit("/", 2)
        if machine == _machine():
            return _started(int(process)) == started
        now = time.monotonic()
        last, since = self._beats.get(worker, (object(), now))
        if last != beat:
            since = now
        self._beats[worker] = (beat, since)
        return now - since < self.lease

    def forget(self) -> None:
        """Counts anew: nobody could give a sign of life while the storage was out of reach."""
        self._beats.clear()


class TrialQueue:
    """One Optuna study, shared by the workers.

    Args:
        storage: where it is.
        name: of the Optuna study.
        directions: of its values, `maximize` or `minimize`.
        space: what is searched; empty where kdlab defines all trials.
        sampler: settings of the sampler.
        seed: of the sampler; each trial draws with its own seed, so that workers and resumed studies
            do not repeat each other, and one worker alone always draws the same.
        pruner: consulted by the worker of a trial.
        presence: which workers are alive.
    """

    def __init__(
        self,
        storage: Storage,
        name: str,
        directions: Sequence[str],
        *,
        space: Sequence[Dimension] = (),
        sampler: Mapping[str, Any] | None = None,
        seed: int = 0,
        pruner: BasePruner | None = None,
        presence: Presence | None = None,
    ) -> None:
        self.storage, self.name, self.space, self.seed = storage, name, space, seed
        self._sampler = sampler or {"_target_": "optuna.samplers.RandomSampler"}
        self._presence = presence or Presence()
        self.me = identity()
        self._mark, self._taken = secrets.token_hex(4), set[int]()
        self.study: Study = optuna.create_study(
            storage=storage.optuna, study_name=name, load_if_exists=True,
            directions=[StudyDirection[direction.upper()] for direction in directions],
            pruner=pruner or optuna.pruners.NopPruner(),
        )  # fmt: skip

    def trials(self) -> list[FrozenTrial]:
        """All trials, in order; do not modify them."""
        return self.study.get_trials(deepcopy=False)

    def take(self, most: int) -> optuna.Trial | None:
        """A trial to run, with its parameters: a waiting one, else a new one, up to `most` in all."""
        return self.storage.exclusively(lambda: self._take(most))

    def report(self, trial: optuna.Trial, epoch: int, value: float) -> bool:
        """Adds a point to the curve of a trial (see `kdlab.study.spec.curve_of`); returns whether to stop there."""
        if len(self.study.directions) == 1:
            trial.report(value, epoch)
        else:
            trial.set_user_attr(f"curve/{epoch}", value)
        pruner = self.study.pruner
        return not isinstance(pruner, NopPruner) and pruner.prune(self.study, self.trials()[trial.number])

    def finish(self, trial: optuna.Trial, values: Sequence[float] | None, reason: str | None = None) -> bool:
        """Completes a trial, or prunes it where there are no values. False: another worker had given up on us."""
        return self.storage.exclusively(lambda: self._finish(trial, values, reason))

    def fail(self, number: int, reason: str, *, again: bool, count: bool = True) -> bool:
        """Marks a running trial failed, and if it is to be repeated puts it back in the queue, once.

        Args:
            again: repeat it. count: as one of its retries.
        """
        return self.storage.exclusively(lambda: self._fail(self.trials()[number], reason, again, count))

    def give_up_lost(self, beats: Mapping[str, Any]) -> list[int]:
        """Fails and requeues the running trials of workers that are gone; returns their numbers.

        Args:
            beats: the last sign of life of each worker, see `beat`.
        """
        return self.storage.exclusively(lambda: self._give_up_lost(beats))

    def beat(self) -> dict[str, Any]:
        """Gives a sign of life; returns the last one of each worker."""
        self.study.set_user_attr(f"beat/{self.me}", time.time())
        beats = {key: value for key, value in self.study.user_attrs.items() if key.startswith("beat/")}
        return {key.removeprefix("beat/"): value for key, value in beats.items()}

    # ---- under the lock: each may be called again, after any of its steps, so it begins by reading what there is

    def _take(self, most: int) -> optuna.Trial | None:
        trials = self.trials()
        marks = {"worker": self.me, "mark": self._mark}  # set before it runs, so that it is found again
        begun = [trial.number for trial in trials
                 if trial.state == TrialState.RUNNING and trial.user_attrs.get("mark") == self._mark
                 and trial.number not in self._taken]  # fmt: skip
        waiting = [trial.number for trial in trials if trial.state == TrialState.WAITING]
        if not begun and not waiting and len(originals(trials)) >= most:
            return None
        number = [*begun, *waiting, len(trials)][0]
        if number == len(trials):
            self.study.enqueue_trial({}, marks)
        elif not begun:
            for key, value in marks.items():
                self.storage.optuna.set_trial_user_attr(self._identity(number), key, value)
        self.study.sampler = make_sampler(self._sampler, self.seed, number)
        trial = optuna.Trial(self.study, self._identity(number)) if begun else self.study.ask()
        assert trial.number == number
        suggest(trial, self.space)
        self._taken.add(number)
        return trial

    def _finish(self, trial: optuna.Trial, values: Sequence[float] | None, reason: str | None) -> bool:
        if self.trials()[trial.number].state.is_finished():
            return False
        if reason is not None:
            trial.set_user_attr("reason", reason)
        self.study.tell(trial, values, TrialState.COMPLETE if values is not None else TrialState.PRUNED)
        return True

    def _give_up_lost(self, beats: Mapping[str, Any]) -> list[int]:
        lost = []
        for trial in self.trials():
            worker = trial.user_attrs.get("worker")
            if trial.state != TrialState.RUNNING or worker == self.me:
                continue
            # Under the lock no worker is about to take a trial, so a running one without a worker was abandoned.
            if worker is None or not self._presence.alive(worker, beats.get(worker)):
                self._fail(trial, f"its worker is gone: {worker}", True, False)
                lost.append(trial.number)
        return lost

    def _fail(self, trial: FrozenTrial, reason: str, again: bool, count: bool) -> bool:
        if trial.state.is_finished():
            return False
        # The repetition comes first: a worker that dies in between leaves a running trial, and the next finds the
        # repetition.
        if again and not any(other.user_attrs.get("retry_of") == trial.number for other in self.trials()):
            kept = {key: value for key, value in trial.user_attrs.items() if key in WRITTEN}
            self.study.enqueue_trial(
                {**trial.system_attrs.get("fixed_params", {}), **trial.params},
                {**kept, "retry_of": trial.number, "retries": trial.user_attrs.get("retries", 0) + count},
            )
        self.storage.optuna.set_trial_user_attr(self._identity(trial.number), "reason", reason)
        self.study.tell(trial.number, state=TrialState.FAIL)
        return True

    def _identity(self, number: int) -> int:
        """Of a trial in the storage."""
        known = self.storage.optuna
        return known.get_trial_id_from_study_id_trial_number(known.get_study_id_from_name(self.name), number)


def originals(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that count: not the repetitions of failed ones."""
    return [trial for trial in trials if "retry_of" not in trial.user_attrs]


def _machine() -> str:
    """Identifies this machine since its last boot, within one PID namespace."""
    known = [socket.gethostname()]
    for file in (Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")):
        try:
            known.append(os.readlink(file) if file.is_symlink() else file.read_text())
        except OSError:
            continue
    return f"{known[0]}-{zlib.crc32(''.join(known).encode()):08x}"


def _started(process: int) -> str | None:
    """When a process of this machine started, in ticks since boot; None where there is none."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "0"
    return None if state == "Z" else fields[18]


@dataclass
class Quota:
    """Trials of one Optuna study: those of an arm, or, where `arm` is None, the final refits."""

    queue: TrialQueue
    arm: Arm | None
    most: int
    taken: int = -1
