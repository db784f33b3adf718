"""Reads run folders and groups those that differ only in the seed."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from kdlab.config.ranges import leaves
from kdlab.config.schema import EnsembleConfig, RunConfig, TeacherConfig
from kdlab.config.settings import parse
from kdlab.core.errors import UsageError
from kdlab.run.loggers import read_metrics
from kdlab.run.recipe import Recipe, key_of, recipe_of

Curve = Sequence[tuple[float, float]]
Teachers = TeacherConfig | EnsembleConfig | None

NAMES = ("loss", "mode", "teacher", "model", "data")
"""The names of a run; where these do not distinguish it from others, its keys do."""

EPOCHS = {"last": "last epoch", "best": "best epoch by validation"}
"""The epochs that were tested."""


@dataclass(frozen=True)
class Run:
    """One complete run: its folder, its config and its result.json."""

    folder: Path
    config: RunConfig
    result: dict[str, Any]

    @property
    def seed(self) -> int:
        return int(self.result["seeds"]["run"])

    @property
    def primary(self) -> str:
        """The primary metric of its task."""
        return str(self.result["primary"])

    def test(self, row: str, epoch: str) -> float | None:
        """The primary metric on the test part: of `student`, `alone` or `teacher`, at the `last` or `best` epoch."""
        found = (self.result[row] or {}).get("test", {}).get(epoch, {}).get(self.primary)
        return None if found is None else float(found)

    def validation(self, row: str) -> float | None:
        """The primary metric on the validation part, at the last epoch."""
        found = ((self.result[row] or {}).get("validation") or {}).get("last")
        return None if found is None else float(found)

    @cached_property
    def setting(self) -> Recipe:
        """All that determines its student, except the seeds."""
        config = self.config.replace(seed=0, teacher=_seedless(self.config.teacher))
        checkpoints = {teacher.checkpoint: teacher.checkpoint for teacher in config.teachers if teacher.checkpoint}
        return recipe_of(config, self.result["data"]["fingerprint"], checkpoints)


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seeds. label: what distinguishes them from other groups."""

    label: str
    runs: tuple[Run, ...]

    @property
    def distills(self) -> bool:
        """Whether its students learned from more than labels."""
        return self.runs[0].config.distils

    @property
    def has_baseline(self) -> bool:
        """Whether every run also has a student trained alone."""
        return all(run.result["alone"] for run in self.runs)

    @property
    def seeds(self) -> list[int]:
        return sorted({run.seed for run in self.runs})

    def test(self, row: str, epoch: str) -> dict[int, float]:
        """Test values by seed, where every run has one; runs that share a seed count once, by their mean."""
        found = defaultdict(list)
        for run in self.runs:
            if (value := run.test(row, epoch)) is None:
                return {}
            found[run.seed].append(value)
        return {seed: fmean(found[seed]) for seed in sorted(found)}


@dataclass(frozen=True)
class ResultSet:
    """The groups that were tested on the same data by the same metric. title: of the metric."""

    data: str
    samples: int
    metric: str
    title: str
    direction: str
    groups: tuple[Group, ...]

    @property
    def common(self) -> str:
        """The names that all its runs share."""
        runs = [run for group in self.groups for run in group.runs]
        shared = {name: {run.result["names"].get(name) for run in runs} for name in NAMES if name != "data"}
        return ", ".join(f"{name} {next(iter(of))}" for name, of in shared.items() if len(of) == 1 and any(of))


def read_run(folder: Path) -> Run:
    """Reads a run folder.

    Raises:
        UsageError: where it holds no complete run.
    """
    file = folder / "result.json"
    if not file.is_file():
        raise UsageError(f"{folder}: the run is not complete; continue it with python -m kdlab.train resume={folder}")
    try:
        result = json.loads(file.read_text())
        content = yaml.safe_load((folder / "config.yaml").read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{folder}: {' '.join(str(error).split())}") from error
    if result.get("version") != 1:
        raise UsageError(f"{file}: version {result.get('version')} of results; this kdlab reads version 1")
    try:
        config = parse(RunConfig, content)
    except UsageError as error:
        raise UsageError(f"{folder / 'config.yaml'} is damaged, or of another version: {error}") from error
    return Run(folder, config, result)


def result_sets(runs: Sequence[Run]) -> list[ResultSet]:
    """Groups runs by everything except their seeds, and the groups by their test data."""
    tested: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        tested[run.result["data"]["fingerprint"], run.primary].append(run)
    found = []
    for several in tested.values():
        settings: dict[str, list[Run]] = defaultdict(list)
        for run in several:
            settings[key_of(run.setting)].append(run)
        labels = distinguishing_labels([_described(members[0]) for members in settings.values()])
        groups = [Group(label, tuple(members)) for label, members in zip(labels, settings.values(), strict=True)]
        found.append(result_set_of(groups))
    return found


def result_set_of(groups: Sequence[Group]) -> ResultSet:
    """Joins groups that were tested on the same data by the same metric."""
    result, metric = groups[0].runs[0].result, groups[0].runs[0].primary
    return ResultSet(
        str(result["names"]["data"]), result["data"]["test"], metric, result["titles"][metric],
        result["directions"][metric], tuple(groups),
    )  # fmt: skip


def distinguishing_labels(described: Sequence[Mapping[str, Any]]) -> list[str]:
    """A label for each of several settings: the first key in which they differ, then for those still equal the next.

    Args:
        described: of each, a value by key; keys that come first are preferred.
    """
    keys = list(dict.fromkeys(key for one in described for key in one))
    labels: list[list[str]] = [[] for _ in described]

    def split(members: Sequence[int]) -> None:
        for key in keys:
            classes: dict[str, list[int]] = defaultdict(list)
            for place in members:
                classes[json.dumps(described[place].get(key), default=str)].append(place)
            if len(classes) > 1:
                for several in classes.values():
                    for place in several:
                        labels[place].append(_key_value(key, described[place].get(key)))
                    split(several)
                return

    split(range(len(described)))
    return [
        " ".join(label or [_key_value(key, one[key]) for key in keys[:1]])
        for label, one in zip(labels, described, strict=True)
    ]


def read_curve(file: Path, metric: str) -> Curve:
    """(epoch, value) of a metric in a metrics.csv, in order; empty where there is none."""
    if not file.is_file():
        return []
    return [(row["epoch"], row[metric]) for row in read_metrics(file) if metric in row]


def loss_curves(file: Path) -> dict[str, Curve]:
    """The curve of every term of the loss in a metrics.csv, by its name."""
    with file.open(newline="") as stream:
        columns = next(csv.reader(stream), [])
    return {name.removeprefix("loss/"): read_curve(file, name) for name in columns if name.startswith("loss/")}


def _seedless(teacher: Teachers) -> Teachers:
    """A teacher's settings, its own teachers' included, with one seed for all."""
    if isinstance(teacher, EnsembleConfig):
        return teacher.replace(members={name: _seedless(member) for name, member in teacher.members.items()})
    return teacher and teacher.replace(seed=0, teacher=_seedless(teacher.teacher))


def _described(run: Run) -> dict[str, Any]:
    """A run by its names, then by every key that determines it, those nearest to the root first."""
    depth: Callable[[tuple[str, Any]], int] = lambda pair: pair[0].count(".")  # noqa: E731
    decisive = {key: value for key, value in run.setting.items() if key != "teachers"}
    decisive["loss"] = {**run.config.loss.plain(), **decisive["loss"]}
    named = {name: run.result["names"].get(name) for name in NAMES}
    if not decisive["loss"]["heads"]:
        named["loss"] = None
    teacher = _seedless(run.config.teacher)
    decisive["teacher"] = teacher and teacher.plain()
    return {**named, **dict(sorted(leaves(decisive), key=depth))}


def _key_value(key: str, value: Any) -> str:
    if key in NAMES:
        return str(value) if value else "labels alone" if key == "loss" else f"no {key}"
    return f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
