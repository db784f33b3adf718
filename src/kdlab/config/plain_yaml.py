"""Reads YAML that a user wrote, and refuses in one line what is none, or too much of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from kdlab.core.errors import UsageError

MOST_BYTES = 1_000_000
MOST_VALUES = 100_000
"""Those that a file holds when each of its aliases is written out; a few lines of aliases can stand for billions."""

DEEPEST = 50


def read_yaml(file: Path) -> Any:
    """The content of a YAML file.

    Raises:
        UsageError: where it cannot be read, or is no reasonable YAML.
    """
    try:
        if file.stat().st_size > MOST_BYTES:
            raise UsageError(f"{file}: larger than {MOST_BYTES} bytes; expected a file of settings")
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: not UTF-8 text, from byte {error.start} on") from error
    return parse_yaml(text, file)


def parse_yaml(text: str, whence: object) -> Any:
    """The content of a YAML text.

    Args:
        text: the YAML.
        whence: where it stands, for messages.

    Raises:
        UsageError: see `read_yaml`.
    """
    try:
        _refuse_depth(text, whence)
        found = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # also a number of thousands of digits, or an impossible date
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{whence}: not valid YAML: {' '.join(str(error).split())}") from error
    if _values(found, {}, whence) > MOST_VALUES:
        raise UsageError(f"{whence}: its aliases stand for more than {MOST_VALUES} values")
    return found


def _refuse_depth(text: str, whence: object) -> None:
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise UsageError(f"{whence}: nested too deeply")


def _values(node: Any, known: dict[int, int], whence: object, depth: int = 0) -> int:
    """How many values there are when every alias is written out; each node is counted once."""
    if not isinstance(node, (dict, list)):
        return 1
    if depth > DEEPEST:  # which an alias of what it is part of also is
        raise UsageError(f"{whence}: nested too deeply")
    if id(node) not in known:
        inside = node.values() if isinstance(node, dict) else node
        known[id(node)] = 1 + sum(_values(each, known, whence, depth + 1) for each in inside)
    return known[id(node)]
