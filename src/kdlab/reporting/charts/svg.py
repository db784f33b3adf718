"""Charts as inline SVG: a frame with axes, marks, and labels that keep out of each other's way.

A chart is about as wide as a phone, so that its letters keep their size there; a page sets several side by side.
Colours are classes, which the page's style gives for light and dark.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from kdlab.reporting.charts.scale import Scale

WIDTH, HEIGHT = 380.0, 250.0
LETTER = 6.8
"""Width of a letter of a label, about."""

Point = tuple[float, float]
Box = tuple[float, float, float, float]

SHARE = {"start": 0.0, "middle": 0.5, "end": 1.0}
"""The part of a text that lies left of where it is anchored."""

AROUND = (
    (9.0, 4.0, "start"), (-9.0, 4.0, "end"), (0.0, -10.0, "middle"), (0.0, 18.0, "middle"),
    (9.0, 18.0, "start"), (9.0, -11.0, "start"), (-9.0, 18.0, "end"), (-9.0, -11.0, "end"),
    (9.0, 32.0, "start"), (9.0, -25.0, "start"), (-9.0, 32.0, "end"), (-9.0, -25.0, "end"),
)  # fmt: skip
"""Where a label may stand beside its point, the best place first: across, down, anchor."""


def element(name: str, *content: str, **attributes: Any) -> str:
    """An element; `class_` is class, `font_size` font-size. Content is markup, attributes are escaped."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_number(value) if isinstance(value, float) else escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{given}>{''.join(content)}</{name}>"


def write(x: float, y: float, words: str, class_: str = "", anchor: str = "start") -> str:
    """A text."""
    return element("text", escape(words), x=x, y=y, class_=class_ or None, text_anchor=anchor)


def tip(words: str) -> str:
    """What is said where the pointer rests on the element that this stands in; nothing of no words."""
    return element("title", escape(words)) if words else ""


@dataclass
class Frame:
    """A plot with two axes. Marks are added, then it is drawn.

    left, right, top, bottom: room around it, for ticks, titles and labels. taken: where labels are.
    """

    x: Scale
    y: Scale
    x_title: str = ""
    y_title: str = ""
    width: float = WIDTH
    height: float = HEIGHT
    left: float = 46.0
    right: float = 14.0
    top: float = 24.0
    bottom: float = 36.0
    marks: list[str] = field(default_factory=list)
    over: list[str] = field(default_factory=list)
    taken: list[Box] = field(default_factory=list)

    def at(self, x: Any, y: Any) -> Point:
        """Where a pair of values is drawn."""
        return self.across(x), self.up(y)

    def across(self, x: Any) -> float:
        return self.left + self.x.place(x) * (self.width - self.left - self.right)

    def up(self, y: Any) -> float:
        return self.height - self.bottom - self.y.place(y) * (self.height - self.top - self.bottom)

    def dot(self, x: Any, y: Any, class_: str, said: str = "", radius: float = 4.0) -> None:
        """A point, with what is said where the pointer rests on it."""
        centre = self.at(x, y)
        self.marks.append(element("circle", tip(said), cx=centre[0], cy=centre[1], r=radius, class_=class_))

    def line(self, points: Sequence[tuple[Any, Any]], class_: str, said: str = "", *, steps: bool = False) -> None:
        """A line through points; in steps, level until the next."""
        if not points:
            return
        places = [self.at(*point) for point in points]
        if steps:
            places = [p for a, b in zip(places, [*places[1:], places[-1]], strict=True) for p in (a, (b[0], a[1]))]
        path = "M" + "L".join(f"{_number(x)} {_number(y)}" for x, y in places)
        self.marks.append(element("path", tip(said), d=path, class_=class_))

    def label(self, x: Any, y: Any, words: str, class_: str = "") -> None:
        """Words beside a point: on the side where nothing else was written."""
        across, up = self.at(x, y)
        size = len(words) * LETTER
        found: list[tuple[float, float, str, Box]] = []
        for step, shift, anchor in AROUND:
            left, base = across + step - size * SHARE[anchor], up + shift
            found.append((across + step, base, anchor, (left, base - 11, left + size, base + 3)))
        left, base, anchor, box = next((one for one in found if self._free(one[3])), found[0])
        self.taken.append(box)
        self.over.append(write(left, base, words, f"label {class_}", anchor))

    def ends(self, labels: Sequence[tuple[float, str, str]]) -> None:
        """Names of lines at their right ends, (value, words, class), moved apart where they would touch."""
        wanted = sorted((self.up(y), words, class_) for y, words, class_ in labels)
        placed: list[float] = []
        for up, *_ in wanted:
            placed.append(max(up, placed[-1] + 13) if placed else max(up, self.top))
        excess = max(0.0, placed[-1] - (self.height - self.bottom)) if placed else 0.0
        for up, (_, words, class_) in zip(placed, wanted, strict=True):
            self.over.append(write(self.width - self.right + 5, up - excess + 4, words, f"label {class_}"))

    def draw(self, title: str) -> str:
        """The chart, under a title that is read out where it cannot be seen."""
        left, right, floor = _number(self.left), _number(self.width - self.right), self.height - self.bottom
        parts = []
        for value, words in self.y.ticks():
            up = self.up(value)
            parts.append(element("path", d=f"M{left} {_number(up)}H{right}", class_="grid"))
            parts.append(write(self.left - 6, up + 4, words, anchor="end"))
        parts.append(element("path", d=f"M{left} {_number(floor)}H{right}", class_="axis"))
        for value, words in self.x.ticks():
            across = self.across(value)
            parts.append(element("path", d=f"M{_number(across)} {_number(floor)}v4", class_="axis"))
            parts.append(write(across, floor + 16, words, anchor="middle"))
        parts.append(write(0, 12, self.y_title, "title"))
        parts.append(write(self.width - self.right, self.height - 4, self.x_title, "title", "end"))
        inner = (self.left - 6, self.top - 6, self.width - self.left - self.right + 12, floor - self.top + 12)
        where = dict(zip(("x", "y", "width", "height"), inner, strict=True))
        parts.append(element("svg", *self.marks, viewBox=" ".join(map(_number, inner)), **where))  # cuts off the rest
        return drawing(title, self.width, self.height, [*parts, *self.over])

    def _free(self, box: Box) -> bool:
        """Whether nothing was written there, and it is on the chart."""
        inside = box[0] >= 0 and box[2] <= self.width and box[1] >= 0 and box[3] <= self.height - self.bottom
        return inside and not any(_meet(box, other) for other in self.taken)


def drawing(title: str, width: float, height: float, parts: Iterable[str]) -> str:
    """An SVG of the given size, which grows and shrinks with what it stands in."""
    return element(
        "svg", *parts, viewBox=f"0 0 {_number(width)} {_number(height)}", role="img", aria_label=title,
        style=f"max-width:{_number(width * 1.2)}px",
    )  # fmt: skip


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _meet(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
