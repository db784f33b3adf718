"""The results of a search: its trials, the best one and the front."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import optuna
from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from kdlab.study.spec import curve_of, feasible

MACS = "student.multiply_accumulates"

WORDS = {
    TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed",
    TrialState.RUNNING: "running", TrialState.WAITING: "waiting",
}  # fmt: skip


@dataclass(frozen=True)
class SearchResults:
    """One Optuna study, as `kdlab.study.spec` describes it.

    option: the one that it tries, where the study compares several; else None.
    """

    study: Study
    option: str | None
    objectives: Mapping[str, str]
    metric: str

    @classmethod
    def of(cls, study: Study) -> SearchResults:
        """Reads an Optuna study."""
        own = study.user_attrs
        return cls(study, own["arm"], dict(own["objectives"]), own["curve"])

    @property
    def direction(self) -> str:
        """Of the curve's metric: `max` or `min`."""
        return self.objectives[self.metric][:3]

    @property
    def costs(self) -> list[str]:
        """What accuracy is traded for: the other objectives; multiply-accumulates, where there is none."""
        return [metric for metric in self.objectives if metric != self.metric] or [MACS]

    @cached_property
    def trials(self) -> list[FrozenTrial]:
        """All trials, without those that were retried."""
        found = self.study.get_trials(deepcopy=False)
        again = {trial.user_attrs.get("retry_of") for trial in found}
        return [trial for trial in found if trial.number not in again]

    @cached_property
    def complete(self) -> list[FrozenTrial]:
        return [trial for trial in self.trials if trial.state == TrialState.COMPLETE]

    @cached_property
    def feasible(self) -> list[FrozenTrial]:
        """The complete trials that break no constraint."""
        return [trial for trial in self.complete if feasible(trial)]

    @cached_property
    def with_curve(self) -> list[FrozenTrial]:
        """Trials with at least a part of a learning curve: complete and pruned ones."""
        return [
            t for t in self.trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED) and self.value(t) is not None
        ]

    @cached_property
    def front(self) -> list[FrozenTrial]:
        """The Pareto front, cheapest first; with one objective, the best trial."""
        if not self.feasible:
            return []
        cost = self.costs[0]
        return sorted(self.study.best_trials, key=lambda trial: (self.read(trial, cost) or 0.0, trial.number))

    @cached_property
    def best(self) -> FrozenTrial | None:
        """The trial that is best by the curve's metric, and of equal ones the cheapest."""
        sign = -1 if self.direction == "max" else 1
        return min(
            self.feasible,
            key=lambda t: (sign * (self.value(t) or 0.0), self.read(t, self.costs[0]) or 0.0),
            default=None,
        )

    @cached_property
    def space(self) -> dict[str, BaseDistribution]:
        """The distribution of every parameter, in the order of the space."""
        return {name: of for trial in self.trials for name, of in trial.distributions.items()}

    def counts(self) -> dict[str, int]:
        """The number of trials in each state."""
        found = Counter(WORDS[trial.state] for trial in self.trials)
        return {words: found[words] for words in WORDS.values() if found[words]}

    def value(self, trial: FrozenTrial) -> float | None:
        """The curve's metric at the end of a trial: of a complete one its objective, of another the last value."""
        if trial.state == TrialState.COMPLETE:
            return float(trial.values[list(self.objectives).index(self.metric)])
        points = curve_of(trial)
        return points[max(points)] if points else None

    def read(self, trial: FrozenTrial, metric: str) -> float | None:
        """Any metric of a trial."""
        if trial.state == TrialState.COMPLETE and metric in self.objectives:
            return float(trial.values[list(self.objectives).index(metric)])
        found = trial.user_attrs.get("metrics", {}).get(metric)
        return None if found is None else float(found)

    def importances(self) -> dict[str, float]:
        """The importance of each parameter for telling good trials from the rest; empty where there are too few trials.

        PED-ANOVA, which also knows parameters that only some trials have. Watanabe, Bansal, Hutter. PED-ANOVA:
        Efficiently Quantifying Hyperparameter Importance in Arbitrary Subspaces. IJCAI 2023.
        """
        sign = -1 if self.direction == "max" else 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it warns that low is good, which the sign ensures
            try:
                found = optuna.importance.get_param_importances(
                    self.study, target=lambda trial: sign * (self.value(trial) or 0.0)
                )
            except (ValueError, RuntimeError):
                return {}
        return {name: float(value) for name, value in found.items() if math.isfinite(value)}
