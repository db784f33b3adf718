"""What a study is: one YAML, read and checked here, and what it leaves, which reports are made of.

A study's folder is `RUNS/NAME` (`runs/kd`). It holds
- `study.yaml`: the study as it was begun, defaults filled in and overrides of the command line applied;
- `journal.log`: Optuna's storage, unless `storage` names another file or a PostgreSQL server;
- `trials/`: a run folder for each trial, with `config.yaml` and `metrics.csv`; weights are not kept;
- `final/`: a whole run folder (see `kdlab.run`) for each refit, named SETTING-seedN;
- `final.json`: what the refits came to, see `kdlab.finals`.

The storage holds one Optuna study, NAME; where the study compares options, one for each, NAME/OPTION; and for
the refits NAME/final. Optuna studies have the user attributes `plan` (the content of study.yaml), `arm` (OPTION
or null), `curve` (the metric that curves are of) and `objectives` ([[metric, direction], ...], in order of the
trials' values); their `metric_names` are set. A parameter is called as the key of the config that it sets; where
a key has several ranges, each belonging to a choice, `KEY@CHOICE`. Trials have Optuna's own state, params,
values and `constraints` (per text of a constraint, by how much of its bound it is broken; feasible where none is
above 0), and the user attributes
- `metrics`: {metric: value}, of the mean over seeds; `student.*` known before training are there from the start;
- `epochs`: length of the schedule, and `epochs_done`;
- `reason`: why it was pruned or failed, in one line; absent of complete trials;
- `folder`: its run folder, relative to the study's; the curve is also in its metrics.csv;
- `worker`: who ran it; `retry_of`: the number of the failed trial it repeats; `retries`: how often it was tried
  before and failed of itself. A trial that was repeated is no part of the budget beside its repetition.
- its curve, see `curve_of`: per epoch, the `curve` metric of its first seed. Compute is epochs × multiply-accumulates.
Trials of NAME/final have no parameters; `setting`, `arm`, `seed`, `params` and `overrides` say what they refit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from kdlab.config import compose, groups
from kdlab.errors import UsageError, nearest
from kdlab.space import Dimension, chosen, declared_space, read_space, refuse_impossible, written

Settings = Mapping[str, Any]

DEFAULTS: Settings = {
    "name": None,
    "overrides": [],
    "compare": None,
    "space": {},
    "objectives": {"validation.accuracy": "maximize"},
    "constraints": [],
    "sampler": {"_target_": "optuna.samplers.TPESampler"},
    "pruner": None,
    "budget": {"trials": 50, "seconds": None},
    "first": [],
    "seed": 0,
    "seeds": 1,
    "retries": 1,
    "hang_seconds": 600,
    "workers": 1,
    "storage": None,
    "final": {"seeds": 5, "of": "best", "default": True, "same": []},
}
"""Every key of a study with what it is where the YAML does not say."""

FREE = ("budget", "retries", "hang_seconds", "workers", "storage", "final")
"""The keys that may change when a study goes on; with any other it would be another study."""

COSTS = ("student.parameters", "student.multiply_accumulates", "student.bytes", "student.latency_ms")
"""The metrics of a student that are known before it is trained. Less is better."""

TIMES = ("student.seconds", "student.samples_per_second")
"""Those of its training."""


@dataclass(frozen=True)
class Constraint:
    """A bound on a metric, `student.parameters <= 200000`."""

    text: str
    metric: str
    most: bool
    bound: float

    def violation(self, value: float) -> float:
        """By how much a value breaks the bound, in parts of the bound; 0 or below where it holds."""
        excess = value - self.bound if self.most else self.bound - value
        return excess / abs(self.bound) if self.bound else excess


@dataclass(frozen=True)
class Arm:
    """One search: a space, and its own share of trials. A study that compares nothing has a single one.

    option: what is compared here, None where nothing is. default: the point that its config publishes.
    """

    option: str | None
    overrides: tuple[str, ...]
    space: tuple[Dimension, ...]
    default: Settings
    first: tuple[Settings, ...]


@dataclass(frozen=True)
class Plan:
    """A study, read and checked as far as can be without torch. `settings` is its YAML, whole."""

    settings: Settings
    folders: tuple[Path, ...]
    arms: tuple[Arm, ...]
    objectives: Mapping[str, str]
    constraints: tuple[Constraint, ...]
    runs: Path

    @property
    def name(self) -> str:
        return str(self.settings["name"])

    @property
    def folder(self) -> Path:
        """Where the study lies."""
        return self.runs / self.name

    @property
    def storage(self) -> str:
        """The file of a journal, or the URL of a PostgreSQL server."""
        return str(self.settings["storage"] or self.folder / "journal.log")

    @property
    def curve(self) -> str:
        """The metric that is followed while a trial trains."""
        return next(metric for metric in self.objectives if metric.startswith("validation."))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those that it reads, of objectives and constraints."""
        return tuple(dict.fromkeys([*self.objectives, *(constraint.metric for constraint in self.constraints)]))

    def titled(self, arm: Arm) -> str:
        """The name of an arm's Optuna study."""
        return self.name if arm.option is None else f"{self.name}/{arm.option}"

    def compose(self, overrides: Sequence[str]) -> dict[str, Any]:
        """The config of a run."""
        return compose(overrides, self.folders)


def read_plan(file: Path, overrides: Sequence[str] = (), folders: Sequence[Path] = ()) -> Plan:
    """Reads a study and refuses a wrong one; no torch, a tenth of a second for each option of its choices.

    Args:
        file: the YAML.
        overrides: `KEY=VALUE`, of the study (`workers=4`, `budget.trials=20`) or of its runs (`data=cifar10`).
        folders: further folders of config files.

    Raises:
        UsageError: in one line.
    """
    if not file.is_file():
        raise UsageError(f"{file}: there is no such study; expected a YAML file, as in sweeps/")
    try:
        given = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise UsageError(f"{file} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(given, dict):
        raise UsageError(f"{file}: expected the keys of a study, {', '.join(DEFAULTS)}")
    return make_plan(with_overrides({"name": file.stem, **given}, overrides), folders)


def with_overrides(given: Settings, overrides: Sequence[str]) -> dict[str, Any]:
    """A study's settings with `KEY=VALUE` of the command line; keys that no study has are those of its runs."""
    changed = {**given}
    for override in overrides:
        key, equals, value = override.partition("=")
        head, _, rest = key.partition(".")
        if not equals:
            raise UsageError(f"{override}: expected KEY=VALUE")
        if head not in DEFAULTS:
            changed["overrides"] = [*changed.get("overrides", []), override]
        elif rest:
            changed[head] = {**(changed.get(head) or {}), rest: yaml.safe_load(value)}
        else:
            changed[head] = yaml.safe_load(value)
    return changed


def make_plan(given: Settings, folders: Sequence[Path] = ()) -> Plan:
    """The plan that plain settings describe.

    Raises:
        UsageError: where they describe none.
    """
    settings = _filled(given)
    _check_numbers(settings)
    objectives = _objectives(settings["objectives"])
    constraints = tuple(read_constraint(text) for text in settings["constraints"])
    if settings["pruner"] and len(objectives) > 1 and str(settings["pruner"].get("_target_")).startswith("optuna."):
        raise UsageError(
            f"pruner._target_={settings['pruner']['_target_']}: Optuna's pruners know one objective, and here are "
            f"{len(objectives)}; expected kdlab.pruning.DominatedPruner"
        )
    for part in ("sampler", "pruner"):
        if "seed" in (settings[part] or {}):
            raise UsageError(f"{part}.seed: a study has one seed, of its own; set seed={settings[part]['seed']}")
    arms = tuple(_arm(option, settings, folders) for option in _options(settings["compare"], folders))
    config = compose([*arms[0].overrides, *written(arms[0].default)], folders)
    if not config["data"]["validation"]:
        raise UsageError("data.validation=0: a study selects by validation, and so needs a part to validate on")
    if config["trainer"]["devices"] not in (1, "auto"):
        raise UsageError(
            f"trainer.devices={config['trainer']['devices']}: a study trains each trial on one device; "
            "as many at once as workers=COUNT says"
        )
    for key in settings["final"]["same"]:
        if not any(dimension.key == key for arm in arms for dimension in arm.space):
            raise UsageError(f"final.same: {key} is not in the space")
    return Plan(settings, tuple(folders), arms, objectives, constraints, Path(config["runs"]))


def read_constraint(text: object) -> Constraint:
    """A constraint from its text."""
    parts = str(text).split()
    if len(parts) != 3 or parts[1] not in ("<=", ">="):
        raise UsageError(f"constraints: {text}: expected METRIC <= NUMBER or METRIC >= NUMBER")
    try:
        bound = float(parts[2])
    except ValueError as error:
        raise UsageError(f"constraints: {text}: {parts[2]} is no number") from error
    return Constraint(str(text), _metric(parts[0], "constraints"), parts[1] == "<=", bound)


def curve_of(trial: FrozenTrial) -> dict[int, float]:
    """{epochs done: the curve's metric}, in order, of a trial from the storage.

    Optuna holds intermediate values of studies with one objective alone; beside several, its sampler stumbles
    over a pruned trial that has some. There they are user attributes, `curve/EPOCH`.
    """
    found = dict(trial.intermediate_values)
    for key, value in trial.user_attrs.items():
        if key.startswith("curve/"):
            found[int(key.removeprefix("curve/"))] = value
    return dict(sorted(found.items()))


def distributions(arm: Arm) -> dict[str, BaseDistribution]:
    """Of each parameter of an arm, by its name."""
    return {dimension.name: dimension.distribution for dimension in arm.space}


def _filled(given: Settings) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for key in given:
        if key not in DEFAULTS:
            raise UsageError(f"{key}: a study has no such key{nearest(str(key), DEFAULTS)}")
    for key, default in DEFAULTS.items():
        value = given.get(key, default)
        if key in ("budget", "final"):
            if not isinstance(value, Mapping):
                raise UsageError(f"{key}={value}: expected some of the keys {', '.join(default)}")
            for name in value:
                if name not in default:
                    raise UsageError(f"{key}.{name}: {key} has no such key{nearest(str(name), default)}")
            value = {**default, **value}
        elif isinstance(default, (list, dict)) and not isinstance(value, type(default)):
            kind = "a list" if isinstance(default, list) else "a group of keys"
            raise UsageError(f"{key}={value}: expected {kind}")
        settings[key] = value
    if not settings["name"] or "/" in str(settings["name"]):
        raise UsageError(f"name={settings['name']}: expected a name that can be a folder's")
    return settings


def _check_numbers(settings: Settings) -> None:
    counts = {
        "budget.trials": (settings["budget"]["trials"], 1),
        "seeds": (settings["seeds"], 1),
        "workers": (settings["workers"], 1),
        "seed": (settings["seed"], 0),
        "retries": (settings["retries"], 0),
        "final.seeds": (settings["final"]["seeds"], 0),
    }
    for key, (value, least) in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UsageError(f"{key}={value}: expected a whole number, {least} or more")
    for key, value in (("budget.seconds", settings["budget"]["seconds"]), ("hang_seconds", settings["hang_seconds"])):
        if value is not None and (not isinstance(value, (int, float)) or value <= 0):
            raise UsageError(f"{key}={value}: expected seconds, above 0, or null")
    if settings["final"]["of"] not in ("best", "front"):
        raise UsageError(f"final.of={settings['final']['of']}: expected best or front")


def _objectives(given: Settings) -> dict[str, str]:
    found = {}
    for name, direction in given.items():
        if direction not in ("maximize", "minimize"):
            raise UsageError(f"objectives.{name}={direction}: expected maximize or minimize")
        found[_metric(name, "objectives")] = direction
    if not any(metric.startswith("validation.") for metric in found):
        raise UsageError("objectives: expected one of the validation part among them, such as validation.accuracy")
    return found


def _metric(name: str, key: str) -> str:
    """The whole name of a metric; what the student costs goes without saying whose it is."""
    known = {cost.removeprefix("student."): cost for cost in (*COSTS, *TIMES)}
    metric = known.get(name, name)
    if metric.startswith("test."):
        raise UsageError(f"{key}: {name}: a study sees validation alone; test is read once, by the final refits")
    if metric not in known.values() and not metric.startswith("validation."):
        raise UsageError(f"{key}: no run writes {name}{nearest(name, ['validation.accuracy', *known.values()])}")
    return metric


def _options(compare: object, folders: Sequence[Path]) -> list[tuple[str, str] | None]:
    """The (group, option) pairs that a study compares; [None] where it compares nothing."""
    if compare is None:
        return [None]
    known = groups(folders)
    if not isinstance(compare, Mapping) or len(compare) != 1 or next(iter(compare)) not in known:
        raise UsageError(f"compare={compare}: expected one group and its options, {{loss: [kd, dkd]}}")
    group, options = next(iter(compare.items()))
    if not isinstance(options, list) or len(set(options)) < 2:
        raise UsageError(f"compare.{group}={options}: expected two options or more")
    for option in options:
        if option not in known[group]:
            raise UsageError(f"compare.{group}: {option} is no option{nearest(str(option), known[group])}")
    return [(group, option) for option in options]


def _arm(option: tuple[str, str] | None, settings: Settings, folders: Sequence[Path]) -> Arm:
    overrides = [str(override) for override in settings["overrides"]]
    space = dict(settings["space"])
    if option is not None:
        overrides.append(f"{option[0]}={option[1]}")
        space |= declared_space(*option, folders)
    if not space:
        raise UsageError("space: expected a key to search, such as loss.temperature: {low: 1.0, high: 8.0}")
    dimensions = read_space(space, folders)
    refuse_impossible(dimensions, overrides, folders)
    default = chosen(dimensions, {}, overrides, folders)
    first = [chosen(dimensions, point, overrides, folders) for point in settings["first"]] if option is None else []
    if option is not None and settings["first"]:
        raise UsageError("first: a study that compares options tries the published setting of each first, no other")
    return Arm(option and option[1], tuple(overrides), dimensions, default, (default, *first))
