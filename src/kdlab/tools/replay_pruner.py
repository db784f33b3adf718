"""`python -m kdlab.tools.replay_pruner STUDY`: what pruning would have saved and lost in a study without pruning."""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
import yaml
from optuna.pruners import BasePruner
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from kdlab.core.errors import UsageError, one_line
from kdlab.study.pruner import DominatedPruner
from kdlab.study.spec import curve_of, feasible, make_pruner
from kdlab.study.storage import stored


@dataclass(frozen=True)
class Replay:
    """The effect of pruning on a study with its trials in another order.

    saved: the share of its compute, epochs × multiply-accumulates, not spent. front: the points of the whole
    study's front; lost: how many of them pruning missed. drop: for the worst of these, how much worse the curve's
    metric is in
    the best trial left that costs no more.
    """

    saved: float
    front: int
    lost: int
    drop: float


def replay(trials: Sequence[FrozenTrial], objectives: Sequence[Sequence[str]], pruner: BasePruner, seed: int) -> Replay:
    """Replays a study's trials in a random order to a pruner, epoch by epoch, one trial after another.

    Args:
        trials: complete ones, of a study that did not prune.
        objectives: of that study, from its user attribute.
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
    """The Pareto front: the points that no other dominates, smaller being better in each coordinate."""
    known = {tuple(point) for point in points}
    return {p for p in known if not any(q != p and all(a <= b for a, b in zip(q, p, strict=True)) for q in known)}


def _replay(
    trials: Sequence[FrozenTrial], kept: Sequence[FrozenTrial], objectives: Sequence[Sequence[str]], spent: float
) -> Replay:
    signs = [1 if direction == "minimize" else -1 for _, direction in objectives]
    followed = next(place for place, (metric, _) in enumerate(objectives) if metric.startswith("validation."))

    def point(trial: FrozenTrial) -> tuple[float, ...]:
        return tuple(sign * value for sign, value in zip(signs, trial.values, strict=True))

    whole = front(point(trial) for trial in trials if feasible(trial))
    left = {point(trial) for trial in kept if feasible(trial)}
    costs = [place for place in range(len(objectives)) if place != followed]
    drops = []
    for lost in whole - left:
        others = [p[followed] for p in left if all(p[place] <= lost[place] for place in costs)]
        drops.append(min(others, default=float("inf")) - lost[followed])
    total = sum(trial.user_attrs["epochs"] * _per_epoch(trial) for trial in trials)
    return Replay(1 - spent / total, len(whole), len(drops), max(drops, default=0.0))


def summary(name: str, trials: int, found: Sequence[Replay]) -> str:
    """The result of replays, in words."""
    saved, lost = [one.saved for one in found], [one.lost for one in found]
    return (
        f"{name}: {trials} complete trials in {len(found)} random orders: compute saved {fmean(saved):.0%} on average, "
        f"at least {min(saved):.0%}; of {found[0].front} points of the front {fmean(lost):.2f} lost on average, "
        f"{max(lost)} at the most, the worst of them {max(one.drop for one in found):.4g} better than what was left"
    )


def _settings(given: Sequence[str]) -> dict[str, Any]:
    pairs = [setting.partition("=") for setting in given]
    if wrong := [key for key, equals, _ in pairs if not equals]:
        raise UsageError(f"{wrong[0]}: expected KEY=VALUE")
    return {key: yaml.safe_load(value) for key, _, value in pairs}


def _directions(objectives: Sequence[Sequence[str]]) -> list[StudyDirection]:
    return [StudyDirection[direction.upper()] for _, direction in objectives]


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


@one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit code is 0, or 2 where there is nothing to replay."""
    parser = argparse.ArgumentParser(
        prog="python -m kdlab.tools.replay_pruner", description=(__doc__ or "").split(": ")[1]
    )
    parser.add_argument("study", type=Path, help="the folder of a study that did not prune")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="of the pruner: grace=0.5")
    parser.add_argument("--orders", type=int, default=20, help="how many random orders of its trials")
    parser.add_argument("--storage", help="if study.yaml omits it because of a password")
    given = parser.parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings = {"_target_": "kdlab.study.pruner.DominatedPruner", **_settings(given.settings)}
    with stored(given.study, given.storage) as studies:
        for study in studies:
            if "objectives" in study.user_attrs:
                print(_replayed(study, settings, given.orders))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
