"""A table of record as Markdown: means over seeds, and the paired differences from one row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from kdlab.core.comparison import Comparison, compare, format_difference, format_interval, format_mean
from kdlab.study.record import Record

LEAST = 3
"""Pairs below which no p is shown: two seeds that differ alike are no evidence."""


def markdown(record: Record) -> list[str]:
    """The lines of the table so far, with the hardware that its cells ran on below."""
    measured = record.measured()
    first = next(iter(measured.values()))
    titles, primary, against = first["titles"], first["primary"], record.settings.against
    of = {metric: record.values(metric) for metric in titles}
    metrics = [metric for metric in titles if metric != primary and any(of[metric].values())]
    head = ["", f"test {titles[primary]}"]
    head += [] if against is None else [f"minus {against}: paired mean, 95 % t interval", "p, Holm"]
    head += [*(titles[metric] for metric in metrics), "seconds", "n"]
    compared = {}
    if against is not None:
        pairs = [(row, against, found, of[primary][against]) for row, found in of[primary].items() if row != against]
        compared = {each.label: each for each in compare(pairs)}
    lines = [_line(head), _line(["---", *["---:"] * (len(head) - 1)])]
    for teacher in _teachers(measured.values()):
        tested = teacher["test"]["last"]
        cells = [f"{tested[primary]:.4f}", *([] if against is None else ["", ""])]
        cells += [f"{tested[metric]:.4f}" if metric in tested else "" for metric in metrics]
        lines.append(_line(["teacher", *cells, _seconds([teacher["seconds"]]), "1"]))
    for row, found in of[primary].items():
        cells = [_mean([*found.values()]), *([] if against is None else _difference(compared.get(row)))]
        cells += [_mean([*of[metric][row].values()]) for metric in metrics]
        seconds = [result["student"]["seconds"] for (name, _), result in measured.items() if name == row]
        lines.append(_line([row, *cells, _seconds(seconds), str(len(found))]))
    hardware = {_machine(result.get("hardware", {})) for result in measured.values()}
    return [
        *lines,
        "",
        f"Mean ± standard deviation over n seeds; seconds of training, on {' and '.join(sorted(hardware))}.",
    ]


def _teachers(results: Any) -> list[Mapping[str, Any]]:
    """The teachers of all runs, each once."""
    found = {json.dumps(result["teacher"]["test"]["last"]): result["teacher"] for result in results
             if result.get("teacher")}  # fmt: skip
    return [*found.values()]


def _difference(found: Comparison | None) -> list[str]:
    if found is None:
        return ["", ""]
    interval = format_interval(found.paired.mean.interval)
    value = format_difference(found.paired.mean.value) + (f" ({interval})" if interval else "")
    return [value, f"{found.p_holm:.2g}" if len(found.seeds) >= LEAST else ""]


def _machine(hardware: Mapping[str, Any]) -> str:
    return str(hardware.get("gpu") or f"{hardware.get('cpu')}, {hardware.get('threads')} threads")


def _mean(values: Sequence[float]) -> str:
    return format_mean(values, " ", deviation=True)


def _seconds(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.0f}" if known else ""


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
