"""A table that is shown twice: in the terminal by rich, and on the page as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from rich.table import Table
from rich.text import Text

Side = Literal["left", "right"]


@dataclass(frozen=True)
class Column:
    """A column. side: `left` for words, `right` for numbers. page: there is room for it on the page alone."""

    name: str
    side: Side = "right"
    page: bool = False


@dataclass(frozen=True)
class Sheet:
    """A table: its columns, and rows of as many cells, which may have lines."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]

    def to_rich(self) -> Table:
        """For the terminal."""
        shown = [place for place, column in enumerate(self.columns) if not column.page]
        table = Table(
            title=Text(self.title), title_justify="left", show_lines=any("\n" in c for r in self.rows for c in r)
        )
        for place in shown:
            column = self.columns[place]
            table.add_column(
                Text(column.name), justify=column.side, no_wrap=column.side == "right", overflow="fold", min_width=4
            )
        for row in self.rows:
            table.add_row(*(Text(row[place]) for place in shown))
        return table

    def to_html(self, *, titled: bool = True) -> str:
        """For the page, with its title or without; in a box of its own that scrolls sideways where it is too narrow."""
        head = "".join(f'<th class="{column.side}" scope="col">{escape(column.name)}</th>' for column in self.columns)
        body = "".join(f"<tr>{self._cells(row)}</tr>" for row in self.rows)
        title = f"<h3>{escape(self.title)}</h3>" if self.title and titled else ""
        return (
            f'<div class="sheet">{title}<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div></div>"
        )

    def _cells(self, row: Sequence[str]) -> str:
        return "".join(
            f'<td class="{column.side}">{escape(cell).replace(chr(10), "<br>")}</td>'
            for column, cell in zip(self.columns, row, strict=True)
        )
