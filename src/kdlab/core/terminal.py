"""Tables and lines on a terminal, by rich, in which no name is read as markup and none steers the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kdlab.core.printable import printable


def terminal(*, stderr: bool = False) -> Console:
    """Standard output, or standard error."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def say(console: Console, text: str) -> None:
    """Prints a text as it is; it wraps only where it has line breaks."""
    console.print(verbatim(text), soft_wrap=True)


def verbatim(text: str) -> Text:
    """A text as it is, whose lines stay lines."""
    return Text(printable(text, keep="\n"))


class PlainTable(Table):
    """rich's table, whose title, headers and cells are text as it is."""

    def __init__(self, title: str = "", **options: Any) -> None:
        super().__init__(title=verbatim(title) if title else None, title_justify="left", **options)

    def add_column(self, header: Any = "", *args: Any, **options: Any) -> None:
        """Adds a column; `header` is text as it is."""
        super().add_column(verbatim(header), *args, **options)

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Adds a row; cells are text as it is."""
        super().add_row(*map(verbatim, cells), **options)
