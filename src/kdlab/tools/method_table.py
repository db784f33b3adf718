"""`python -m kdlab.tools.method_table`: the table of all methods, in Markdown, from their source files.

A row is a head's attributes (`kind`, `paper`, `link`, `compares`) and its YAML's settings. Measured columns come from
JSON files, {method: {column: value}}:

    python -m kdlab.bench losses --json costs.json
    python -m kdlab.tools.loss_smoke_test --json digits.json
    python -m kdlab.tools.method_table costs.json digits.json

`--published` prints another: every setting next to the published one; see `kdlab.tools.published_settings`.
`--update PAGE` writes the tables into a page, each between two lines; the first has the arguments that print it:

    <!-- catalogue:start costs.json digits.json -->
    <!-- catalogue:end -->
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from kdlab.config.compose import compose
from kdlab.config.schema import HeadConfig
from kdlab.core.errors import UsageError, one_line
from kdlab.heads.head import Head
from kdlab.run.builder import make_terms
from kdlab.tools import published_settings

KINDS = ("response", "feature", "relation")

PAPER = re.compile(r"(?P<authors>.+?): (?P<title>.+), (?P<venue>.*?) ?(?P<year>\d{4})$")
"""The format of a head's `paper`: `Zhao et al.: Decoupled Knowledge Distillation, CVPR 2022`."""

MEASURED: Mapping[str, tuple[str, str]] = {
    "ms": ("step time / `kd`", "{:.2f}"),
    "mib": ("memory − `kd`, MiB", "{:+.0f}"),
    "ratio": ("end / start on digits", "{:.2f}"),
}
"""The columns that a JSON file may have: their titles, and the format of a value."""

BLOCK = re.compile(r"(<!-- catalogue:start ?(.*?) ?-->\n).*?(<!-- catalogue:end -->)", re.DOTALL)
"""A table in a page, and the arguments that print it."""

Measures = Mapping[str, Mapping[str, float]]


def files() -> dict[str, str]:
    """Every method with its kind: the files below heads/, by kind and name."""
    heads = Path(__file__).parents[1] / "heads"
    return {
        file.stem: kind
        for kind in KINDS
        for file in sorted((heads / kind).glob("*.py"))
        if not file.stem.startswith("_")
    }


@cache
def settings(name: str) -> HeadConfig:
    """The settings that conf/loss has for a method, its dials set."""
    return compose([f"loss={name}"]).loss.heads[name]


@cache
def head_of(name: str) -> Head:
    """A head with those settings, not built for any networks."""
    (term,) = make_terms({name: settings(name)})
    return term.make()


def extras(name: str) -> str:
    """What a method needs besides two networks and a weight."""
    chosen, head = settings(name), head_of(name)
    needs, first = head.needs(), chosen.first
    parts = [
        "labels" if needs.labels else "",
        "sample indices" if needs.index else "",
        *(f"a {view} view" for view in needs.views),
        f"a memory of {chosen.options['memory']}" if "memory" in chosen.options else "",
        f"{first.epochs} epochs of its own first" if first else "",
        f"a ramp over {chosen.ramp:g} epochs" if chosen.ramp else "",
        "parts that stay in the student" if head.grafts else "",
    ]
    return ", ".join(each for each in parts if each)


def row(name: str) -> dict[str, str]:
    """One method, by column.

    Raises:
        ValueError: where its `paper` does not match `PAPER`.
    """
    head, chosen = head_of(name), settings(name)
    paper = PAPER.match(head.paper)
    if paper is None:
        raise ValueError(f"{name}: paper={head.paper!r}; expected AUTHORS: TITLE, VENUE YEAR")
    authors, title, venue, year = paper.groups()
    labels = "" if chosen.task_weight == 1 else f", labels {chosen.task_weight:g}"
    return {
        "method": f"`{name}`",
        "kind": head.kind,
        "paper": f"{authors}, [{title}]({head.link}){f', {venue}' if venue else ''}",
        "year": year,
        "compares": head.compares,
        "weight": f"{chosen.weight:g}{labels}",
        "also takes": extras(name),
    }


def table(measures: Measures | None = None) -> str:
    """The Markdown table of all methods: by kind, and the oldest first.

    Args:
        measures: {method: {column: value}}; of the columns, those in `MEASURED` are shown.
    """
    measures = measures or {}
    measured = [column for column in MEASURED if any(column in of for of in measures.values())]
    order = sorted(files().items(), key=lambda item: (KINDS.index(item[1]), row(item[0])["year"], item[0]))
    lines = []
    for name, _ in order:
        values = {column: measures.get(name, {}).get(column) for column in measured}
        cells = [MEASURED[column][1].format(value) if value is not None else "" for column, value in values.items()]
        lines.append([*row(name).values(), *cells])
    head = [*row(order[0][0]), *(MEASURED[column][0] for column in measured)]
    rule = ["---"] * (len(head) - len(measured)) + ["---:"] * len(measured)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))


def read(measured: Sequence[Path]) -> Measures:
    """The measures of several JSON files, side by side.

    Raises:
        UsageError: where a file is missing or holds something else.
    """
    found: dict[str, dict[str, float]] = {name: {} for name in files()}
    for file in measured:
        try:
            for name, columns in json.loads(file.read_text()).items():
                found[name] |= columns
        except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
            raise UsageError(f"{file}: expected JSON of the form {{method: {{column: value}}}}: {error!r}") from error
    return found


def printed(given: argparse.Namespace) -> str:
    """The table that was asked for."""
    return published_settings.table() if given.published else table(read(given.measured))


def updated(page: str) -> str:
    """A page with its tables as they are now; the files that its markers name are relative to the working folder."""
    return BLOCK.sub(lambda found: f"{found[1]}{printed(PARSER.parse_args(found[2].split()))}\n{found[3]}", page)


def update(page: Path) -> None:
    """Writes the tables into a page.

    Raises:
        UsageError: where it cannot be read, or has no place for a table.
    """
    try:
        text = page.read_text()
    except OSError as error:
        raise UsageError(f"{page}: cannot be read: {error.strerror}") from error
    if not BLOCK.search(text):
        expected = "<!-- catalogue:start --> and <!-- catalogue:end -->"
        raise UsageError(f"{page}: has no table to update; expected {expected}")
    page.write_text(updated(text))


PARSER = argparse.ArgumentParser(prog="python -m kdlab.tools.method_table", description="The table of all methods.")
PARSER.add_argument("measured", nargs="*", type=Path, help="JSON files of further columns")
PARSER.add_argument("--published", action="store_true", help="each setting as it was published, and ours")
PARSER.add_argument("--update", nargs="+", type=Path, metavar="PAGE", help="write the tables into these pages instead")


@one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table, or updates pages; the exit code is 2 where a file cannot be read."""
    given = PARSER.parse_args(arguments)
    for page in given.update or ():
        update(page)
    if not given.update:
        print(printed(given))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
