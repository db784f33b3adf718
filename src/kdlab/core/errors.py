"""The error for what a user typed that cannot be done; its message says what to type instead."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import wraps
from typing import ParamSpec

from kdlab.core.printable import masked, printable
from kdlab.core.system_errors import explained, system_error

P = ParamSpec("P")

LONGEST = 2000
"""Characters of a message."""


class UsageError(ValueError):
    """A mistake in what the user gave. Entry points print it in one line and exit with code 2.

    Its text is one line, whatever it quotes: it steers no terminal and holds no password.
    """

    def __str__(self) -> str:
        return line_of(super().__str__())


def line_of(message: object) -> str:
    """A message in one line, without passwords, and without its middle where it is longer than `LONGEST`."""
    text = " ".join(printable(masked(str(message))).split())
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half]} ... {text[-half:]}"


def nearest(word: str, known: Iterable[str], *, most: int = 1) -> str:
    """`; did you mean X?` where a known word is close, else the first 30 known words."""
    known = sorted(set(known))
    close = get_close_matches(word, known, n=most, cutoff=0.6)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return f"; available: {', '.join(known[:30])}" if known else ""


def one_line(command: Callable[P, int]) -> Callable[P, int]:
    """A command that prints a UsageError, and what the machine refuses, in one line on stderr and exits with code 2."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return command(*args, **kwargs)
        except UsageError as error:
            print(f"kdlab: {error}", file=sys.stderr)
            return 2
        except Exception as error:
            if (refused := system_error(error)) is None:
                raise
            print(f"kdlab: {line_of(explained(refused))}", file=sys.stderr)
            return 2

    return run
