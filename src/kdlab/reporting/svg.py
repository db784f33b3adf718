"""Charts as inline SVG: scales, ticks, a frame with axes, and labels that keep out of each other's way.

A chart is about as wide as a phone, so that its letters keep their size there; a page sets several side by side.
Colours are classes, which the page's style gives for light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, Protocol

WIDTH, HEIGHT = 380.0, 250.0
LETTER = 6.8
"""Width of a letter of a label, about."""

Point = tuple[float, float]


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


class Scale(Protocol):
    """From values to places between 0 and 1, and the values to name on an axis."""

    def place(self, value: Any) -> float: ...

    def ticks(self) -> list[tuple[Any, str]]: ...


@dataclass(frozen=True)
class Linear:
    """Numbers, evenly."""

    low: float
    high: float

    def place(self, value: Any) -> float:
        return (float(value) - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[Any, str]]:
        step = _step((self.high - self.low) / 4)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(place * step, amount(place * step, step)) for place in range(first, last + 1)]


@dataclass(frozen=True)
class Log:
    """Positive numbers, by their logarithm."""

    low: float
    high: float

    def place(self, value: Any) -> float:
        return math.log(float(value) / self.low) / math.log(self.high / self.low)

    def ticks(self) -> list[tuple[Any, str]]:
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for digits in ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 4, 5, 6, 8)):
            found = [digit * 10.0**decade for decade in decades for digit in digits]
            inside = [value for value in found if self.low * 0.999 <= value <= self.high * 1.001]
            if len(inside) >= 3:
                break
        return [(value, amount(value, value)) for value in inside]


@dataclass(frozen=True)
class Rows:
    """Rows by number, the first on top; they have names of their own, so no ticks."""

    count: int

    def place(self, value: Any) -> float:
        return 1 - (float(value) + 0.5) / self.count

    def ticks(self) -> list[tuple[Any, str]]:
        return []


@dataclass(frozen=True)
class Choices:
    """Options, side by side."""

    options: tuple[Any, ...]

    def place(self, value: Any) -> float:
        return (self.options.index(value) + 0.5) / len(self.options)

    def ticks(self) -> list[tuple[Any, str]]:
        return [(option, shorten(str(option), max(4, int(60 / len(self.options))))) for option in self.options]


def scale_of(values: Iterable[float], *, log: bool = False, least: float | None = None) -> Linear | Log:
    """A scale that holds all values with a little room; logarithmic where wanted and possible.

    Args:
        values: numbers, perhaps none.
        least: cut off what is below.
    """
    found = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(found) if least is None else least, max(found)
    if log and low > 0:
        room = max(1.05, (high / low) ** 0.06)
        return Log(low / room, high * room)
    room = 0.06 * (high - low) or abs(high) * 0.05 or 1.0
    return Linear(low - (room if least is None else 0), high + room)


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
    taken: list[tuple[float, float, float, float]] = field(default_factory=list)

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
        sides = [
            (across + 8, up + 4),
            (across - 8 - size, up + 4),
            (across - size / 2, up - 9),
            (across - size / 2, up + 17),
        ]
        sides += [(left, up + shift) for left in (across + 8, across - 8 - size) for shift in (18, -11, 32, -25)]
        boxes = [(left, base - 11, left + size, base + 3) for left, base in sides]
        free = [
            place for place, box in enumerate(boxes) if self._inside(box) and not any(_meet(box, o) for o in self.taken)
        ]
        left, base = sides[free[0] if free else 0]
        self.taken.append(boxes[free[0] if free else 0])
        self.over.append(write(left, base, words, f"label {class_}"))

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

    def _inside(self, box: tuple[float, float, float, float]) -> bool:
        return box[0] >= 0 and box[2] <= self.width and box[1] >= 0 and box[3] <= self.height - self.bottom


def drawing(title: str, width: float, height: float, parts: Iterable[str]) -> str:
    """An SVG of the given size, which grows and shrinks with what it stands in."""
    return element(
        "svg", *parts, viewBox=f"0 0 {_number(width)} {_number(height)}", role="img", aria_label=title,
        style=f"max-width:{_number(width * 1.2)}px",
    )  # fmt: skip


def amount(value: float, step: float) -> str:
    """A number as an axis shows it, to the precision of the step: 0.95, 250, 30k, 2.5M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.6g}{letter}"
    digits = next((digits for digits in range(9) if abs(round(step, digits) - step) < 1e-6 * step), 9)
    return f"{value:.{digits}f}".replace("-", "−")


def shorten(words: str, most: int) -> str:
    """Words cut to so many letters."""
    return words if len(words) <= most else words[: max(1, most - 1)] + "…"


def _step(size: float) -> float:
    """The round number that is nearest above."""
    base = 10.0 ** math.floor(math.log10(size))
    return next(base * digit for digit in (1, 2, 2.5, 5, 10) if base * digit >= size * 0.999)


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _meet(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
