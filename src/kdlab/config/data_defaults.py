"""Defaults that data propose for a run over them: `proposes` in their YAML.

Text asks for another task, optimizer and network than pictures do. What data propose holds unless the user, or an
experiment, chose otherwise: an option of a group wins over all that is proposed for that group, a key over its value.
Proposals for `optimizer`, `scheduler` and `trainer` hold for the training of teachers too; one for a dial of the loss,
`loss.temperature`, for every loss that reads it, unless a mode proposes its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

TRAINING = ("optimizer", "scheduler", "trainer")
"""Groups that a teacher has too."""


def proposals(
    proposed: Mapping[str, Any], teacher: Any, given: Sequence[str], groups: Mapping[str, Any]
) -> tuple[list[str], dict[str, Any]]:
    """The options, as overrides `optimizer@teacher.optimizer=adamw`, and the values, by key, that data propose.

    Args:
        proposed: options of groups, `optimizer`, or for the teacher alone `teacher.model`, and values of keys.
        teacher: the group of the run.
        given: the keys and groups of the user's own overrides, and of the experiments that they name.
        groups: of the config.
    """
    options, values = [], {}
    for where in ("", *_places(teacher)):
        for key, value in proposed.items():
            group = key.split(".")[0]
            if where and group not in TRAINING:
                continue
            key = f"{where}.{key}" if where else key
            owner, _, last = key.rpartition(".")
            if last in groups:
                chosen = f"{last}@{key}" if owner else last
                options += [f"{chosen}={value}"] if chosen not in given and owner not in given else []
            elif key not in given and (group in ("trainer", "loss") or not {owner, f"{group}@{owner}"} & {*given}):
                values[key] = value
    return options, values


def _places(teacher: Any, where: str = "teacher") -> Iterator[str]:
    """The keys of the teachers in a group: `teacher`, `teacher.members.m0`, `teacher.teacher`."""
    if not isinstance(teacher, Mapping):
        return
    if "members" in teacher:
        for name, member in teacher["members"].items():
            yield from _places(member, f"{where}.members.{name}")
        return
    yield where
    yield from _places(teacher.get("teacher"), f"{where}.teacher")
