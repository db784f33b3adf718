"""Reads a YAML file that someone else may have written: it holds plain data, and it is small.

A few lines of aliases stand for more values than fit into memory, and brackets can nest deeper than Python recurses.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import yaml

from kdlab.core.errors import UsageError

LARGEST = 1_000_000
"""Bytes of a file; kdlab's own have 3 000 at most."""

DEEPEST = 50
"""Levels of nesting; kdlab's own have 6."""

MOST = 100_000
"""Values, every alias counted as often as it is used."""


_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a second for 1 MB, instead of ten


def read_yaml(file: Path) -> Any:
    """The content of a YAML file, as plain data.

    Raises:
        UsageError: where it cannot be read, is no YAML, or is no settings by its size.
    """
    return parse_yaml(read_text(file), str(file))


def read_text(file: Path) -> str:
    """The text of a file of settings.

    Raises:
        UsageError: where it is no file, is too large, or is not UTF-8.
    """
    try:
        status = file.stat()
        if stat.S_ISDIR(status.st_mode):
            raise UsageError(f"{file} cannot be read: it is a folder")
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would never end
            raise UsageError(f"{file} cannot be read: it is a pipe or a device")
        if status.st_size > LARGEST:
            raise UsageError(f"{file}: expected a file of settings, of {LARGEST // 1_000_000} MB at most")
        return file.read_bytes().decode()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: expected text in UTF-8; its byte {error.start} is not") from error


def parse_yaml(text: str, whence: str) -> Any:
    """YAML as plain data; `whence`: its file or key, for messages.

    Raises:
        UsageError: where it is no YAML, or is no settings by its size.
    """
    try:
        _check_size(text, whence)
        return yaml.load(text, Loader=_Loader)  # safe, either way
    except UsageError:
        raise
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a number of thousands of digits, a date there is not
        raise UsageError(f"{whence}: not valid YAML: {' '.join(str(error).split())}") from error


def _check_size(text: str, whence: str) -> None:
    """Counts, from the parser's events, how many values a text stands for and how deep they lie."""
    sizes: dict[str, int] = {}
    open_anchors: list[tuple[str | None, int]] = []
    values = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_anchors.append((event.anchor, values))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_anchors.pop()
            if anchor is not None:
                sizes[anchor] = values - before
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_anchors):
                raise UsageError(f"{whence}: not valid YAML: *{event.anchor} stands within itself")
            values += sizes.get(event.anchor or "", 0)
        values += isinstance(event, yaml.NodeEvent)
        if len(open_anchors) > DEEPEST:
            raise UsageError(f"{whence}: expected settings, nested {DEEPEST} deep at most")
        if values > MOST:
            raise UsageError(f"{whence}: expected settings, {MOST:,} values at most")
