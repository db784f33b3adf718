"""Checks config values: the key exists, the type is that of the YAML, the value is within its range.

A range is found by the last part of its key. Nothing here imports torch.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from typing import Any

from kdlab.core.errors import UsageError, nearest
from kdlab.core.printable import printable

Rule = tuple[Callable[[Any], bool], str]
_POSITIVE: Rule = (lambda value: value > 0, "a number above 0")
_NOT_NEGATIVE: Rule = (lambda value: value >= 0, "0 or more")
_UNIT: Rule = (lambda value: 0 <= value <= 1, "a number from 0 to 1")
_BELOW_ONE: Rule = (lambda value: 0 <= value < 1, "a number from 0 up to, not including, 1")
_WHOLE: Rule = (lambda value: isinstance(value, int) and value >= 0, "a whole number, 0 or more")
_COUNT: Rule = (lambda value: isinstance(value, int) and value >= 1, "a whole number, 1 or more")


def _is_name(value: str) -> bool:
    plain = bool(re.fullmatch(r"[^./\\][^/\\]*", value)) and printable(value) == value
    return plain and len(value.encode()) <= 150  # with a date, a setting and a seed it still is the name of a folder


NAME: Rule = (_is_name, "a name that can be a folder's: without /, not starting with a dot, of 150 bytes at most")
"""What becomes the name of a folder, a file or a column."""

_NAMED = ("loss.heads", "mode.peers", "teacher.members", "data.views")
"""Groups whose keys are names."""

_WORD: Rule = (lambda value: isinstance(value, str), "a word")
_WORDS: Rule = (
    lambda value: isinstance(value, list) and all(isinstance(word, str) for word in value),
    "a list of words",
)
_LENGTH: Rule = (
    lambda value: value >= 1 if isinstance(value, int) else bool(re.fullmatch(r"(epochs|steps)(/[1-9]\d*)?", value)),
    "a whole number, 1 or more, or steps, epochs, or a fraction of them, steps/4",
)


_BOOL: Rule = (lambda value: isinstance(value, bool), "true or false")


def _one_of(*options: str) -> Rule:
    return (lambda value: value in options, " or ".join(options))


def _operates(operations: Any, magnitude: Any) -> bool:
    counts = all(isinstance(value, int) and value is not True for value in (operations, magnitude or 0))
    return counts and operations >= 1 and 0 <= (magnitude or 0) <= 30


AUGMENT: Mapping[str, Rule] = {
    "crop": (lambda pixels: pixels == int(pixels) >= 0, "a whole number of pixels, 0 or more"),
    "flip": _BOOL,
    "rotation": (lambda degrees: 0 <= degrees <= 180, "degrees, from 0 to 180"),
    "translation": (lambda share: 0 <= share <= 1, "a share of the side, from 0 to 1"),
    "scaling": (lambda span: span is None or 0 < span[0] <= span[1], "null or [smallest, largest], above 0"),
    "randaugment": (
        lambda settings: settings is None or _operates(**settings),
        "null, or {operations: 1 or more, magnitude: 0 to 30, or null for one drawn anew each time}",
    ),
    "mixup": (lambda alpha: alpha >= 0, "0 (off) or more"),
    "cutmix": (lambda alpha: alpha >= 0, "0 (off) or more"),
    "label_smoothing": _BELOW_ONE,
}
"""The settings of an augmentation of pictures, and what each may be."""

TEXT_AUGMENT: Mapping[str, Rule] = {"masking": _UNIT, "ngram": _UNIT}
"""The settings of an augmentation of texts."""

RULES: Mapping[str, Rule] = {
    **AUGMENT,
    **TEXT_AUGMENT,
    **dict.fromkeys(("temperature", "width", "gamma", "span", "lr", "gradient_clip", "scale"), _POSITIVE),
    **dict.fromkeys(("weight", "task_weight", "weight_decay", "ramp"), _NOT_NEGATIVE),
    **dict.fromkeys(("alpha", "pct_start", "share"), _UNIT),
    **dict.fromkeys(("momentum", "decay", "dropout", "teacher_share"), _BELOW_ONE),
    **dict.fromkeys(("max_epochs", "epochs", "seed", "split_seed", "workers"), _WHOLE),
    **dict.fromkeys(
        ("batch_size", "accumulate", "classes", "channels", "num_nodes", "log_every_n_steps", "depth", "subset",
         "checkpoint_every_n_steps", "max_steps", "generations", "branches", "cycles", "size",
         "last", "vocabulary", "length", "hidden", "attention_heads", "key_heads", "embedding", "top",
         "rank", "prompt", "every"), _COUNT),
    **dict.fromkeys(("name", "group", "entity", "checkpoint", "path"), _WORD),
    **dict.fromkeys(("allow", "tags", "targets", "trained"), _WORDS),
    **dict.fromkeys(("T_max", "T_0", "total_steps"), _LENGTH),
    "layers": (
        lambda value: isinstance(value, str | list) or (isinstance(value, int) and value >= 1),
        "a whole number, 1 or more; for a loss its mapping, a word or pairs of layers",
    ),
    "max_lr": (lambda value: value == "lr" or value > 0, "a number above 0, or lr, the optimizer's own"),
    "devices": (lambda value: value == "auto" or (isinstance(value, int) and value >= 1), "auto or 1 or more"),
    "accelerator": _one_of("auto", "cpu", "gpu", "cuda", "mps"),
    "strategy": _one_of("auto", "ddp"),
    "validation": _NOT_NEGATIVE,
    "precision": _one_of("32-true", "16-mixed", "bf16-mixed", "64-true", "bf16-true", "16-true"),
    "interval": _one_of("epoch", "step"),
    "keep": _one_of("last", "best"),
    "ramp_shape": _one_of("linear", "from_zero", "sigmoid"),
    "train": _one_of("all", "head", "body"),
    "chunk_rows": (lambda value: value == "auto" or _COUNT[0](value), "auto, null or a whole number, 1 or more"),
    "on_corrupt": _one_of("stop", "skip"),
    "unlabelled": (lambda value: isinstance(value, str) or value >= 0, "a number, 0 or more, or a folder of pictures"),
}  # fmt: skip

LIMITS: Mapping[str, int] = {
    **dict.fromkeys(("max_epochs", "epochs"), 100_000), "generations": 30, "width": 1000, "depth": 10_000,
    "size": 10_000, "workers": 1000, "layers": 1000, "vocabulary": 2**24, "length": 2**20,
    **dict.fromkeys(("seed", "split_seed"), 2**63 - 1),
}  # fmt: skip
"""The most that keys may be: beyond, a run would not end, or not fit into memory or the integers of other libraries."""

_LARGEST = 2**31 - 1
"""Of all other whole numbers."""

_WORDS_OR_NUMBERS = ("devices", "resident", "T_max", "T_0", "total_steps", "max_lr", "chunk_rows")
"""Keys whose value may be a number where the YAML has a word."""

_SHARES = ("validation", "ramp")
"""Keys that may be a fraction below 1 where the YAML has a count: of the training samples, of a phase's epochs."""

_NULLABLE = ("first", "ramp", "view", "taps", "chunk_rows")
"""Keys that may be null although the YAML has a value: a loss works without its first phase or its ramp, a mode without
its own view, taps can be found by a dry run, and rows be computed all at once."""


def check(config: Mapping[str, Any]) -> None:
    """Refuses a value outside its range.

    Raises:
        UsageError: naming key, value and range.
    """
    for key in _NAMED:
        for name in named if isinstance(named := lookup(config, key), Mapping) else ():
            if not (isinstance(name, str) and NAME[0](name)):
                raise UsageError(f"{key}: {json.dumps(name)}: expected {NAME[1]}")
    for key, value in leaves(config):
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{key}={value}: expected a finite number")
        if value is not None and (not isinstance(value, list) or _rule(key) is _WORDS):
            _check_range(key, value)


def _rule(key: str) -> Rule | None:
    name = key.rsplit(".", 1)[-1]
    if key == "name":  # of the run; a data set's may have a /
        return NAME
    return RULES.get(name, _NOT_NEGATIVE if name.endswith("_weight") else None)


def _check_range(key: str, value: Any) -> None:
    if (words := expected(key, value)) is not None:
        raise UsageError(f"{key}={value}: expected {words}")


def expected(key: str, value: Any) -> str | None:
    """What the value of a key should be, in words; None where it is that, or nothing is known of the key."""
    if (rule := _rule(key)) is None:
        return None
    holds, words = rule
    try:
        fine = (rule is _BOOL or not isinstance(value, bool)) and holds(value)
    except (TypeError, ValueError, IndexError):
        fine = False
    name = key.rsplit(".", 1)[-1]
    if fine and isinstance(value, int | float) and (name in LIMITS or isinstance(value, int)):
        most = LIMITS.get(name, _LARGEST)
        return None if value <= most else f"{most} at most"
    return None if fine else words


def leaves(config: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) for every value of a nested config that is neither a mapping nor a list of mappings."""
    if isinstance(config, list) and config and all(isinstance(entry, Mapping) for entry in config):
        config = dict(enumerate(config))
    if not isinstance(config, Mapping):
        yield key, config
        return
    for name, value in config.items():
        yield from leaves(value, f"{key}.{name}" if key else str(name))


def check_known(key: str, shape: Mapping[str, Any]) -> None:
    if lookup(shape, key) is not ABSENT:
        return
    known = [name for name, _ in leaves(shape)] + list(shape)
    where, _, last = key.rpartition(".")
    level = lookup(shape, where) if where else shape
    if isinstance(level, Mapping) and level:
        near = nearest(last, map(str, level))
        raise UsageError(f"{key}: {where or 'the config'} has no key {last}{near}")
    raise UsageError(f"{key}: there is no such key{nearest(key, known)}")


def check_value(key: str, value: Any, default: Any) -> None:
    """Refuses a value whose type is not that of the YAML, and null where the YAML has a value.

    Raises:
        UsageError: naming key, value and what would be right.
    """
    name = key.rsplit(".", 1)[-1]
    if default is ABSENT or (value is None and (default is None or name in _NULLABLE)):
        return
    if default is None:
        if isinstance(value, (list, Mapping)) and name != "classes":  # a teacher's are a list
            _check_range(key, value)
        return
    if isinstance(default, str) and ("${" in default or name in _WORDS_OR_NUMBERS) and value is not None:
        return
    if isinstance(value, Mapping) and isinstance(default, Mapping):
        for entry in value:
            check_value(f"{key}.{entry}", value[entry], default.get(entry, ABSENT))
        return
    if isinstance(value, list) and isinstance(default, list):
        alike = default[0] if len({type(entry) for entry in default}) == 1 else ABSENT
        for place, entry in enumerate(value):
            check_value(f"{key}.{place}", entry, alike)
        return
    expected = type(default)
    fits = isinstance(value, expected) and isinstance(value, bool) == isinstance(default, bool)
    if isinstance(default, float) or (expected is int and name in _SHARES):
        fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    if expected is int and name == "devices":
        fits = fits or value == "auto" or isinstance(value, list)
    if name == "layers":
        fits = fits or isinstance(value, list)
    if not fits:
        names = {float: "a number", int: "a whole number", bool: "true or false", str: "a word", list: "a list",
                 dict: "a group of keys"}  # fmt: skip
        expectation = f"{names.get(expected, expected.__name__)}, as in {key}={_shown(default)}"
        if isinstance(default, Mapping):
            expectation = names[dict]
        elif "${" in str(default):
            words = RULES[name][1] if name in RULES else f"or a word, as in {key}=1"
            expectation = words if words.startswith("a ") else f"a number, {words}"
        raise UsageError(f"{key}={_shown(value)}: expected {expectation}")


def _shown(value: Any) -> Any:
    return json.dumps(value) if value is None or isinstance(value, bool) else value


ABSENT = object()


def lookup(config: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(config, Mapping) or part not in config:
            return ABSENT
        config = config[part]
    return deepcopy(config)
