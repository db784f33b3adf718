"""Scales of charts: from values to positions between 0 and 1, and the ticks of an axis."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution


class Scale(Protocol):
    """From values to positions between 0 and 1, and (value, label) of each tick."""

    def position(self, value: Any) -> float: ...

    def ticks(self) -> list[tuple[Any, str]]: ...


@dataclass(frozen=True)
class LinearScale:
    """Numbers on a linear scale."""

    low: float
    high: float

    def position(self, value: Any) -> float:
        return (float(value) - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[Any, str]]:
        step = _step((self.high - self.low) / 4)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(place * step, format_tick(place * step, step)) for place in range(first, last + 1)]


@dataclass(frozen=True)
class LogScale:
    """Positive numbers on a logarithmic scale."""

    low: float
    high: float

    def position(self, value: Any) -> float:
        return math.log(float(value) / self.low) / math.log(self.high / self.low)

    def ticks(self) -> list[tuple[Any, str]]:
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for digits in ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 4, 5, 6, 8)):
            found = [digit * 10.0**decade for decade in decades for digit in digits]
            inside = [value for value in found if self.low * 0.999 <= value <= self.high * 1.001]
            if len(inside) >= 3:
                break
        return [(value, format_tick(value, value)) for value in inside]


@dataclass(frozen=True)
class RowScale:
    """Rows by number, the first on top; they are labelled in the chart, so there are no ticks."""

    count: int

    def position(self, value: Any) -> float:
        return 1 - (float(value) + 0.5) / self.count

    def ticks(self) -> list[tuple[Any, str]]:
        return []


@dataclass(frozen=True)
class CategoricalScale:
    """Options, evenly spaced."""

    options: tuple[Any, ...]

    def position(self, value: Any) -> float:
        return (self.options.index(value) + 0.5) / len(self.options)

    def ticks(self) -> list[tuple[Any, str]]:
        return [(option, truncate(str(option), max(4, int(60 / len(self.options))))) for option in self.options]


def scale_from_values(values: Iterable[float], *, log: bool = False) -> LinearScale | LogScale:
    """A scale that covers all values with a margin; logarithmic where requested and possible."""
    found = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(found), max(found)
    if log and low > 0:
        room = max(1.05, (high / low) ** 0.06)
        return LogScale(low / room, high * room)
    room = 0.06 * (high - low) or abs(high) * 0.05 or 1.0
    return LinearScale(low - room, high + room)


def scale_from_distribution(distribution: BaseDistribution) -> Scale:
    """The axis of a parameter, over its whole range."""
    if isinstance(distribution, CategoricalDistribution):
        return CategoricalScale(distribution.choices)
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    if distribution.low == distribution.high:
        return scale_from_values([float(distribution.low)])
    kind = LogScale if distribution.log else LinearScale
    return kind(float(distribution.low), float(distribution.high))


def format_tick(value: float, step: float) -> str:
    """A tick label, to the precision of the step: 0.95, 250, 30k, 2.5M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.6g}{letter}"
    digits = next((digits for digits in range(9) if abs(round(step, digits) - step) < 1e-6 * step), 9)
    return f"{value:.{digits}f}".replace("-", "−")


def truncate(words: str, most: int) -> str:
    """Words truncated to at most this many letters."""
    return words if len(words) <= most else words[: max(1, most - 1)] + "…"


def _step(size: float) -> float:
    """The next round number."""
    base = 10.0 ** math.floor(math.log10(size))
    return next(base * digit for digit in (1, 2, 2.5, 5, 10) if base * digit >= size * 0.999)
