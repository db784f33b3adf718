"""What a study is, and what it writes for reports. Its YAML is read by `kdlab.study.spec_file`.

A study's folder is `RUNS/NAME` (`runs/kd`). It holds
- `study.yaml`: the study as it was started, with defaults and overrides of the command line;
- `journal.log`: Optuna's storage, unless `storage` names another file or a PostgreSQL server;
- `trials/`: a run folder for each trial, with `config.yaml` and `metrics.csv`; weights are not kept;
- `final/`: a whole run folder (see `kdlab.run.execute`) for each refit, named NUMBER-SETTING-seedN;
- `final.json`: the results of the refits, see `kdlab.study.refit`.

The storage holds one Optuna study, NAME, or where the study compares options, one for each, NAME/OPTION; and for the
refits NAME/final. Optuna studies have the user attributes `plan` (the content of study.yaml), `arm` (OPTION or null),
`curve` (the metric of the curves), `objectives` ([[metric, direction], ...], in order of the trials' values) and
`configs` ({file: SHA-256} of the folders of --config-dir); their `metric_names` are set. A parameter is named after
the key of the config that it sets; where a key has several ranges, one per choice, `KEY@CHOICE`. Trials have Optuna's
state, params, values and `constraints` (per text of a constraint, its violation relative to the bound; feasible where
none is above 0), and the user attributes
- `metrics`: {metric: value}, of the mean over seeds; `student.*` known before training are set at the start;
- `epochs`: the length of its schedule;
- `reason`: why it was pruned or failed, in one line; not set for complete trials;
- `folder`: its run folder, relative to the study's; the curve is also in its metrics.csv;
- `worker`: who ran it; `mark`: set with it, so that a worker finds a trial whose taking was interrupted;
- `retry_of`: the number of the failed trial it repeats; `retries`: how often it failed before by its own error. A
  repeated trial counts once in the budget;
- its curve, see `curve_of`: per epoch, the `curve` metric of its first seed. Compute is epochs × multiply-accumulates.
Trials of NAME/final have no parameters; `setting`, `arm`, `seed`, `params` and `overrides` define what they refit, and
`result` is its outcome, as `kdlab.study.refit.of_result` takes it from a result.json. Their value is the test metric.
"""

from __future__ import annotations

import hashlib
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler, QMCSampler
from optuna.trial import FrozenTrial

from kdlab.config.compose import compose
from kdlab.config.instantiate import build, resolve
from kdlab.config.schema import Component, RunConfig
from kdlab.core.errors import UsageError
from kdlab.study.schema import StudyConfig
from kdlab.study.search_space import Dimension

T = TypeVar("T")

FREE = ("budget", "retries", "hang_seconds", "workers", "storage", "final")
"""The keys that may change when a study is resumed; any other makes another study."""

COSTS = ("student.parameters", "student.multiply_accumulates", "student.bytes", "student.latency_ms")
"""The metrics of a student that are known before it is trained. Less is better."""

TIMES = ("student.seconds", "student.samples_per_second")
"""The metrics of its training."""


@dataclass(frozen=True)
class Constraint:
    """A bound on a metric, `student.parameters <= 200000`."""

    text: str
    metric: str
    most: bool
    bound: float

    def violation(self, value: float) -> float:
        """The violation of the bound by a value, relative to the bound; 0 or below where it holds."""
        excess = value - self.bound if self.most else self.bound - value
        return excess / abs(self.bound) if self.bound else excess


@dataclass(frozen=True)
class Arm:
    """One search: a space and its own budget of trials. A study that compares nothing has a single one.

    option: of the comparison, None where nothing is compared. default: the published point of its config.
    """

    option: str | None
    overrides: tuple[str, ...]
    space: tuple[Dimension, ...]
    default: Mapping[str, Any]
    first: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Plan:
    """A study, read and checked as far as can be without torch.

    settings: its whole YAML. runs: the folder that contains its folder. seed: of its runs, where a trial has only one.
    allow: the packages that the command line allows; what a storage holds decides none.
    """

    settings: StudyConfig
    folders: tuple[Path, ...]
    arms: tuple[Arm, ...]
    objectives: Mapping[str, str]
    constraints: tuple[Constraint, ...]
    runs: Path
    seed: int
    allow: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def folder(self) -> Path:
        """The folder of the study."""
        return self.runs / self.name

    @property
    def storage(self) -> str:
        """The file of a journal, or the URL of a PostgreSQL server."""
        return self.settings.storage or str(self.folder / "journal.log")

    @property
    def curve(self) -> str:
        """The metric of the learning curve."""
        return next(metric for metric in self.objectives if metric.startswith("validation."))

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of objectives and constraints."""
        return tuple(dict.fromkeys([*self.objectives, *(constraint.metric for constraint in self.constraints)]))

    def titled(self, arm: Arm) -> str:
        """The name of an arm's Optuna study."""
        return self.name if arm.option is None else f"{self.name}/{arm.option}"

    def configs(self) -> dict[str, str]:
        """{file: SHA-256} of the user's config files. A folder may be renamed, so its place stands for its name."""
        found = {}
        for place, folder in enumerate(self.folders):
            for file in sorted(folder.rglob("*.yaml")):
                name = str(file.relative_to(folder))
                found[f"{place}/{name}" if place else name] = hashlib.sha256(file.read_bytes()).hexdigest()
        return found

    def compose(self, overrides: Sequence[str]) -> RunConfig:
        """The config of a run."""
        return compose(overrides, self.folders, allow=self.allow)


def curve_of(trial: FrozenTrial) -> dict[int, float]:
    """{epochs done: the curve's metric}, in order, of a trial from the storage.

    Optuna supports intermediate values only with one objective; with several, its sampler fails on a pruned trial
    that has some. There they are user attributes, `curve/EPOCH`.
    """
    found = dict(trial.intermediate_values)
    for key, value in trial.user_attrs.items():
        if key.startswith("curve/"):
            found[int(key.removeprefix("curve/"))] = value
    return dict(sorted(found.items()))


def feasible(trial: FrozenTrial) -> bool:
    """Whether a trial breaks none of the study's constraints, as Optuna defines it: no violation above 0."""
    return all(violation <= 0 for violation in trial.constraints.values())


def make_sampler(settings: Component, seed: int, number: int) -> BaseSampler:
    """The sampler of one trial, seeded from the study's seed and the trial's number.

    Raises:
        UsageError: where the settings describe no sampler.
    """
    target = resolve(settings.get("_target_"), BaseSampler, "sampler")
    own = seed if issubclass(target, QMCSampler) else zlib.crc32(f"{seed}/{number}".encode())
    return _built(settings, BaseSampler, "sampler", seed=own)  # type: ignore[type-abstract]  # mypy #4717


def make_pruner(settings: Component | None) -> BasePruner:
    """The pruner of a study; one that never prunes where it has none.

    Raises:
        UsageError: where the settings describe no pruner.
    """
    if settings is None:
        return NopPruner()
    return _built(settings, BasePruner, "pruner")  # type: ignore[type-abstract]  # mypy #4717


def _built(settings: Component, kind: type[T], key: str, **arguments: Any) -> T:
    with warnings.catch_warnings():  # the user who set it knows that it is experimental
        warnings.simplefilter("ignore", ExperimentalWarning)
        try:
            return build(settings, kind, key, **arguments)
        except TypeError as error:  # by which some of Optuna's refuse the values of their settings
            raise UsageError(f"{key}: {' '.join(str(error).split())}") from error
