"""Reads the YAML of a study, and refuses a wrong one in one line.

    name: kd                                       # of the study; by default the file's
    overrides: [model=mobilenet, loss=kd]          # of every run
    compare: {loss: [kd, all]}                     # one search each, equal budgets, in the space its YAML declares
    space: {loss.temperature: {low: 1.0, high: 16.0, log: true}}               # see kdlab.study.search_space
    objectives: {validation.accuracy: maximize, student.multiply_accumulates: minimize}
    constraints: [student.parameters <= 200000, latency_ms <= 2]
    sampler: {_target_: optuna.samplers.TPESampler}
    pruner: {_target_: kdlab.study.pruner.DominatedPruner}
    budget: {trials: 60, seconds: 3600}            # of each arm; of each start of the command, null: no limit
    first: [{loss.temperature: 1.0}]               # points to try after the published one, completed from it
    seed: 0                                        # of the sampler
    seeds: 1                                       # networks per trial; its values are their means
    retries: 1                                     # of a trial whose process failed
    hang_seconds: 600                              # without a sign of life before a process counts as failed
    workers: 2                                     # processes on this machine
    storage: null                                  # a journal in the study's folder; a FILE, or postgresql://...
    final: {seeds: 5, of: best, default: true, same: [model.width]}

`final` refits the best setting, or with `of: front` all of the front, with `seeds` seeds; `default` also the
published setting, which takes the keys named in `same` from the one it is compared with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdlab.config.compose import compose, groups
from kdlab.config.overrides import group_of, packages_of
from kdlab.config.ranges import check
from kdlab.config.settings import Settings, parse
from kdlab.config.yaml_file import parse_yaml, read_yaml
from kdlab.core.errors import UsageError, nearest
from kdlab.study.pruner import DominatedPruner
from kdlab.study.rehearsal import rehearse
from kdlab.study.schema import StudyConfig
from kdlab.study.search_space import chosen, declared_space, read_space, refuse_impossible, written
from kdlab.study.spec import COSTS, TIMES, Arm, Constraint, Plan, make_pruner, make_sampler

KEYS = StudyConfig.model_fields
"""The keys of a study."""


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
    given = read_yaml(file)
    if not isinstance(given, dict):
        raise UsageError(f"{file}: expected the keys of a study, {', '.join(KEYS)}")
    _refuse_code(given, file)
    return make_plan(with_overrides({"name": file.stem, **given}, overrides), folders)


def _refuse_code(given: Mapping[str, Any], file: Path) -> None:
    """Refuses a study that names packages whose code may run: only the command line does."""
    # What is not a list or a group of keys is refused by the schema.
    overrides, first = (held if isinstance(held := given.get(key), list) else [] for key in ("overrides", "first"))
    for override in overrides:
        if (packages := packages_of(str(override))) is not None:
            named = ",".join(packages)
            raise UsageError(
                f"{file}: overrides: {override}: packages whose code may run are named on the command line alone; to "
                f"run them leave it out and type python -m kdlab.sweep {file} 'allow=[{named}]'"
            )
    for key in (key for point in (given.get("space"), *first) if isinstance(point, Mapping) for key in point):
        if group_of(str(key).partition("@")[0].strip()) == "allow":
            raise UsageError(f"{file}: {key}: packages are named on the command line alone, 'allow=[mypackage]'")


def with_overrides(given: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A study's settings with `KEY=VALUE` of the command line; keys that are not a study's are those of its runs."""
    changed = {**given}
    for override in overrides:
        key, equals, value = override.partition("=")
        head, _, rest = key.partition(".")
        if not equals:
            raise UsageError(f"{override}: expected KEY=VALUE")
        if head not in KEYS:
            held = changed.get("overrides", [])
            changed["overrides"] = [*held, override] if isinstance(held, list | tuple) else held  # which is refused
        elif rest:
            default = KEYS[head].get_default(call_default_factory=True)
            held = default if changed.get(head) is None else changed[head]
            if not isinstance(held, Mapping | Settings | None) or isinstance(default, str):
                raise UsageError(f"{override}: {head} is a single value; expected {head}=VALUE")
            changed[head] = {**(held if isinstance(held, Mapping) else {}), rest: parse_yaml(value, override)}
        else:
            changed[head] = parse_yaml(value, override)
    return changed


def make_plan(given: Mapping[str, Any], folders: Sequence[Path] = ()) -> Plan:
    """The plan that plain settings describe.

    Raises:
        UsageError: where they are not a valid study.
    """
    settings = parse(StudyConfig, given)
    check({"name": settings.name})
    if (where := settings.storage) is not None and "://" not in where:
        settings = settings.replace(storage=str(Path(where).absolute()))
    objectives = _objectives(settings.objectives)
    constraints = tuple(read_constraint(text) for text in settings.constraints)
    if "seed" in settings.sampler:
        raise UsageError(f"sampler.seed: the sampler takes the study's seed; set seed={settings.sampler['seed']}")
    make_sampler(settings.sampler, settings.seed, 0)
    pruner = make_pruner(settings.pruner)
    if isinstance(pruner, DominatedPruner):
        pruner.check(objectives)
    elif settings.pruner is not None and len(objectives) > 1:
        raise UsageError(
            f"pruner._target_={settings.pruner['_target_']}: Optuna's pruners support one objective, but there are "
            f"{len(objectives)}; expected kdlab.study.pruner.DominatedPruner"
        )
    arms = tuple(_arm(option, settings, folders) for option in _options(settings.compare, folders))
    rehearse(settings, [arm.space for arm in arms], objectives)
    config = compose([*arms[0].overrides, *written(arms[0].default)], folders)
    if not config.data.validation:
        raise UsageError("data.validation=0: a study selects by validation; set data.validation=COUNT")
    if config.trainer.devices not in (1, "auto"):
        raise UsageError(
            f"trainer.devices={config.trainer.devices}: a study trains each trial on one device; "
            "for several at once set workers=COUNT"
        )
    for key in settings.final.same:
        if not any(dimension.key == key for arm in arms for dimension in arm.space):
            raise UsageError(f"final.same: {key} is not in the space")
    return Plan(settings, tuple(folders), arms, objectives, constraints, Path(config.runs), config.seed, config.allow)


def read_constraint(text: object) -> Constraint:
    """A constraint from its text."""
    parts = str(text).split()
    if len(parts) != 3 or parts[1] not in ("<=", ">="):
        raise UsageError(f"constraints: {text}: expected METRIC <= NUMBER or METRIC >= NUMBER")
    try:
        bound = float(parts[2])
    except ValueError as error:
        raise UsageError(f"constraints: {text}: {parts[2]} is not a number") from error
    return Constraint(str(text), _metric(parts[0], "constraints"), parts[1] == "<=", bound)


def _objectives(given: Mapping[str, str]) -> dict[str, str]:
    found = {_metric(name, "objectives"): direction for name, direction in given.items()}
    if not any(metric.startswith("validation.") for metric in found):
        raise UsageError("objectives: expected at least one on the validation part, such as validation.accuracy")
    return found


def _metric(name: str, key: str) -> str:
    """The full name of a metric; `student.` may be omitted for its costs."""
    known = {cost.removeprefix("student."): cost for cost in (*COSTS, *TIMES)}
    metric = known.get(name, name)
    if metric.startswith("test."):
        raise UsageError(f"{key}: {name}: a study reads only validation; test is read once, by the final refits")
    if metric not in known.values() and not metric.startswith("validation."):
        raise UsageError(f"{key}: no run writes {name}{nearest(name, ['validation.accuracy', *known])}")
    return metric


def _options(compare: object, folders: Sequence[Path]) -> list[tuple[str, str] | None]:
    """The (group, option) pairs that a study compares; [None] where it compares nothing."""
    if compare is None:
        return [None]
    known = groups(folders)
    if not isinstance(compare, Mapping) or len(compare) != 1 or next(iter(compare)) not in known:
        raise UsageError(f"compare={compare}: expected one group and its options, {{loss: [kd, dkd]}}")
    group, given = next(iter(compare.items()))
    if not isinstance(given, list) or not all(isinstance(option, str) for option in given):
        raise UsageError(f"compare.{group}={given}: expected a list of options, or [all]")
    options = list(dict.fromkeys(name for option in given for name in (known[group] if option == "all" else [option])))
    if len(options) < 2:
        raise UsageError(f"compare.{group}={given}: expected two options or more")
    for option in options:
        if option not in known[group]:
            raise UsageError(f"compare.{group}: {option} is not an option{nearest(str(option), known[group])}")
    return [(group, option) for option in options]


def _arm(option: tuple[str, str] | None, settings: StudyConfig, folders: Sequence[Path]) -> Arm:
    overrides = list(settings.overrides)
    space = dict(settings.space)
    if option is not None:
        overrides.append(f"{option[0]}={option[1]}")
        space |= declared_space(*option, folders)
    if not space:
        raise UsageError("space: expected a key to search, such as loss.temperature: {low: 1.0, high: 8.0}")
    dimensions = read_space(space, folders)
    refuse_impossible(dimensions, overrides, folders)
    default = chosen(dimensions, {}, overrides, folders)
    first = [chosen(dimensions, point, overrides, folders) for point in settings.first] if option is None else []
    if option is not None and settings.first:
        raise UsageError(
            "first: a study that compares options tries only the published setting of each first; leave it out"
        )
    return Arm(option and option[1], tuple(overrides), dimensions, default, (default, *first))
