"""What parameters and metrics are called in charts and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdlab.study.results import MACS


def titled(metric: str) -> str:
    """`student.multiply_accumulates` as a person says it: multiply-accumulates."""
    words = {MACS: "multiply-accumulates", "student.latency_ms": "latency, ms", "student.seconds": "training time, s"}
    return words.get(metric, metric.removeprefix("student.").replace(".", " ").replace("_", " "))


def short(names: Sequence[str]) -> dict[str, str]:
    """Parameters by as few of their last words as tell them apart: `temperature` of `loss.temperature`."""
    for words in range(1, 8):
        found = {name: ".".join(name.split(".")[-words:]) for name in names}
        if len(set(found.values())) == len(names):
            return found
    return {name: name for name in names}


def told(params: Mapping[str, Any]) -> str:
    """`temperature 2.31, alpha 0.45`."""
    names = short(list(params))
    return ", ".join(f"{names[name]} {number(value)}" for name, value in params.items())


def number(value: Any) -> str:
    """A value of a parameter, to three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
