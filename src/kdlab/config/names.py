"""The names that users give to runs and studies, which become folders and lines of output."""

from __future__ import annotations

from kdlab.core.errors import UsageError
from kdlab.core.printable import printable

LONGEST = 150
"""Bytes of a name: with a date, a setting and a seed it still is the name of a folder."""


def check_name(name: str) -> None:
    """Refuses a name that is no visible folder within another, or not one line.

    Raises:
        UsageError: naming it.
    """
    inside = name and "/" not in name and not name.startswith(".")
    if not inside or printable(name) != name or len(name.encode()) > LONGEST:
        raise UsageError(
            f"name={name}: expected a name usable as a folder: up to {LONGEST} bytes on one line, without /, and not "
            "starting with a dot"
        )
