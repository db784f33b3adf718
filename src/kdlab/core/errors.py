"""The one error that means: what was asked for cannot be done, and here is what to type instead."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UsageError(ValueError):
    """A mistake in what the user gave. Entry points print it in one line and leave with code 2."""


def nearest(word: str, known: Iterable[str], *, most: int = 1) -> str:
    """`; did you mean X?` where something known is near, else the first few of what is known."""
    known = sorted(set(known))
    close = get_close_matches(word, known, n=most, cutoff=0.6)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return f"; there is {', '.join(known[:30])}" if known else ""
