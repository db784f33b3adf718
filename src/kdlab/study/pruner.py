"""Stops trials that can no longer reach the front of accuracy against known costs.

Optuna does not prune with several objectives. But here some of them (parameters, multiply-accumulates) are
known before training. So a trial is dominated once its learning curve is worse, at the same share of its
schedule, than that of a finished trial which costs no more in any of them.

`python -m kdlab.tools.replay_pruner STUDY` shows what it would have saved and lost in a study without pruning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from optuna.pruners import BasePruner
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from kdlab.core.errors import UsageError
from kdlab.study.spec import COSTS, curve_of, feasible


@dataclass(frozen=True)
class TrialCurve:
    """A trial as the pruner sees it: a larger curve is better, smaller costs are."""

    curve: tuple[float, ...]
    epochs: int
    costs: tuple[float, ...]
    best: tuple[float, ...] = field(init=False)
    """The best of the curve up to each of its points."""

    def __post_init__(self) -> None:
        best: list[float] = []
        for value in self.curve:
            best.append(max(value, best[-1]) if best else value)
        object.__setattr__(self, "best", tuple(best))

    def at(self, share: float) -> float:
        """The best up to a share of the schedule."""
        return self.best[max(0, min(len(self.best), ceil(share * self.epochs - 1e-9)) - 1)]


def dominated(
    running: TrialCurve, finished: Iterable[TrialCurve], *, grace: float, margin: float, patience: int
) -> bool:
    """Whether a trial may stop: in each of its last `patience` epochs, all after the grace, another was ahead.

    Args:
        running: the trial so far.
        finished: the trials that ran to their end.
        grace: the share of the schedule without pruning.
        margin: by how much it must be behind.
        patience: for how many epochs in a row.
    """
    done = len(running.curve)
    first = done - patience + 1
    if first < 1 or first / running.epochs <= grace or done >= running.epochs:
        return False
    ahead = [other for other in finished if all(a <= b for a, b in zip(other.costs, running.costs, strict=True))]
    return all(
        any(other.at(epoch / running.epochs) > running.best[epoch - 1] + margin for other in ahead)
        for epoch in range(first, done + 1)
    )


class DominatedPruner(BasePruner):
    """Prunes by `dominated`, among the trials of a study that `kdlab.sweep` runs.

    Args:
        grace: the share of the schedule, from 0 to 1, before which nothing is pruned: it should reach past the
            last jump of the learning curve, such as a step of the learning rate.
        margin: in units of the metric; about the standard error of its validation value; the default is that of
            98 % accuracy on 800 samples.
        patience: epochs in a row.
    """

    def __init__(self, grace: float = 0.5, margin: float = 0.005, patience: int = 1) -> None:
        if not 0 <= grace <= 1:
            raise ValueError(f"grace={grace}: expected a share of the schedule, from 0 to 1")
        if margin < 0 or patience < 1:
            raise ValueError(f"margin={margin}, patience={patience}: expected 0 or more, and 1 or more")
        self.grace, self.margin, self.patience = grace, margin, patience
        self._seen: dict[int, TrialCurve] = {}

    @staticmethod
    def check(objectives: Iterable[str]) -> None:
        """Refuses a study that trades accuracy for something not known before training: a trial behind may still win.

        Raises:
            UsageError: naming the objective.
        """
        unknown = [metric for metric in objectives if metric not in COSTS]
        unknown.remove(next(metric for metric in unknown if metric.startswith("validation.")))  # the curve's
        if unknown:
            raise UsageError(
                f"objectives.{unknown[0]}: kdlab.study.pruner.DominatedPruner prunes by one validation metric "
                f"and by costs known before training, {', '.join(COSTS)}; set pruner=null"
            )

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether a running trial is dominated."""
        objectives = study.user_attrs["objectives"]
        running = trial_curve(trial, objectives)
        if running is None:
            return False
        for other in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            if other.number not in self._seen and feasible(other):
                whole = trial_curve(other, objectives)
                if whole is not None:
                    self._seen[other.number] = whole
        rules: Mapping[str, Any] = {"grace": self.grace, "margin": self.margin, "patience": self.patience}
        return dominated(running, self._seen.values(), **rules)


def trial_curve(trial: FrozenTrial, objectives: Sequence[Sequence[str]]) -> TrialCurve | None:
    """A trial as the pruner sees it; None before its first epoch, or where its costs are unknown."""
    curve, metrics = curve_of(trial), trial.user_attrs.get("metrics", {})
    followed = next(direction for metric, direction in objectives if metric.startswith("validation."))
    signs = {metric: 1 if direction == "minimize" else -1 for metric, direction in objectives}
    costs = [sign * metrics[metric] for metric, sign in signs.items() if metric in COSTS and metric in metrics]
    if not curve or "epochs" not in trial.user_attrs:
        return None
    sign = 1 if followed == "maximize" else -1
    return TrialCurve(tuple(sign * value for value in curve.values()), trial.user_attrs["epochs"], tuple(costs))
