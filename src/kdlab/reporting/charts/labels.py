"""Names and numbers of parameters and metrics, as charts and tables show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdlab.study.results import MACS


def metric_title(metric: str) -> str:
    """`student.multiply_accumulates` in words: multiply-accumulates."""
    words = {MACS: "multiply-accumulates", "student.latency_ms": "latency, ms", "student.seconds": "training time, s"}
    return words.get(metric, metric.removeprefix("student.").replace(".", " ").replace("_", " "))


def short_names(names: Sequence[str]) -> dict[str, str]:
    """The shortest endings that tell parameters apart: `temperature` for `loss.temperature`."""
    for words in range(1, 8):
        found = {name: ".".join(name.split(".")[-words:]) for name in names}
        if len(set(found.values())) == len(names):
            return found
    return {name: name for name in names}


def format_params(params: Mapping[str, Any]) -> str:
    """`temperature 2.31, alpha 0.45`."""
    names = short_names(list(params))
    return ", ".join(f"{names[name]} {format_value(value)}" for name, value in params.items())


def format_value(value: Any) -> str:
    """A value of a parameter, to three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
