"""A forest plot: the values of every seed with their mean and its interval, one setting per row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdlab.core.statistics import mean
from kdlab.reporting.charts.scale import RowScale, scale_from_values, truncate
from kdlab.reporting.charts.svg import LETTER, WIDTH, Axes, text_element

ROW = 24.0
"""The height of a row."""


@dataclass(frozen=True)
class Row:
    """Values by seed. name: a heading above the row, if any; hover: what the values are; class_: their colour.

    same_row: drawn into the row before, for a single value such as a teacher's.
    """

    name: str
    hover: str
    class_: str
    values: Mapping[int, float]
    same_row: bool = False


def forest(rows: Sequence[Row], x_title: str, title: str, *, zero: bool = False) -> str:
    """Small dots are seeds, large ones means, lines 95 % t intervals. zero: draw the line of no difference."""
    rows = [row for row in rows if row.values]
    if not rows:
        return ""
    count = sum(bool(row.name) + (not row.same_row) for row in rows)
    ends = [end for row in rows for end in _ends(row)]
    axes = Axes(
        scale_from_values([*ends, 0.0] if zero else ends), RowScale(count), x_title, left=14, top=4,
        height=ROW * count + 4 + Axes.bottom,
    )  # fmt: skip
    if zero:
        axes.line([(0, -0.5), (0, count - 0.5)], "zero")
    place = -1
    for row in rows:
        if row.name:
            place += 1
            words = truncate(row.name, int((WIDTH - 2 * axes.left) / LETTER))
            axes.overlay.append(text_element(axes.left, axes.y_pixel(place) + 6, words, "label"))
        place += not row.same_row
        _draw(axes, place, row)
    return axes.draw(title)


def _draw(axes: Axes, place: int, row: Row) -> None:
    """The seeds, and slightly below them their mean with its interval."""
    found = mean(list(row.values.values()))
    if len(set(row.values.values())) > 1:
        for seed, value in row.values.items():
            axes.dot(value, place - 0.22, f"{row.class_} faint", f"{row.hover}, seed {seed}: {value:.4f}", 3)
    interval = ""
    if found.interval and found.margin:
        low, high = found.interval
        interval = f", 95 % interval {low:.4f} to {high:.4f}"
        axes.line([(low, place + 0.18), (high, place + 0.18)], f"{row.class_} interval")
    axes.dot(found.value, place + 0.18, row.class_, f"{row.hover}, mean of {found.n}: {found.value:.4f}{interval}", 4)


def _ends(row: Row) -> list[float]:
    return [*row.values.values(), *(mean(list(row.values.values())).interval or ())]
