"""One self-contained HTML page: style and charts are inline, and its security policy forbids the network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

STYLE = Path(__file__).with_suffix(".css")


def page(title: str, summary: Sequence[str], sections: Iterable[str], footer: Sequence[str]) -> str:
    """The whole page.

    Args:
        title: its heading.
        summary: sentences with the results.
        sections: see `section`.
        footer: lines of small print.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>\n{STYLE.read_text()}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n{paragraphs(summary, 'lead')}\n"
        + "\n".join(part for part in sections if part)
        + (f"\n<footer>{paragraphs(footer)}</footer>" if footer else "")
        + "\n</main>\n</body>\n</html>\n"
    )


def section(title: str, *parts: str, note: str = "") -> str:
    """A heading, a note, and tables and charts; nothing where there are none."""
    if not any(parts):
        return ""
    remark = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{remark}{''.join(parts)}</section>"


def charts(*found: tuple[str, str]) -> str:
    """(caption, chart) side by side where there is room."""
    shown = [(caption, chart) for caption, chart in found if chart]
    return side_by_side(
        *(f"<figure><figcaption>{escape(words)}</figcaption>{chart}</figure>" for words, chart in shown)
    )


def side_by_side(*parts: str) -> str:
    """Parts side by side where there is room."""
    return f'<div class="charts">{"".join(parts)}</div>' if any(parts) else ""


def wide_chart(caption: str, chart: str) -> str:
    """A chart that takes the whole width, and scrolls sideways on a phone."""
    words = f"<figcaption>{escape(caption)}</figcaption>"
    return f'<figure class="wide">{words}<div class="scroll" tabindex="0">{chart}</div></figure>' if chart else ""


def collapsible(title: str, *parts: str) -> str:
    """Parts that open on a click."""
    return f"<details><summary>{escape(title)}</summary>{''.join(parts)}</details>" if any(parts) else ""


def legend(*entries: tuple[str, str]) -> str:
    """(class, words) of colours that the charts do not label."""
    return (
        '<p class="legend">' + "".join(f'<span class="key {c}">{escape(words)}</span>' for c, words in entries) + "</p>"
    )


def preformatted(text: str) -> str:
    """The text of a file."""
    return f"<pre>{escape(text)}</pre>"


def paragraphs(lines: Iterable[str], class_: str = "") -> str:
    """One paragraph per line."""
    given = f' class="{class_}"' if class_ else ""
    return "".join(f"<p{given}>{escape(line)}</p>" for line in lines)
