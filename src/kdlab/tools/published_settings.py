"""The published settings of methods, next to ours: `python -m kdlab.tools.method_table --published`.

The published ones are in YAML files of this package, one for each of `KINDS`: by method, a list of rows.

    kd:
      - what: temperature
        with: [experiment=cifar100/resnet32x4_resnet8x4]   # overrides of the run to read, none by default
        key: loss.heads.kd.temperature                     # read from that run's config, not stated by hand
        published: 4.0                                     # or unpublished
        origin: "HobbitLong/RepDistiller train_student.py:78"
        why: the reason, where ours differs

`ours: VALUE` replaces `key` where no key holds the value. Whether ours is the same is computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from kdlab.config.compose import compose
from kdlab.config.ranges import ABSENT, lookup
from kdlab.core.errors import UsageError

KINDS = ("losses", "modes", "networks", "protocols")
FOLDER = Path(__file__).parent / "published"
UNPUBLISHED = "unpublished"
COLUMNS = ("of", "setting", "published", "ours", "same, or why not", "origin")


@dataclass(frozen=True)
class Row:
    """One setting of one method. `why` is empty where there is nothing to explain."""

    method: str
    what: str
    published: Any
    ours: Any
    origin: str
    why: str

    @property
    def same(self) -> bool:
        """Whether ours is the published value."""
        return bool(self.ours == self.published)

    @property
    def verdict(self) -> str:
        """`same`, or why not."""
        return "same" if self.same else self.why or UNPUBLISHED


@cache
def rows(kind: str) -> tuple[Row, ...]:
    """The rows of one kind, in the order of its file; none where there is no such file.

    Raises:
        UsageError: where a row lacks keys, or names a key that its run does not have.
    """
    file = FOLDER / f"{kind}.yaml"
    if not file.is_file():
        return ()
    written = yaml.safe_load(file.read_text()) or {}
    return tuple(_row(method, entry) for method, entries in written.items() for entry in entries)


def _row(method: str, entry: Mapping[str, Any]) -> Row:
    known = {"what", "with", "key", "ours", "published", "origin", "why"}
    missing = {"what", "published", "origin"} - entry.keys()
    if missing or entry.keys() - known or ("key" in entry) == ("ours" in entry):
        raise UsageError(f"{method}: {dict(entry)}: expected what, key or ours, published, origin; perhaps with, why")
    ours = entry["ours"] if "ours" in entry else _read(method, tuple(entry.get("with") or ()), entry["key"])
    return Row(method, entry["what"], entry["published"], ours, entry["origin"], entry.get("why", ""))


def _read(method: str, overrides: tuple[str, ...], key: str) -> Any:
    found = lookup(_composed(overrides), key)
    if found is ABSENT:
        raise UsageError(f"{method}: the run {' '.join(overrides) or 'of no overrides'} has no key {key}")
    return found


@cache
def _composed(overrides: tuple[str, ...]) -> Mapping[str, Any]:
    return compose(overrides).plain()


def table(kinds: tuple[str, ...] = KINDS) -> str:
    """The Markdown tables of published settings, one for each kind."""
    tables = []
    for kind in kinds:
        if found := rows(kind):
            lines = [COLUMNS, ("---",) * len(COLUMNS), *(_cells(row) for row in found)]
            tables.append(f"## {kind.capitalize()}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(tables)


def _cells(row: Row) -> tuple[str, ...]:
    return (f"`{row.method}`", row.what, _shown(row.published), _shown(row.ours), row.verdict, row.origin)


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower().replace("none", "null")
    return f"{value:g}" if isinstance(value, float) else str(value)
