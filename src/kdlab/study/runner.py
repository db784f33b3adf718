"""Runs a study: takes trials from the storage, runs them in processes, and stores what they report.

Any number of these, on any machines, work on one storage; each is a worker of `kdlab.study.trial_queue`.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from kdlab.core.files import write_text
from kdlab.study import refit
from kdlab.study.process_pool import (
    Assignment,
    Diverged,
    Done,
    Epoch,
    Failed,
    Job,
    Known,
    Message,
    ProcessPool,
    TrialRunner,
)
from kdlab.study.progress import ProgressView
from kdlab.study.same_study import kept_settings, refuse_another
from kdlab.study.search_space import written
from kdlab.study.spec import Arm, Plan, make_pruner
from kdlab.study.storage import Storage, open_storage
from kdlab.study.trial_queue import BEAT, Presence, Quota, TrialQueue, originals


@dataclass
class Held:
    """A trial that one of our processes runs. `stopped`: why it was told to stop."""

    quota: Quota
    trial: optuna.Trial
    stopped: str | None = None
    epochs: int = 0


class StudyRunner:
    """One worker of a study. After `run`, `complete` is how many trials of the study completed.

    Args:
        plan: the study.
        work: what its trials run.
        view: shows its progress.

    Raises:
        UsageError: where the storage cannot be opened, or holds another study of this name.
    """

    def __init__(self, plan: Plan, work: TrialRunner, view: ProgressView) -> None:
        self.plan, self.work, self.view = plan, work, view
        self.storage: Storage = open_storage(plan.storage)
        self._presence = Presence()
        self.quotas: list[Quota] = []
        self.storage.exclusively(lambda: refuse_another(plan, self.storage))
        self._pool = ProcessPool(plan.settings.workers, plan.settings.hang_seconds)
        self._held: dict[Job, Held] = {}
        self._signed = self._looked = float("-inf")
        self.complete = 0

    def run(self) -> dict[str, Any] | None:
        """Runs trials until there are enough, then the refits; returns the content of final.json, None without refits.

        Raises:
            KeyboardInterrupt: the same command resumes.
            UsageError: where another study of this name was started meanwhile.
        """
        seconds = self.plan.settings.budget.seconds
        deadline = time.monotonic() + seconds if seconds else float("inf")
        with closing(self.storage), self.view.showing(self._begin()):
            self._drain(self.quotas, deadline)
            states = [trial.state for quota in self.quotas for trial in quota.queue.trials()]
            self.complete = states.count(TrialState.COMPLETE)
            studies = {quota.arm.option: quota.queue.study for quota in self.quotas if quota.arm}
            refits = refit.choose(self.plan, studies) if self.plan.settings.final.seeds else []
            if not refits:
                return None
            quota = self._begin_refits(refits)
            self.view.quotas = [*self.quotas, quota]
            self._drain([quota], float("inf"))
            final = refit.summarise(self.plan, refits, quota.queue.trials())
        write_text(self.plan.folder / "final.json", json.dumps(final, indent=2) + "\n")
        return final

    # ---- beginning

    def _begin(self) -> list[Quota]:
        """The quotas of all arms; creates missing Optuna studies."""
        self.quotas = self.storage.exclusively(self._begin_arms)
        return self.quotas

    def _begin_arms(self) -> list[Quota]:
        plan = self.plan
        refuse_another(plan, self.storage)
        quotas = [self._begin_arm(arm) for arm in plan.arms]
        if not (file := plan.folder / "study.yaml").is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, yaml.safe_dump(kept_settings(plan), sort_keys=False))
        return quotas

    def _begin_arm(self, arm: Arm) -> Quota:
        plan = self.plan
        queue = TrialQueue(
            self.storage, plan.titled(arm), list(plan.objectives.values()), space=arm.space, presence=self._presence,
            sampler=plan.settings.sampler, seed=plan.settings.seed,
            pruner=make_pruner(plan.settings.pruner),
        )  # fmt: skip
        if not {"objectives", "curve", "arm", "plan"} <= queue.study.user_attrs.keys():
            for point in arm.first:
                queue.study.enqueue_trial(dict(point), skip_if_exists=True)
            queue.study.set_metric_names(list(plan.objectives))
            queue.study.set_user_attr("objectives", [list(pair) for pair in plan.objectives.items()])
            queue.study.set_user_attr("curve", plan.curve)
            queue.study.set_user_attr("arm", arm.option)
            queue.study.set_user_attr("configs", plan.configs())
            queue.study.set_user_attr("plan", kept_settings(plan))
        return Quota(queue, arm, plan.settings.budget.trials)

    def _begin_refits(self, refits: Sequence[refit.Refit]) -> Quota:
        return self.storage.exclusively(lambda: self._refit_quota(refits))

    def _refit_quota(self, refits: Sequence[refit.Refit]) -> Quota:
        direction = self.plan.objectives[self.plan.curve]
        queue = TrialQueue(self.storage, f"{self.plan.name}/final", [direction], presence=self._presence)
        for one in refits:
            trials = [trial for trial in queue.trials() if trial.state != TrialState.FAIL]  # repeats those
            known = [trial.user_attrs["seed"] for trial in trials if refit.is_of(one, trial)]
            for seed in refit.seeds(self.plan):
                if seed not in known:
                    queue.study.enqueue_trial({}, refit.attributes(one, seed))
        return Quota(queue, None, 0)

    # ---- going on

    def _drain(self, quotas: Sequence[Quota], deadline: float) -> None:
        """Works until no trial is left, here or elsewhere."""
        try:
            while True:
                self._sign(quotas)
                if time.monotonic() < deadline:
                    self._fill(quotas)
                if not self._pool.jobs and not self._left(quotas, time.monotonic() < deadline):
                    return
                for job, message in self._pool.wait(1.0):
                    self._receive(job, message)
                self.view.draw(self._pool.jobs)
        finally:
            for job in self._pool.kill_all():
                held = self._held.pop(job)
                held.quota.queue.fail(held.trial.number, "the study was stopped", again=True, count=False)

    def _left(self, quotas: Sequence[Quota], may_begin: bool) -> bool:
        known = {quota.queue.name: quota.queue.trials() for quota in quotas}
        states = [trial.state for trials in known.values() for trial in trials]
        wanting = any(len(originals(known[quota.queue.name])) < quota.most for quota in quotas)
        return TrialState.RUNNING in states or (may_begin and (wanting or TrialState.WAITING in states))

    def _sign(self, quotas: Sequence[Quota]) -> None:
        """Gives a sign of life, and requeues trials of workers without one."""
        if time.monotonic() - self._signed < BEAT:
            return
        beats = self.quotas[0].queue.beat()
        if time.monotonic() - self._signed > 3 * BEAT:
            self._presence.forget()
        self._signed = time.monotonic()
        for quota in quotas:
            for number in quota.queue.give_up_lost(beats):
                self.view.ended(quota.queue, number)

    def _fill(self, quotas: Sequence[Quota]) -> None:
        """Starts trials in free slots, those of the arm with the fewest first; reads the storage once a second."""
        while (slot := self._pool.free()) is not None and time.monotonic() - self._looked >= 1.0:
            for quota in sorted(quotas, key=lambda quota: quota.taken):
                if (trial := quota.queue.take(quota.most)) is not None:
                    quota.taken = trial.number
                    self._start(quota, trial, slot)
                    break
            else:
                self._looked = time.monotonic()

    def _start(self, quota: Quota, trial: optuna.Trial, slot: int) -> None:
        plan, attributes = self.plan, trial.user_attrs
        if quota.arm is None:
            setting = re.sub(r"[^\w.=]+", "-", attributes["setting"])
            name = f"{plan.name}-{setting}-seed{attributes['seed']}"
            place = Path("final") / f"{trial.number:04d}-{setting}-seed{attributes['seed']}"
            overrides = [*attributes["overrides"], f"seed={attributes['seed']}", "alone=true"]
        else:
            number = f"{trial.number:04d}" if quota.arm.option is None else f"{quota.arm.option}-{trial.number:04d}"
            place, name = Path("trials") / number, f"{plan.name}-{number}"
            overrides = [*quota.arm.overrides, *written(trial.params)]
        trial.set_user_attr("folder", str(place))
        do = self.work.refit if quota.arm is None else self.work.trial
        self.storage.close()  # which no fork may share
        assignment = Assignment(name, overrides, plan.folder / place, slot)
        job = self._pool.start(slot, assignment.folder, do, plan, assignment)
        self._held[job] = Held(quota, trial)

    # ---- listening

    def _receive(self, job: Job, message: Message) -> None:
        held = self._held[job]
        try:
            stop = self._write(held, message)
        except UpdateFinishedTrialError:  # another worker took us for dead and requeued the trial
            if job in self._pool.jobs:
                self._pool.kill(job)
            del self._held[job]
            return
        if isinstance(message, (Known, Epoch)):
            job.answer(stop)
        else:
            del self._held[job]
            self._looked = float("-inf")
            self.view.ended(held.quota.queue, held.trial.number)

    def _write(self, held: Held, message: Message) -> bool:
        """Stores a message; returns whether the trial must stop."""
        queue, trial = held.quota.queue, held.trial
        match message:
            case Known(metrics, epochs):
                trial.set_user_attr("metrics", metrics)
                trial.set_user_attr("epochs", epochs)
                held.epochs = epochs
                if broken := self._constrain(trial, metrics):
                    held.stopped = f"not trained: {broken}"
            case Epoch(done, value):
                if queue.report(trial, done, value) and done < held.epochs:
                    held.stopped = f"pruned after epoch {done} of {held.epochs}"
            case Done(metrics):
                self._finish(held, metrics)
            case Diverged(reason):
                queue.finish(trial, None, f"diverged: {reason}")
            case Failed(reason, again):
                tried = trial.user_attrs.get("retries", 0)
                queue.fail(trial.number, reason, again=again and tried < self.plan.settings.retries)
        return held.stopped is not None

    def _finish(self, held: Held, metrics: Mapping[str, Any]) -> None:
        queue, trial = held.quota.queue, held.trial
        if held.quota.arm is None:
            trial.set_user_attr("result", metrics)
            queue.finish(trial, [metrics["test"][self.plan.curve.removeprefix("validation.")]])
            return
        trial.set_user_attr("metrics", dict(metrics))
        if held.stopped is not None:
            queue.finish(trial, None, held.stopped)
            return
        self._constrain(trial, metrics)
        queue.finish(trial, [metrics[metric] for metric in self.plan.objectives])

    def _constrain(self, trial: optuna.Trial, metrics: Mapping[str, float]) -> str | None:
        """Stores the constraints on known metrics, once each; returns a violated one, in words."""
        broken = None
        for constraint in self.plan.constraints:
            if constraint.metric in metrics and constraint.text not in trial.constraints:
                violation = constraint.violation(metrics[constraint.metric])
                trial.set_constraint(constraint.text, violation)
                if violation > 0:
                    broken = f"{constraint.metric} is {metrics[constraint.metric]:g}, but must be {constraint.text}"
        return broken
