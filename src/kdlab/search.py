"""Carries out a study: takes trials from the storage, has them done by processes, and writes down what is heard.

Any number of these, on any machines, work on one storage; each is what `kdlab.ledger` calls a worker.
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

from kdlab import finals
from kdlab.errors import UsageError
from kdlab.ledger import BEAT, Ledger, Presence, originals
from kdlab.live import View
from kdlab.space import written
from kdlab.storage import Storage, open_storage, shown
from kdlab.study import FREE, Arm, Plan, make_pruner
from kdlab.workers import Assignment, Crew, Diverged, Done, Epoch, Failed, Job, Known, Message, Work


@dataclass
class Queue:
    """Trials of one Optuna study: those of an arm, or, where `arm` is None, the final refits."""

    ledger: Ledger
    arm: Arm | None
    most: int
    taken: int = -1


@dataclass
class Held:
    """A trial that a process of ours is doing. `stopped`: why it was told to stop."""

    queue: Queue
    trial: optuna.Trial
    stopped: str | None = None
    epochs: int = 0


class Search:
    """One worker of a study. After `run`, `complete` is how many of the study's trials came to their end.

    Args:
        plan: the study.
        work: what its trials do.
        view: who is shown how it goes.

    Raises:
        UsageError: where the storage cannot be opened, or holds another study of this name.
    """

    def __init__(self, plan: Plan, work: Work, view: View) -> None:
        self.plan, self.work, self.view = plan, work, view
        self.storage: Storage = open_storage(plan.storage)
        self._presence = Presence()
        self.queues: list[Queue] = []
        with self.storage.lock():
            self._refuse_another()
        self._crew = Crew(plan.settings["workers"], plan.settings["hang_seconds"])
        self._held: dict[Job, Held] = {}
        self._signed = self._looked = float("-inf")
        self.complete = 0

    def run(self) -> dict[str, Any] | None:
        """Does trials until there are enough, then the refits; what final.json says, None where nothing is refitted.

        Raises:
            KeyboardInterrupt: the same command goes on where it stood.
            UsageError: where somebody began another study of this name meanwhile.
        """
        seconds = self.plan.settings["budget"]["seconds"]
        deadline = time.monotonic() + seconds if seconds else float("inf")
        with closing(self.storage), self.view.showing(self._begin()):
            self._drain(self.queues, deadline)
            states = [trial.state for queue in self.queues for trial in queue.ledger.trials()]
            self.complete = states.count(TrialState.COMPLETE)
            studies = {queue.arm.option: queue.ledger.study for queue in self.queues if queue.arm}
            refits = finals.choose(self.plan, studies) if self.plan.settings["final"]["seeds"] else []
            if not refits:
                return None
            queue = self._begin_refits(refits)
            self.view.queues = [*self.queues, queue]
            self._drain([queue], float("inf"))
            final = finals.summarise(self.plan, refits, queue.ledger.trials())
        (self.plan.folder / "final.json").write_text(json.dumps(final, indent=2) + "\n")
        return final

    # ---- beginning

    def _refuse_another(self) -> None:
        """Refuses a study that was begun with other settings; under the lock."""
        known, plan = optuna.get_all_study_names(self.storage.optuna), self.plan
        for name in {plan.titled(arm) for arm in plan.arms} & set(known):
            begun = optuna.load_study(study_name=name, storage=self.storage.optuna).user_attrs.get("plan")
            for key, value in self._settings().items():
                if begun is not None and key not in FREE and begun.get(key) != value:
                    raise UsageError(
                        f"{key}: the study {plan.name} was begun with other ones, see {plan.folder / 'study.yaml'}; "
                        "give this one a name of its own, name=NAME"
                    )

    def _settings(self) -> dict[str, Any]:
        """The study as its storage remembers it."""
        settings = self.plan.settings
        found: dict[str, Any] = json.loads(json.dumps({**settings, "storage": shown(settings["storage"])}))
        return found

    def _begin(self) -> list[Queue]:
        """The queues of all arms, their studies made where there are none."""
        with self.storage.lock():
            self._refuse_another()
            self.queues = [self._begin_arm(arm) for arm in self.plan.arms]
            if not (file := self.plan.folder / "study.yaml").is_file():
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(yaml.safe_dump(self._settings(), sort_keys=False))
        return self.queues

    def _begin_arm(self, arm: Arm) -> Queue:
        plan = self.plan
        ledger = Ledger(
            self.storage, plan.titled(arm), list(plan.objectives.values()), space=arm.space, presence=self._presence,
            sampler=plan.settings["sampler"], seed=plan.settings["seed"],
            pruner=make_pruner(plan.settings["pruner"]),
        )  # fmt: skip
        if "plan" not in ledger.study.user_attrs:
            for point in arm.first:
                ledger.study.enqueue_trial(dict(point), skip_if_exists=True)
            ledger.study.set_metric_names(list(plan.objectives))
            ledger.study.set_user_attr("objectives", [list(pair) for pair in plan.objectives.items()])
            ledger.study.set_user_attr("curve", plan.curve)
            ledger.study.set_user_attr("arm", arm.option)
            ledger.study.set_user_attr("plan", self._settings())
        return Queue(ledger, arm, plan.settings["budget"]["trials"])

    def _begin_refits(self, refits: Sequence[finals.Refit]) -> Queue:
        direction = self.plan.objectives[self.plan.curve]
        with self.storage.lock():
            ledger = Ledger(self.storage, f"{self.plan.name}/final", [direction], presence=self._presence)
            for refit in refits:
                trials = [trial for trial in ledger.trials() if trial.state != TrialState.FAIL]  # those, again
                known = [trial.user_attrs["seed"] for trial in trials if finals.is_of(refit, trial)]
                for seed in finals.seeds(self.plan):
                    if seed not in known:
                        ledger.study.enqueue_trial({}, finals.attributes(refit, seed))
        return Queue(ledger, None, 0)

    # ---- going on

    def _drain(self, queues: Sequence[Queue], deadline: float) -> None:
        """Until no trial is left to do, here or elsewhere."""
        try:
            while True:
                self._sign(queues)
                if time.monotonic() < deadline:
                    self._fill(queues)
                if not self._crew.jobs and not self._left(queues, time.monotonic() < deadline):
                    return
                for job, message in self._crew.wait(1.0):
                    self._hear(job, message)
                self.view.draw(self._crew.jobs)
        finally:
            for job in self._crew.kill_all():
                held = self._held.pop(job)
                held.queue.ledger.fail(held.trial.number, "the study was stopped", again=True, count=False)

    def _left(self, queues: Sequence[Queue], may_begin: bool) -> bool:
        known = {queue.ledger.name: queue.ledger.trials() for queue in queues}
        states = [trial.state for trials in known.values() for trial in trials]
        wanting = any(len(originals(known[queue.ledger.name])) < queue.most for queue in queues)
        return TrialState.RUNNING in states or (may_begin and (wanting or TrialState.WAITING in states))

    def _sign(self, queues: Sequence[Queue]) -> None:
        """A sign of life, and a look at who gives none."""
        if time.monotonic() - self._signed < BEAT:
            return
        self._signed = time.monotonic()
        beats = self.queues[0].ledger.beat()
        for queue in queues:
            for number in queue.ledger.give_up_lost(beats):
                self.view.ended(queue.ledger, number)

    def _fill(self, queues: Sequence[Queue]) -> None:
        """Starts trials in free slots, those of the arm with the fewest first; asks the storage once a second."""
        while (slot := self._crew.free()) is not None and time.monotonic() - self._looked >= 1.0:
            for queue in sorted(queues, key=lambda queue: queue.taken):
                if (trial := queue.ledger.take(queue.most)) is not None:
                    queue.taken = trial.number
                    self._start(queue, trial, slot)
                    break
            else:
                self._looked = time.monotonic()

    def _start(self, queue: Queue, trial: optuna.Trial, slot: int) -> None:
        plan, attributes = self.plan, trial.user_attrs
        if queue.arm is None:
            setting = re.sub(r"[^\w.=]+", "-", attributes["setting"])
            name = f"{plan.name}-{setting}-seed{attributes['seed']}"
            place = Path("final") / f"{trial.number:04d}-{setting}-seed{attributes['seed']}"
            overrides = [*attributes["overrides"], f"seed={attributes['seed']}", "alone=true"]
        else:
            number = f"{trial.number:04d}" if queue.arm.option is None else f"{queue.arm.option}-{trial.number:04d}"
            place, name = Path("trials") / number, f"{plan.name}-{number}"
            overrides = [*queue.arm.overrides, *written(trial.params)]
        trial.set_user_attr("folder", str(place))
        do = self.work.refit if queue.arm is None else self.work.trial
        assignment = Assignment(name, overrides, plan.folder / place, slot)
        job = self._crew.start(slot, assignment.folder, do, plan, assignment)
        self._held[job] = Held(queue, trial)

    # ---- listening

    def _hear(self, job: Job, message: Message) -> None:
        held = self._held[job]
        try:
            stop = self._write(held, message)
        except UpdateFinishedTrialError:  # somebody thought us dead and gave the trial to another
            if job in self._crew.jobs:
                self._crew.kill(job)
            del self._held[job]
            return
        if isinstance(message, (Known, Epoch)):
            job.answer(stop)
        else:
            del self._held[job]
            self._looked = float("-inf")
            self.view.ended(held.queue.ledger, held.trial.number)

    def _write(self, held: Held, message: Message) -> bool:
        """Writes down what was heard; whether the trial shall stop."""
        ledger, trial = held.queue.ledger, held.trial
        match message:
            case Known(metrics, epochs):
                trial.set_user_attr("metrics", metrics)
                trial.set_user_attr("epochs", epochs)
                held.epochs = epochs
                if broken := self._constrain(trial, metrics):
                    held.stopped = f"not trained: {broken}"
            case Epoch(done, value):
                if ledger.report(trial, done, value) and done < held.epochs:
                    held.stopped = f"pruned after epoch {done} of {held.epochs}"
            case Done(metrics):
                self._finish(held, metrics)
            case Diverged(reason):
                ledger.finish(trial, None, f"diverged: {reason}")
            case Failed(reason, again):
                tried = trial.user_attrs.get("retries", 0)
                ledger.fail(trial.number, reason, again=again and tried < self.plan.settings["retries"])
        return held.stopped is not None

    def _finish(self, held: Held, metrics: Mapping[str, Any]) -> None:
        ledger, trial = held.queue.ledger, held.trial
        if held.queue.arm is None:
            trial.set_user_attr("result", metrics)
            ledger.finish(trial, [metrics["test"][self.plan.curve.removeprefix("validation.")]])
            return
        trial.set_user_attr("metrics", dict(metrics))
        if held.stopped is not None:
            ledger.finish(trial, None, held.stopped)
            return
        self._constrain(trial, metrics)
        ledger.finish(trial, [metrics[metric] for metric in self.plan.objectives])

    def _constrain(self, trial: optuna.Trial, metrics: Mapping[str, float]) -> str | None:
        """Writes down the constraints on metrics that are there, once each; one that is broken, in words."""
        broken = None
        for constraint in self.plan.constraints:
            if constraint.metric in metrics and constraint.text not in trial.constraints:
                violation = constraint.violation(metrics[constraint.metric])
                trial.set_constraint(constraint.text, violation)
                if violation > 0:
                    broken = f"{constraint.metric} is {metrics[constraint.metric]:g}, and must be {constraint.text}"
        return broken
