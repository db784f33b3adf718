"""Turns what a user may type into Hydra's syntax: `teacher=resnet56`, `teacher.teacher=resnet110`, `~/file`."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdlab.config.ranges import ABSENT, expected, lookup
from kdlab.core.errors import UsageError, nearest

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

Known = Mapping[str, Sequence[str]]
"""The groups of the config, with their options."""


MOST = 1000
"""Overrides of a command line."""

LONGEST = 100_000
"""Characters of an override."""


class Mark(Enum):
    """How an override is to be read."""

    AS_WRITTEN = "as it is written"
    CHOSEN = "an option for a group of keys within a teacher, whether or not it has one already"
    IMPLIED = "the same, unless the user chose one"


Spelled = tuple[Mark, str]

_TEACHER = r"teacher(?:\.teacher|\.members\.\w+)*"
_WITHIN = re.compile(rf"({_TEACHER})\.(model|optimizer|scheduler|mode|loss|teacher)")
"""The groups of a teacher that are chosen by an option."""

_BASE = re.compile(rf"(?:{_TEACHER}\.)?model\.base")
"""The network within one, which is chosen by an option."""


def read(overrides: Sequence[str], known: Known) -> list[tuple[Mark, Override]]:
    """The overrides, in Hydra's syntax and parsed.

    Raises:
        UsageError: where one cannot be parsed, removes a key, names an unknown option or lists values.
    """
    if len(overrides) > MOST:
        raise UsageError(f"expected {MOST} overrides at most, got {len(overrides)}")
    for text in overrides:
        if len(text) > LONGEST:
            raise UsageError(f"{text[:40]}...: expected {LONGEST} characters at most, got {len(text)}")
        if control := next((letter for letter in text if unicodedata.category(letter) == "Cc"), None):
            raise UsageError(f"{text!r}: expected no control characters such as {control!r}")
    found = [(mark, _parsed(text)) for given in overrides for mark, text in _spelled(given, known)]
    for _, override in found:
        if override.is_sweep_override():
            raise UsageError("a list of values in one key is a study: write it in a file for python -m kdlab.sweep")
        if override.is_delete():
            key = group_of(str(override.input_line))
            raise UsageError(f"~{key} cannot be removed; give it another value instead, {key}=VALUE")
        is_choice(override.key_or_group, override.value(), known, where=override.package)
    return found


def is_choice(group: str, value: Any, known: Known, where: str | None = None) -> bool:
    """Whether an override chooses options of a group.

    Args:
        group: of the options, or a key.
        value: one option, or a list of losses or experiments.
        known: the groups.
        where: the key that it is chosen for, where that is not the group.

    Raises:
        UsageError: where there is no such option.
    """
    if group not in known:
        return False
    if isinstance(value, list) and group not in ("loss", "experiment"):
        raise UsageError(f"{where or group}=[{','.join(map(str, value))}]: expected one option")
    options = [*known[group], *(known["model"] if group == "teacher" else ())]
    for option in value if isinstance(value, list) else [value]:
        if option not in options:
            raise UsageError(f"{where or group}={option}: no such option{nearest(str(option), options)}")
    return True


def settled(choices: Sequence[Spelled], compose: Callable[[list[str]], Mapping[str, Any]]) -> list[str]:
    """The choices, added where nothing is chosen yet, else overriding; Hydra distinguishes the two.

    Args:
        choices: overrides that choose options.
        compose: the config that some of the choices make.
    """
    if all(mark is Mark.AS_WRITTEN for mark, _ in choices):
        return [text for _, text in choices]
    made = compose([text for mark, text in choices if mark is Mark.AS_WRITTEN and "@" not in text])
    explicit = {group_of(text) for mark, text in choices if mark is not Mark.IMPLIED}
    found = []
    for mark, text in choices:
        group = group_of(text)
        there = lookup(made, group.partition("@")[2]) not in (None, ABSENT)
        if mark is not Mark.IMPLIED or not (there or group in explicit):
            found.append(text if mark is Mark.AS_WRITTEN or there else f"+{text}")
    return sorted(found, key=lambda text: group_of(text).count("."))  # a teacher comes before its own


def group_of(text: str) -> str:
    """The group that an override chooses options of, and where: `model`, `mode@teacher.mode`."""
    return text.lstrip("+~").partition("=")[0]


def packages_of(override: str) -> list[str] | None:
    """The packages that an override allows, `allow=[mypackage]`; None for an override of another key.

    Raises:
        UsageError: where it cannot be parsed, or is no list of words.
    """
    if group_of(override.strip()) != "allow":
        return None
    found = _parsed(override).value()
    if (words := expected("allow", found)) is not None:
        raise UsageError(f"{override}: expected {words}")
    return [str(name) for name in found]  # type: ignore[union-attr]  # a list of words, as was just checked


def experiments_of(choices: Sequence[str]) -> list[str]:
    """The chosen overlays, in order."""
    values = [text.partition("=")[2] for text in choices if group_of(text) == "experiment"]
    return [name for value in values for name in _names(value)]


def _parsed(text: str) -> Override:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    key, _, value = text.partition("=")
    try:
        return parser.parse_override(text)
    except (ValueError, RecursionError) as error:
        shown = value if len(value) < 40 else f"{value[:20]}...{value[-10:]}"
        what = "shorter numbers" if isinstance(error, ValueError) else "fewer levels of brackets"
        raise UsageError(f"{key}={shown}: expected {what}") from error
    except HydraException as error:
        quoted = f"{key}={json.dumps(value, ensure_ascii=False)}"
        message = f"{text}: expected KEY=VALUE, with matching brackets"
        if value[:1] not in ("[", "{"):
            try:
                parser.parse_override(quoted)
                message = f"{text}: quote a value with such characters: '{quoted}'"
            except HydraException:
                pass
        raise UsageError(message) from error


def _spelled(override: str, known: Known) -> list[Spelled]:
    key, equals, value = override.partition("=")
    if not key or (not equals and not key.startswith("~")):
        raise UsageError(f"{override}: expected KEY=VALUE, such as model=resnet20")
    if value.startswith("~/"):  # which shells replace only at the start of a word
        override = f"{key}={Path(value).expanduser()}"
    if key == "mode.peers" and value.startswith("["):
        places = enumerate(_names(value), start=1)
        return [(Mark.AS_WRITTEN, f"+model@mode.peers.peer{place}={name}") for place, name in places]
    if key == "experiment":
        return [] if value == "null" else [(Mark.AS_WRITTEN, text) for text in _overlay(value, known)]
    if _BASE.fullmatch(key) and value in known["model"]:
        return [(Mark.AS_WRITTEN, f"model@{key}={value}")]
    within = _WITHIN.fullmatch(key)
    if not equals or value.startswith("{") or value == "null" or not (key == "teacher" or within):
        return [(Mark.AS_WRITTEN, override)]
    if within is None:
        return [(mark, text) for mark, text in _teacher(key, value, known)]
    teacher, group = within.groups()
    if group in ("model", "optimizer", "scheduler"):  # which every teacher has
        return [(Mark.AS_WRITTEN, f"{group}@{key}={value}")]
    if group != "teacher":
        return [(Mark.CHOSEN, f"{group}@{key}={value}")]
    # A teacher with a teacher learns by offline KD unless the user chose otherwise, as a student does.
    implied = [f"mode@{teacher}.mode=offline", f"loss@{teacher}.loss=[kd]"]
    return [*_teacher(key, value, known), *((Mark.IMPLIED, text) for text in implied)]


def _teacher(key: str, value: str, known: Known) -> list[Spelled]:
    """`teacher=resnet56` stands for one teacher of that model, `teacher=[resnet56,vgg13]` for two.

    `teacher.teacher=resnet110` is the teacher's own. A model listed twice gets two seeds.
    """
    group = key if key == "teacher" else f"teacher@{key}"
    mark = Mark.AS_WRITTEN if key == "teacher" else Mark.CHOSEN
    if not value.startswith("["):
        if value in known["teacher"] or value not in known["model"]:
            return [(mark, f"{group}={value}")]
        single = [] if key == "teacher" else [(Mark.IMPLIED, f"{group}=single")]
        return [*single, (Mark.AS_WRITTEN, f"model@{key}.model={value}")]
    found = [(mark, f"{group}=ensemble")]
    for place, name in enumerate(members := _names(value)):
        member = f"{key}.members.m{place}"
        texts = (f"+teacher@{member}=single", f"model@{member}.model={name}",
                 f"{member}.seed={members[:place].count(name)}")  # fmt: skip
        found += [(Mark.AS_WRITTEN, text) for text in texts]
    return found


def _overlay(value: str, known: Known) -> list[str]:
    """`cifar100/dkd_vgg13_vgg8` stands for the overlay `cifar100/vgg13_vgg8` with that loss, or that of a method."""
    folder, _, name = value.rpartition("/")
    overlays = known["experiment"]
    for place, letter in enumerate("" if value in overlays else name):
        method, pair = name[:place], f"{folder}/{name[place + 1 :]}"
        if letter == "_" and pair in overlays:
            if f"{folder}/{method}" in overlays:
                return [f"experiment=[{pair},{folder}/{method}]"]
            if method in known["loss"]:
                return [f"experiment={pair}", f"loss={method}"]
    return [f"experiment={value}"]


def _names(value: str) -> list[str]:
    return [name.strip() for name in value.strip("[]").split(",")]
