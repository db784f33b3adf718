"""Stops trials that cannot reach the front any more, where the front is of accuracy against a known cost.

Optuna does not prune with several objectives. But here some of them (parameters, multiply-accumulates) are
known before training. So a trial is dominated once its learning curve is worse, at the same share of its
schedule, than that of a finished trial which costs no more in any of them.

    python -m kdlab.pruning STUDY      # replays a study that was not pruned: what pruning would have saved and lost
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
import yaml
from optuna.pruners import BasePruner
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from kdlab.errors import UsageError
from kdlab.study import COSTS, curve_of, make_pruner


@dataclass(frozen=True)
class Course:
    """A trial as the pruner sees it: a larger curve is better, smaller costs are."""

    curve: tuple[float, ...]
    epochs: int
    costs: tuple[float, ...]
    best: tuple[float, ...] = field(init=False)
    """The best of the curve so far, after each of its points."""

    def __post_init__(self) -> None:
        best: list[float] = []
        for value in self.curve:
            best.append(max(value, best[-1]) if best else value)
        object.__setattr__(self, "best", tuple(best))

    def at(self, share: float) -> float:
        """The best up to a share of the schedule."""
        return self.best[max(0, min(len(self.best), ceil(share * self.epochs - 1e-9)) - 1)]


def dominated(course: Course, finished: Iterable[Course], *, grace: float, margin: float, patience: int) -> bool:
    """Whether a trial may stop: in each of its last `patience` epochs, all after the grace, another was ahead of it.

    Args:
        course: the trial, up to now.
        finished: the trials that ran to their end.
        grace: the share of the schedule in which nothing is pruned.
        margin: by how much it must be behind.
        patience: for how many epochs in a row.
    """
    done = len(course.curve)
    first = done - patience + 1
    if first < 1 or first / course.epochs <= grace or done >= course.epochs:
        return False
    ahead = [other for other in finished if all(a <= b for a, b in zip(other.costs, course.costs, strict=True))]
    return all(
        any(other.at(epoch / course.epochs) > course.best[epoch - 1] + margin for other in ahead)
        for epoch in range(first, done + 1)
    )


class DominatedPruner(BasePruner):
    """Prunes by `dominated`, among the trials of a study that `kdlab.sweep` runs.

    Args:
        grace: the share of the schedule, from 0 to 1, before which nothing is pruned: it should reach past the
            last jump of the learning curve, such as a step of the learning rate.
        margin: in units of the metric; about the error of its validation value, of which the default is that of a
            98 % accuracy on 800 samples.
        patience: epochs in a row.
    """

    def __init__(self, grace: float = 0.5, margin: float = 0.005, patience: int = 1) -> None:
        if not 0 <= grace <= 1:
            raise ValueError(f"grace={grace}: expected a share of the schedule, from 0 to 1")
        if margin < 0 or patience < 1:
            raise ValueError(f"margin={margin}, patience={patience}: expected 0 or more, and 1 or more")
        self.grace, self.margin, self.patience = grace, margin, patience
        self._seen: dict[int, Course] = {}

    @staticmethod
    def check(objectives: Iterable[str]) -> None:
        """Refuses a study that trades accuracy for something not known before training: who is behind may yet win.

        Raises:
            UsageError: naming the objective.
        """
        unknown = [metric for metric in objectives if metric not in COSTS]
        unknown.remove(next(metric for metric in unknown if metric.startswith("validation.")))  # which is followed
        if unknown:
            raise UsageError(
                f"objectives.{unknown[0]}: kdlab.pruning.DominatedPruner prunes by one metric that is followed and by "
                f"costs known before training, {', '.join(COSTS)}; set pruner=null"
            )

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether a running trial is dominated."""
        objectives = study.user_attrs["objectives"]
        course = course_of(trial, objectives)
        if course is None:
            return False
        for other in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            if other.number not in self._seen and _feasible(other):
                whole = course_of(other, objectives)
                if whole is not None:
                    self._seen[other.number] = whole
        rules: Mapping[str, Any] = {"grace": self.grace, "margin": self.margin, "patience": self.patience}
        return dominated(course, self._seen.values(), **rules)


def course_of(trial: FrozenTrial, objectives: Sequence[Sequence[str]]) -> Course | None:
    """What the pruner sees of a trial; None before its first epoch, or where it does not know what it costs."""
    curve, metrics = curve_of(trial), trial.user_attrs.get("metrics", {})
    followed = next(direction for metric, direction in objectives if metric.startswith("validation."))
    signs = {metric: 1 if direction == "minimize" else -1 for metric, direction in objectives}
    costs = [sign * metrics[metric] for metric, sign in signs.items() if metric in COSTS and metric in metrics]
    if not curve or "epochs" not in trial.user_attrs:
        return None
    sign = 1 if followed == "maximize" else -1
    return Course(tuple(sign * value for value in curve.values()), trial.user_attrs["epochs"], tuple(costs))


@dataclass(frozen=True)
class Replay:
    """What pruning would have done to a study whose trials came in another order.

    saved: the share of its compute, epochs × multiply-accumulates, not spent. front: the points of the whole
    study's front; lost: how many of them pruning missed. drop: by how much the followed metric is worse at
    the worst of these, beside the best trial left that costs no more.
    """

    saved: float
    front: int
    lost: int
    drop: float


def replay(trials: Sequence[FrozenTrial], objectives: Sequence[Sequence[str]], pruner: BasePruner, seed: int) -> Replay:
    """Gives a study's trials, in a random order, to a pruner, epoch by epoch, one trial after another.

    Args:
        trials: complete ones, of a study that did not prune.
        objectives: of that study, as its user attribute says.
        pruner: a fresh one.
        seed: of the order.
    """
    study = optuna.create_study(directions=_directions(objectives), pruner=pruner)
    study.set_user_attr("objectives", objectives)
    order = random.Random(seed).sample(list(trials), len(trials))
    spent, kept = 0.0, []
    for place, trial in enumerate(order):
        live = study.ask()
        for key in ("metrics", "epochs"):
            live.set_user_attr(key, trial.user_attrs[key])
        for text, broken in trial.constraints.items():
            live.set_constraint(text, broken)
        curve = curve_of(trial)
        for done, value in curve.items():
            if len(objectives) == 1:
                live.report(value, done)
            else:
                live.set_user_attr(f"curve/{done}", value)
            if done < trial.user_attrs["epochs"] and pruner.prune(study, study.get_trials(deepcopy=False)[place]):
                study.tell(live, state=TrialState.PRUNED)
                break
        else:
            study.tell(live, trial.values)
            kept.append(trial)
        spent += done * _per_epoch(trial)
    return _replay(trials, kept, objectives, spent)


def front(points: Iterable[Sequence[float]]) -> set[tuple[float, ...]]:
    """The points, smaller being better in each coordinate, that no other one is as good as in all and better in one."""
    known = {tuple(point) for point in points}
    return {p for p in known if not any(q != p and all(a <= b for a, b in zip(q, p, strict=True)) for q in known)}


def _replay(
    trials: Sequence[FrozenTrial], kept: Sequence[FrozenTrial], objectives: Sequence[Sequence[str]], spent: float
) -> Replay:
    signs = [1 if direction == "minimize" else -1 for _, direction in objectives]
    followed = next(place for place, (metric, _) in enumerate(objectives) if metric.startswith("validation."))

    def point(trial: FrozenTrial) -> tuple[float, ...]:
        return tuple(sign * value for sign, value in zip(signs, trial.values, strict=True))

    whole = front(point(trial) for trial in trials if _feasible(trial))
    left = {point(trial) for trial in kept if _feasible(trial)}
    costs = [place for place in range(len(objectives)) if place != followed]
    drops = []
    for lost in whole - left:
        others = [p[followed] for p in left if all(p[place] <= lost[place] for place in costs)]
        drops.append(min(others, default=float("inf")) - lost[followed])
    total = sum(trial.user_attrs["epochs"] * _per_epoch(trial) for trial in trials)
    return Replay(1 - spent / total, len(whole), len(drops), max(drops, default=0.0))


def summary(name: str, trials: int, found: Sequence[Replay]) -> str:
    """What replays came to, in words."""
    saved, lost = [one.saved for one in found], [one.lost for one in found]
    return (
        f"{name}: {trials} complete trials in {len(found)} random orders: compute saved {fmean(saved):.0%} on average, "
        f"{min(saved):.0%} at the least; of {found[0].front} points of the front {fmean(lost):.2f} lost on average, "
        f"{max(lost)} at the most, the worst of them {max(one.drop for one in found):.4g} better than what was left"
    )


def _settings(given: Sequence[str]) -> dict[str, Any]:
    pairs = [setting.partition("=") for setting in given]
    if wrong := [key for key, equals, _ in pairs if not equals]:
        raise UsageError(f"{wrong[0]}: expected KEY=VALUE")
    return {key: yaml.safe_load(value) for key, _, value in pairs}


def _directions(objectives: Sequence[Sequence[str]]) -> list[StudyDirection]:
    return [StudyDirection[direction.upper()] for _, direction in objectives]


def _feasible(trial: FrozenTrial) -> bool:
    return all(broken <= 0 for broken in trial.constraints.values())


def _per_epoch(trial: FrozenTrial) -> float:
    return float(trial.user_attrs["metrics"]["student.multiply_accumulates"])


def _replayed(study: Study, settings: Mapping[str, Any], orders: int) -> str:
    trials = study.get_trials(deepcopy=False)
    if any(trial.state == TrialState.PRUNED and curve_of(trial) for trial in trials):
        raise UsageError(f"{study.study_name} was pruned itself; run another one with pruner=null")
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not complete:
        raise UsageError(f"{study.study_name} has no complete trial")
    objectives = study.user_attrs["objectives"]
    DominatedPruner.check(metric for metric, _ in objectives)
    found = [replay(complete, objectives, make_pruner(settings), seed) for seed in range(orders)]
    return summary(study.study_name, len(complete), found)


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m kdlab.pruning STUDY`: the table of a replay; exit code 2 where there is nothing to replay."""
    from kdlab.storage import stored

    parser = argparse.ArgumentParser(prog="python -m kdlab.pruning", description=__doc__.split("\n\n")[0])
    parser.add_argument("study", type=Path, help="the folder of a study that did not prune")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="of the pruner: grace=0.5")
    parser.add_argument("--orders", type=int, default=20, help="how many random orders of its trials")
    parser.add_argument("--storage", help="where study.yaml does not tell it, because of a password")
    given = parser.parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        settings = {"_target_": "kdlab.pruning.DominatedPruner", **_settings(given.settings)}
        with stored(given.study, given.storage) as studies:
            for study in studies:
                if "objectives" in study.user_attrs:
                    print(_replayed(study, settings, given.orders))
    except UsageError as error:
        print(f"kdlab: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
