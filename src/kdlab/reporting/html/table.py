"""A table in two forms: for the terminal by rich, and as HTML for the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from kdlab.core.terminal import PlainTable

Align = Literal["left", "right"]


@dataclass(frozen=True)
class Column:
    """A column. align: `left` for words, `right` for numbers. page_only: too much for a terminal."""

    name: str
    align: Align = "right"
    page_only: bool = False


@dataclass(frozen=True)
class ReportTable:
    """A table: its columns, and rows of as many cells; a cell may have several lines."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]

    def to_rich(self) -> PlainTable:
        """For the terminal."""
        kept = [place for place, column in enumerate(self.columns) if not column.page_only]
        table = PlainTable(self.title, show_lines=any("\n" in c for r in self.rows for c in r))
        for place in kept:
            column = self.columns[place]
            table.add_column(
                column.name, justify=column.align, no_wrap=column.align == "right", overflow="fold", min_width=4
            )
        for row in self.rows:
            table.add_row(*(row[place] for place in kept))
        return table

    def to_html(self, *, titled: bool = True) -> str:
        """For the page, with or without its title; scrolls sideways where the page is too narrow."""
        head = "".join(f'<th class="{column.align}" scope="col">{escape(column.name)}</th>' for column in self.columns)
        body = "".join(f"<tr>{self._cells(row)}</tr>" for row in self.rows)
        title = f"<h3>{escape(self.title)}</h3>" if self.title and titled else ""
        return (
            f'<div class="table">{title}<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div></div>"
        )

    def _cells(self, row: Sequence[str]) -> str:
        return "".join(
            f'<td class="{column.align}">{escape(cell).replace(chr(10), "<br>")}</td>'
            for column, cell in zip(self.columns, row, strict=True)
        )
