"""What may be shown of a text: nothing that steers a terminal, and no password."""

from __future__ import annotations

import re
from urllib.parse import unquote

_SECRET = re.compile("pass|pwd|secret|token|key", re.IGNORECASE)


def printable(text: object, keep: str = "") -> str:
    """A text in which everything that steers a terminal is written out, `\\x1b`, and a line break is a space.

    Args:
        text: any object, by its `str`.
        keep: characters to leave as they are.
    """
    return "".join(character if character in keep else _seen(character) for character in str(text))


def masked(text: str) -> str:
    """A text without the passwords of its URL.

    A password may hold an `@` that should have been written `%40`, so all up to the last one counts as the password,
    but not what a message says after the URL.
    """
    text = re.sub(r"(://[^:/@\s]*):(?:(?!: ).){0,300}@", r"\1:***@", text, flags=re.DOTALL)
    return re.sub(r"([?&])([^=&\s]+)=([^&\s]*)", _without_secret, text) if "://" in text else text


def _seen(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character in "\t\n\r" else character.encode("unicode_escape").decode()


def _without_secret(found: re.Match[str]) -> str:
    before, key, value = found.groups()
    return f"{before}{key}={'***' if _SECRET.search(unquote(key)) else value}"
