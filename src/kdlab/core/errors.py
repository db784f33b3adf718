"""The one error that means: what was asked for cannot be done, and here is what to type instead."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import wraps
from typing import ParamSpec

P = ParamSpec("P")


class UsageError(ValueError):
    """A mistake in what the user gave. Entry points print it in one line and leave with code 2."""


def nearest(word: str, known: Iterable[str], *, most: int = 1) -> str:
    """`; did you mean X?` where something known is near, else the first few of what is known."""
    known = sorted(set(known))
    close = get_close_matches(word, known, n=most, cutoff=0.6)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return f"; there is {', '.join(known[:30])}" if known else ""


def one_line(command: Callable[P, int]) -> Callable[P, int]:
    """A command whose user's mistakes are told in one line on stderr, with exit code 2."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return command(*args, **kwargs)
        except UsageError as error:
            print(f"kdlab: {error}", file=sys.stderr)
            return 2

    return run
