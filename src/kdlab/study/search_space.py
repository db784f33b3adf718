"""What a study searches: for each key of the config a range or choices, perhaps only with a certain other choice.

loss.temperature: {low: 1.0, high: 16.0, log: true}      # floats; two whole numbers give whole numbers
model: {choices: [mobilenet, resnet8]}                   # an option of a group, or values of a key
model.width: {choices: [0.5, 1.0], when: {model: resnet8}}
optimizer.lr:                                            # several ranges, each for its own choice
  - {low: 0.005, high: 0.5, log: true, when: {optimizer: sgd}}
  - {low: 0.0001, high: 0.01, log: true, when: {optimizer: adamw}}
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from kdlab.config.compose import compose, conf_folder, groups
from kdlab.config.loss_settings import DIALS
from kdlab.config.ranges import check
from kdlab.core.errors import UsageError, nearest

Point = Mapping[str, Any]
"""A value for each parameter that is active, by its name."""


@dataclass(frozen=True)
class Dimension:
    """A parameter: its name, the key that it sets, its values, and the choices that activate it."""

    name: str
    key: str
    distribution: BaseDistribution
    when: Mapping[str, tuple[Any, ...]]

    def active(self, point: Point) -> bool:
        """Whether it is active with the choices of a point."""
        known = by_key(point)
        return all(key in known and known[key] in values for key, values in self.when.items())

    def ends(self) -> tuple[Any, ...]:
        """Its lowest and highest value, or all of its choices."""
        if isinstance(self.distribution, CategoricalDistribution):
            return self.distribution.choices
        assert isinstance(self.distribution, (FloatDistribution, IntDistribution))
        return self.distribution.low, self.distribution.high

    def holds(self, value: Any) -> bool:
        """Whether a value is one of its values."""
        if isinstance(self.distribution, CategoricalDistribution):
            return value in self.distribution.choices
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and self.ends()[0] <= value <= self.ends()[1]

    def suggest(self, trial: Trial) -> Any:
        """A value, drawn by the study's sampler."""
        found = self.distribution
        if isinstance(found, CategoricalDistribution):
            return trial.suggest_categorical(self.name, found.choices)
        if isinstance(found, FloatDistribution):
            return trial.suggest_float(self.name, found.low, found.high, step=found.step, log=found.log)
        assert isinstance(found, IntDistribution)
        return trial.suggest_int(self.name, found.low, found.high, step=found.step, log=found.log)


def by_key(point: Point) -> dict[str, Any]:
    """A point by the keys that it sets."""
    return {name.split("@")[0]: value for name, value in point.items()}


def read_space(space: Mapping[str, Any], folders: Sequence[Path] = ()) -> tuple[Dimension, ...]:
    """The dimensions of a space, each checked.

    Raises:
        UsageError: where a range is empty, a choice unknown, or a value outside the range of its key.
    """
    known = groups(folders)
    found: list[Dimension] = []
    for key, described in space.items():
        several = described if isinstance(described, list) else [described]
        for spec in several:
            if not isinstance(spec, Mapping):
                raise UsageError(f"space.{key}={spec}: expected {{low: .., high: ..}} or {{choices: [..]}}")
            when = _when(key, spec.get("when") or {}, found)
            distribution = _distribution(key, spec)
            choice = "+".join(str(value) for values in when.values() for value in values)
            dimension = Dimension(f"{key}@{choice}" if len(several) > 1 else key, key, distribution, when)
            if any(dimension.name == other.name for other in found):
                raise UsageError(f"space.{key}: two ranges for one choice; distinguish them by `when`")
            for value in dimension.ends():
                if key not in known:
                    check({key: value})
                elif value not in known[key]:
                    raise UsageError(f"space.{key}: {value} is not an option{nearest(str(value), known[key])}")
            found.append(dimension)
    return tuple(found)


def chosen(
    space: Sequence[Dimension], given: Mapping[str, Any], overrides: Sequence[str], folders: Sequence[Path] = ()
) -> dict[str, Any]:
    """The point that `given` describes by key; other keys have the published values of the config.

    Raises:
        UsageError: where a value is not in the space.
    """
    point = published(space, given, overrides, folders)
    for dimension in space:
        if dimension.name in point and not dimension.holds(value := point[dimension.name]):
            key = dimension.key
            always = f"space.{key}: the published {value}, which is always tried first,"
            whence = f"first: {key}={value}" if key in given else always
            raise UsageError(f"{whence} is not among {_range(dimension)}")
    keys = by_key(point)
    for key in given:
        if key not in keys:
            raise UsageError(f"first: {key} is not in the space, or not with that choice{nearest(key, keys)}")
    return point


def published(
    space: Sequence[Dimension], kept: Mapping[str, Any], overrides: Sequence[str], folders: Sequence[Path] = ()
) -> dict[str, Any]:
    """The config's published point with the values in `kept`, by key; possibly outside the ranges.

    A key in `kept` that is inactive with the choices is left out.

    Raises:
        UsageError: where the config has no such key.
    """
    point: dict[str, Any] = {}
    config = cache(lambda *chosen: compose([*overrides, *chosen], folders).plain())
    known = groups(folders)
    for dimension in space:
        key = dimension.key
        if not dimension.active(point):
            continue
        if key in kept:
            point[dimension.name] = kept[key]
        elif key in known:
            point[dimension.name] = _option(key, overrides)
        else:
            chosen = written({name: value for name, value in by_key(point).items() if name in known})
            point[dimension.name] = _value(key, config(*chosen))
    return point


def refuse_impossible(space: Sequence[Dimension], overrides: Sequence[str], folders: Sequence[Path] = ()) -> None:
    """Composes the config of every option, see `options`.

    Raises:
        UsageError: where there is no such key, or not with that choice.
    """
    for point in options(space):
        compose([*overrides, *written(point)], folders)


def options(space: Sequence[Dimension]) -> list[dict[str, Any]]:
    """A point for every choice of a space, with the first of all other choices and ranges at their low end; and one
    with ranges at their high end."""
    forks = _forks(space)
    variants: list[dict[str, Any]] = [{}]
    variants += [{**_way_to(fork, forks), fork.key: choice} for fork in forks for choice in fork.ends()]
    found: list[dict[str, Any]] = []
    for variant, end in ((variants[0], -1), *((variant, 0) for variant in variants)):
        point: dict[str, Any] = {}
        for dimension in space:
            if dimension.active(point):
                choices = isinstance(dimension.distribution, CategoricalDistribution)
                point[dimension.name] = variant.get(dimension.key, dimension.ends()[0 if choices else end])
        if point not in found:
            found.append(point)
    return found


def written(point: Point) -> list[str]:
    """The overrides that set a point."""
    return [f"{key}={_literal(value)}" for key, value in by_key(point).items()]


def suggest(trial: Trial, space: Sequence[Dimension]) -> dict[str, Any]:
    """A point for a trial, drawn one dimension after another."""
    point: dict[str, Any] = {}
    for dimension in space:
        if dimension.active(point):
            point[dimension.name] = dimension.suggest(trial)
    return point


def declared_space(group: str, option: str, folders: Sequence[Path] = ()) -> dict[str, Any]:
    """The space that a loss declares, by keys of the config; empty where an option declares none."""
    files = [folder / group / f"{option}.yaml" for folder in (*folders, conf_folder())]
    content = yaml.safe_load(next(file for file in files if file.is_file()).read_text())
    dials = content.get("published", {}).get(option, {})
    found = {}
    for key, spec in content.get("space", {}).get(option, {}).items():
        found[f"loss.{key}" if key in DIALS and key in dials else f"loss.heads.{option}.{key}"] = spec
    return found


def _distribution(key: str, spec: Mapping[str, Any]) -> BaseDistribution:
    known = ("choices", "when") if "choices" in spec else ("low", "high", "log", "step", "when")
    for name in spec:
        if name not in known:
            raise UsageError(f"space.{key}.{name}: not a key of a range{nearest(str(name), known)}")
    if "choices" in spec:
        choices = spec["choices"]
        if not isinstance(choices, list) or not choices:
            raise UsageError(f"space.{key}.choices={choices}: expected a list of values")
        if any(isinstance(choice, (list, dict)) for choice in choices):
            raise UsageError(f"space.{key}.choices={choices}: expected single values, words or numbers")
        return CategoricalDistribution(choices)
    low, high = _number(key, "low", spec), _number(key, "high", spec)
    step = _number(key, "step", spec) if spec.get("step") is not None else None
    if low >= high:
        raise UsageError(f"space.{key}: low {low} is not below high {high}; for one value use overrides")
    try:
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log=bool(spec.get("log")), step=int(step or 1))
        return FloatDistribution(low, high, log=bool(spec.get("log")), step=step)
    except ValueError as error:
        raise UsageError(f"space.{key}: {error}") from error


def _number(key: str, name: str, spec: Mapping[str, Any]) -> int | float:
    value = spec.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        hint = "; YAML reads 1e-3 as a word, write 1.0e-3" if isinstance(value, str) else ""
        raise UsageError(f"space.{key}.{name}={value}: expected a number{hint}")
    return value


def _when(key: str, given: Any, before: Sequence[Dimension]) -> dict[str, tuple[Any, ...]]:
    if not isinstance(given, Mapping):
        raise UsageError(f"space.{key}.when={given}: expected the choice it belongs to, {{loss: kd}}")
    choices: dict[str, list[Any]] = {}  # of all ranges of a key
    for fork in _forks(before):
        choices.setdefault(fork.key, []).extend(fork.ends())
    found = {}
    for name, value in given.items():
        if name not in choices:
            raise UsageError(f"space.{key}.when.{name}: no choice above it has this name{nearest(str(name), choices)}")
        found[name] = tuple(value) if isinstance(value, list) else (value,)
        for choice in found[name]:
            if choice not in choices[name]:
                expected = ", ".join(dict.fromkeys(map(_literal, choices[name])))
                raise UsageError(f"space.{key}.when.{name}={choice}: expected one of {expected}")
    return found


def _forks(space: Sequence[Dimension]) -> list[Dimension]:
    return [dimension for dimension in space if isinstance(dimension.distribution, CategoricalDistribution)]


def _way_to(dimension: Dimension, forks: Sequence[Dimension]) -> dict[str, Any]:
    """Choices, by key, that activate a dimension."""
    found: dict[str, Any] = {}
    for key, (choice, *_) in dimension.when.items():
        before = next(fork for fork in forks if fork.key == key and fork.holds(choice))
        found |= {**_way_to(before, forks), key: choice}
    return found


def _option(group: str, overrides: Sequence[str]) -> Any:
    """The option of a group that overrides choose, else the config's default."""
    named = [override.split("=", 1)[1] for override in overrides if override.split("=", 1)[0] == group]
    defaults = yaml.safe_load((conf_folder() / "train.yaml").read_text())["defaults"]
    own = [entry[group] for entry in defaults if isinstance(entry, Mapping) and group in entry]
    value = [*own, *named][-1]
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _value(key: str, config: Any) -> Any:
    for part in key.split("."):
        if not isinstance(config, Mapping) or part not in config:
            known = [f"{key.rpartition('.')[0]}.{name}" for name in config] if isinstance(config, Mapping) else []
            raise UsageError(f"space.{key}: there is no such key{nearest(key, known)}")
        config = config[part]
    return config


def _range(dimension: Dimension) -> str:
    if isinstance(dimension.distribution, CategoricalDistribution):
        return ", ".join(_literal(choice) for choice in dimension.ends())
    low, high = dimension.ends()
    return f"{low} to {high}"


def _literal(value: Any) -> str:
    """A value in the grammar of overrides."""
    if isinstance(value, str) and re.fullmatch(r"[\w./+\-]+|\[[\w,]+\]", value):
        return value
    return json.dumps(value)
