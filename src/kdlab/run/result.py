"""The results of a run: result.json, by its schema, and a table to read."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from kdlab.core.files import write_text
from kdlab.core.terminal import PlainTable, say, terminal

Config = dict[str, Any]

VERSION = 1

SCHEMA = Path(__file__).parent / "result.schema.json"
"""The JSON Schema of result.json."""

ROWS = {"teacher": "teacher", "alone": "student alone", "student": "student distilled"}


def gap_closed(rows: Mapping[str, Any], metric: str, which: str, direction: str = "max") -> float | None:
    """(student − student alone) / (teacher − student alone), of one test metric.

    None where one is missing, or the teacher is no better than the student alone.

    Args:
        rows: `teacher`, `alone` and `student`, as result.json has them.
        metric: the primary metric.
        which: `last` or `best`.
        direction: `max` or `min`, whichever is better.
    """
    values = []
    for name in ROWS:
        row = rows.get(name)
        if not row or metric not in row["test"].get(which, {}):
            return None
        values.append(row["test"][which][metric])
    teacher, alone, student = values
    gap = teacher - alone
    return (student - alone) / gap if (gap > 0 if direction == "max" else gap < 0) else None


def provenance() -> Config:
    """Versions, commit and hardware, without which numbers cannot be compared."""
    packages = ("kdlab", "torch", "lightning", "torchmetrics", "numpy")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "commit": _commit(),
        "hardware": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": gpu,
            "gpus": torch.cuda.device_count(),
        },
    }


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Writes plain data; the file is whole or as it was."""
    write_text(file, json.dumps(content, indent=2, allow_nan=False) + "\n")


def print_table(result: Mapping[str, Any], console: Console | None = None) -> None:
    """The table of a run: a column per network, a row per figure, and the share of the gap closed."""
    console = console or terminal()
    shown = {name: result[name] for name in ROWS if result.get(name)}
    titles = ROWS if len(shown) > 1 else {"student": "student"}
    table = PlainTable(result["name"] or "")
    table.add_column("")
    for name in shown:
        table.add_column(titles[name], justify="right", no_wrap=True)
    for label, cells in lines(result, shown):
        table.add_row(label, *cells)
    console.print(table)
    for name, peer in result["student"].get("peers", {}).items():
        say(console, f"{name}: test {result['primary']} {peer['test']['last'][result['primary']]:.4f}, "
                     f"{peer['parameters']:,} parameters, {peer['latency_ms']:.3f} ms")  # fmt: skip
    for place, link in enumerate(result["chain"]):
        say(console, f"Link {place + 1} of the chain: test {result['primary']} "
                     f"{link['test']['last'][result['primary']]:.4f}, {link['parameters']:,} parameters")  # fmt: skip
    gap = result["gap_closed"]
    parts = [f"{value:.0%} at the {'last' if which == 'last' else 'best validation'} epoch"
             for which, value in gap.items() if value is not None]  # fmt: skip
    if parts:
        say(console, f"Share of the gap between student alone and teacher that was closed: {', '.join(parts)}.")


def lines(result: Mapping[str, Any], shown: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """The figures of a run: the label of each, and its value for each of the networks shown."""

    def cells(read: Any, form: str) -> list[str]:
        found = []
        for row in shown.values():
            value = read(row)
            found.append("" if value is None else form.format(value))
        return found

    primary = result["primary"]
    found = []
    for which, words in (("last", "last epoch"), ("best", "best epoch by validation")):
        found.append(
            (
                f"test {result['titles'].get(primary, primary)}, {words}",
                cells(lambda r, w=which: r["test"].get(w, {}).get(primary), "{:.4f}"),
            )
        )
    for metric, title in result["titles"].items():
        if metric != primary:
            found.append((title, cells(lambda r, m=metric: r["test"]["last"].get(m), "{:.4f}")))
    found += [
        ("parameters", cells(lambda r: r["parameters"], "{:,}")),
        ("multiply-accumulates", cells(lambda r: r["multiply_accumulates"], "{:,}")),
        ("bytes on disk", cells(lambda r: r["bytes"], "{:,}")),
        ("latency, one CPU thread, ms", cells(lambda r: r["latency_ms"], "{:.3f}")),
        ("training time, s", cells(lambda r: r["seconds"], "{:.1f}")),
        ("training samples / s", cells(lambda r: r["samples_per_second"], "{:,.0f}")),
    ]
    return [(label, values) for label, values in found if any(values)]


def _commit() -> str | None:
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
