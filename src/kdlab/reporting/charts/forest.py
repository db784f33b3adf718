"""Values of every seed with their mean and its interval, row below row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdlab.core.statistics import mean
from kdlab.reporting.charts.scale import Rows, scale_of, shorten
from kdlab.reporting.charts.svg import LETTER, WIDTH, Frame, write

ROW = 24.0
"""The height of a row."""


@dataclass(frozen=True)
class Row:
    """Values by seed. name: written above, of a first row; words: what they are; class_: their colour.

    beside: drawn in the row before, of what is one value, a teacher's.
    """

    name: str
    words: str
    class_: str
    values: Mapping[int, float]
    beside: bool = False


def forest(rows: Sequence[Row], x_title: str, title: str, *, zero: bool = False) -> str:
    """Small dots are seeds, full ones means, lines their 95 % t intervals. zero: draw the line of no difference."""
    rows = [row for row in rows if row.values]
    if not rows:
        return ""
    count = sum(bool(row.name) + (not row.beside) for row in rows)
    ends = [end for row in rows for end in _ends(row)]
    frame = Frame(
        scale_of([*ends, 0.0] if zero else ends), Rows(count), x_title, left=14, top=4,
        height=ROW * count + 4 + Frame.bottom,
    )  # fmt: skip
    if zero:
        frame.line([(0, -0.5), (0, count - 0.5)], "zero")
    place = -1
    for row in rows:
        if row.name:
            place += 1
            words = shorten(row.name, int((WIDTH - 2 * frame.left) / LETTER))
            frame.over.append(write(frame.left, frame.up(place) + 6, words, "label"))
        place += not row.beside
        _draw(frame, place, row)
    return frame.draw(title)


def _draw(frame: Frame, place: int, row: Row) -> None:
    """The seeds, and a little below them their mean with its interval."""
    found = mean(list(row.values.values()))
    if len(set(row.values.values())) > 1:
        for seed, value in row.values.items():
            frame.dot(value, place - 0.22, f"{row.class_} faint", f"{row.words}, seed {seed}: {value:.4f}", 3)
    span = ""
    if found.margin:
        low, high = found.value - found.margin, found.value + found.margin
        span = f", 95 % interval {low:.4f} to {high:.4f}"
        frame.line([(low, place + 0.18), (high, place + 0.18)], f"{row.class_} interval")
    frame.dot(found.value, place + 0.18, row.class_, f"{row.words}, mean of {found.n}: {found.value:.4f}{span}", 4)


def _ends(row: Row) -> list[float]:
    return [*row.values.values(), *(mean(list(row.values.values())).interval or ())]
