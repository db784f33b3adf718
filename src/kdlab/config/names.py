"""The names that users give to runs and studies, which become folders and lines of output."""

from __future__ import annotations

from kdlab.core.errors import UsageError
from kdlab.core.printable import printable

LONGEST = 150
"""Bytes of a name: with a date, a setting and a seed it still is the name of a folder."""


def check_name(name: str) -> None:
    """Refuses a name that is not one line, or too long.

    Raises:
        UsageError: naming it.
    """
    if not name or printable(name) != name or len(name.encode()) > LONGEST:
        raise UsageError(f"name={name}: expected a name on one line, of up to {LONGEST} bytes")


def check_folder_name(name: str) -> None:
    """Refuses a name that is no visible folder within another.

    Raises:
        UsageError: naming it.
    """
    check_name(name)
    if "/" in name or name.startswith("."):
        raise UsageError(f"name={name}: expected a name usable as a folder, without / and not starting with a dot")


def folder_name(name: str) -> str:
    """A name as a part of that of a folder."""
    return name.replace("/", "-")
