"""Charts as inline SVG: axes, marks, and labels that do not overlap.

A chart is about as wide as a phone, so that its text keeps its size there; a page sets several side by side.
Colours are CSS classes, which the page defines for light and dark.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from kdlab.reporting.charts.scale import Scale

WIDTH, HEIGHT = 380.0, 250.0
LETTER = 6.8
"""The approximate width of a letter of a label."""

Point = tuple[float, float]
Box = tuple[float, float, float, float]

SHARE = {"start": 0.0, "middle": 0.5, "end": 1.0}
"""The part of a text that is left of its anchor."""

AROUND = (
    (9.0, 4.0, "start"), (-9.0, 4.0, "end"), (0.0, -10.0, "middle"), (0.0, 18.0, "middle"),
    (9.0, 18.0, "start"), (9.0, -11.0, "start"), (-9.0, 18.0, "end"), (-9.0, -11.0, "end"),
    (9.0, 32.0, "start"), (9.0, -25.0, "start"), (-9.0, 32.0, "end"), (-9.0, -25.0, "end"),
)  # fmt: skip
"""Positions of a label around its point, the best first: across, down, anchor."""


def element(name: str, *content: str, **attributes: Any) -> str:
    """An element; `class_` is class, `font_size` font-size. Content is markup, attributes are escaped."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_number(value) if isinstance(value, float) else escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{given}>{''.join(content)}</{name}>"


def text_element(x: float, y: float, words: str, class_: str = "", anchor: str = "start") -> str:
    """A text."""
    return element("text", escape(words), x=x, y=y, class_=class_ or None, text_anchor=anchor)


def tooltip(words: str) -> str:
    """A hover text for its parent element; nothing without words."""
    return element("title", escape(words)) if words else ""


@dataclass
class Axes:
    """A chart with two axes, in pixels. Marks are added, then it is drawn.

    left, right, top, bottom: margins in pixels, for ticks, titles and labels.
    marks: cut off at the margins. overlay: drawn over them. occupied: where labels are.
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
    overlay: list[str] = field(default_factory=list)
    occupied: list[Box] = field(default_factory=list)

    def pixel(self, x: Any, y: Any) -> Point:
        """The pixel of a pair of values."""
        return self.x_pixel(x), self.y_pixel(y)

    def x_pixel(self, x: Any) -> float:
        return self.left + self.x.position(x) * (self.width - self.left - self.right)

    def y_pixel(self, y: Any) -> float:
        return self.height - self.bottom - self.y.position(y) * (self.height - self.top - self.bottom)

    def dot(self, x: Any, y: Any, class_: str, hover: str = "", radius: float = 4.0) -> None:
        """A point, with its hover text."""
        centre = self.pixel(x, y)
        self.marks.append(element("circle", tooltip(hover), cx=centre[0], cy=centre[1], r=radius, class_=class_))

    def line(self, points: Sequence[tuple[Any, Any]], class_: str, hover: str = "", *, steps: bool = False) -> None:
        """A line through points; in steps, horizontal until the next."""
        if not points:
            return
        places = [self.pixel(*point) for point in points]
        if steps:
            places = [p for a, b in zip(places, [*places[1:], places[-1]], strict=True) for p in (a, (b[0], a[1]))]
        path = "M" + "L".join(f"{_number(x)} {_number(y)}" for x, y in places)
        self.marks.append(element("path", tooltip(hover), d=path, class_=class_))

    def label(self, x: Any, y: Any, words: str, class_: str = "") -> None:
        """Words next to a point, on a free side."""
        across, up = self.pixel(x, y)
        size = len(words) * LETTER
        found: list[tuple[float, float, str, Box]] = []
        for step, shift, anchor in AROUND:
            left, base = across + step - size * SHARE[anchor], up + shift
            found.append((across + step, base, anchor, (left, base - 11, left + size, base + 3)))
        left, base, anchor, box = next((one for one in found if self._is_free(one[3])), found[0])
        self.occupied.append(box)
        self.overlay.append(text_element(left, base, words, f"label {class_}", anchor))

    def end_labels(self, labels: Sequence[tuple[float, str, str]]) -> None:
        """Names of lines at their right ends, (value, words, class), moved apart where they would touch."""
        wanted = sorted((self.y_pixel(y), words, class_) for y, words, class_ in labels)
        placed: list[float] = []
        for up, *_ in wanted:
            placed.append(max(up, placed[-1] + 13) if placed else max(up, self.top))
        excess = max(0.0, placed[-1] - (self.height - self.bottom)) if placed else 0.0
        for up, (_, words, class_) in zip(placed, wanted, strict=True):
            self.overlay.append(text_element(self.width - self.right + 5, up - excess + 4, words, f"label {class_}"))

    def draw(self, title: str) -> str:
        """The chart as SVG, with a title for screen readers."""
        left, right, floor = _number(self.left), _number(self.width - self.right), self.height - self.bottom
        parts = []
        for value, words in self.y.ticks():
            up = self.y_pixel(value)
            parts.append(element("path", d=f"M{left} {_number(up)}H{right}", class_="grid"))
            parts.append(text_element(self.left - 6, up + 4, words, anchor="end"))
        parts.append(element("path", d=f"M{left} {_number(floor)}H{right}", class_="axis"))
        for value, words in self.x.ticks():
            across = self.x_pixel(value)
            parts.append(element("path", d=f"M{_number(across)} {_number(floor)}v4", class_="axis"))
            parts.append(text_element(across, floor + 16, words, anchor="middle"))
        parts.append(text_element(0, 12, self.y_title, "title"))
        parts.append(text_element(self.width - self.right, self.height - 4, self.x_title, "title", "end"))
        inner = (self.left - 6, self.top - 6, self.width - self.left - self.right + 12, floor - self.top + 12)
        where = dict(zip(("x", "y", "width", "height"), inner, strict=True))
        parts.append(element("svg", *self.marks, viewBox=" ".join(map(_number, inner)), **where))  # cuts off the rest
        return svg_document(title, self.width, self.height, [*parts, *self.overlay])

    def _is_free(self, box: Box) -> bool:
        """Whether the box is on the chart and overlaps no label."""
        inside = box[0] >= 0 and box[2] <= self.width and box[1] >= 0 and box[3] <= self.height - self.bottom
        return inside and not any(_overlap(box, other) for other in self.occupied)


def svg_document(title: str, width: float, height: float, parts: Iterable[str]) -> str:
    """An SVG of the given size that scales with its container."""
    return element(
        "svg", *parts, viewBox=f"0 0 {_number(width)} {_number(height)}", role="img", aria_label=title,
        style=f"max-width:{_number(width * 1.2)}px",
    )  # fmt: skip


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
