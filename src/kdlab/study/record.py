"""A table of record: rows of runs over seeds, trained cell by cell into one results file that grows.

    overrides: [data=sst2, data.subset=20000]            # of every run
    seeds: 5
    against: alone                                       # the row that the others are compared with, seed by seed
    rows:                                                # in the order of the table
      alone: [mode=supervised]
      kd: [loss=kd]

Cells are trained seed by seed, so that every row has as many. A cell in the file is not trained again; the file is
`results.jsonl` in the table's folder, a line for each cell.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import StrictInt

from kdlab.config.compose import compose
from kdlab.config.ranges import NAME
from kdlab.config.schema import RunConfig
from kdlab.config.settings import Settings, parse
from kdlab.config.yaml_file import read_text, read_yaml
from kdlab.core.comparison import Values
from kdlab.core.errors import UsageError, nearest
from kdlab.core.files import flush
from kdlab.run.derive import drop_unused
from kdlab.run.recipe import VERSION, given_weights

Row = dict[str, Any]


class TableConfig(Settings):
    """A table as its file has it."""

    overrides: tuple[str, ...] = ()
    seeds: StrictInt = 5
    against: str | None = None
    rows: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Cell:
    """One run of a table. key: the hash of its settings, those of its teacher included."""

    row: str
    seed: int
    config: RunConfig
    key: str


@dataclass(frozen=True)
class Record:
    """A table and what was measured of it so far.

    name: of the file. settings: the table. folder: of its results and runs.
    """

    name: str
    settings: TableConfig
    folder: Path
    cells: tuple[Cell, ...]

    @property
    def results(self) -> Path:
        """The file of results."""
        return self.folder / "results.jsonl"

    def measured(self) -> dict[tuple[str, int], Row]:
        """The result of every cell trained so far, by row and seed; lines of cells that the table no longer has are
        passed over."""
        asked: dict[str, list[tuple[str, int]]] = {}
        for cell in self.cells:  # rows of the same settings are one run
            asked.setdefault(cell.key, []).append((cell.row, cell.seed))
        lines = read_text(self.results).splitlines() if self.results.is_file() else []
        found: dict[tuple[str, int], Row] = {}
        for line in lines:
            try:
                result = json.loads(line)
            except ValueError:  # a write that was cut off
                continue
            if isinstance(result, dict) and result.get("key") in asked:
                found |= dict.fromkeys(asked[result["key"]], result)
        read: dict[str, set[str]] = {}
        for cell in self.cells:
            if (cell.row, cell.seed) in found:
                prints = read.setdefault(json.dumps(cell.config.data.plain(), sort_keys=True), set())
                prints.add(found[cell.row, cell.seed]["data"]["fingerprint"])
        if any(len(prints) > 1 for prints in read.values()):
            raise UsageError(f"{self.results} holds runs over files of data that were changed meanwhile; delete it")
        return found

    def missing(self) -> Iterator[Cell]:
        """The cells still to be trained, seed by seed."""
        done = self.measured()
        return (cell for cell in self.cells if (cell.row, cell.seed) not in done)

    def add(self, cell: Cell, result: Mapping[str, Any]) -> None:
        """Writes down what a cell came to."""
        names = ("primary", "directions", "titles", "student", "teacher", "data", "hardware")
        kept = {name: result[name] for name in names if name in result}
        self.folder.mkdir(parents=True, exist_ok=True)
        # A line of its own, also after a write that was cut off.
        line = json.dumps({"key": cell.key, "row": cell.row, "seed": cell.seed, **kept})
        with self.results.open("a") as file:
            file.write(f"\n{line}\n")
        flush(self.results)

    def values(self, metric: str) -> Mapping[str, Values]:
        """The test figures of the students at the last epoch, by row and seed."""
        found: dict[str, dict[int, float]] = {row: {} for row in self.settings.rows}
        for (row, seed), result in self.measured().items():
            if (value := result["student"]["test"]["last"].get(metric)) is not None:
                found[row][seed] = value
        return found


def read_record(
    file: Path, overrides: Sequence[str] = (), folders: Sequence[Path] = (), runs: Path | None = None
) -> Record:
    """Reads a table, and composes the run of each of its cells.

    Args:
        file: the YAML.
        overrides: `KEY=VALUE` of every run, after the table's own; `seeds=N` of the table.
        folders: further folders of config files.
        runs: the folder for all tables; None: `runs`.

    Raises:
        UsageError: in one line, naming the row.
    """
    if not file.is_file():
        raise UsageError(f"{file}: there is no such table; expected a YAML file, as in sweeps/")
    given = read_yaml(file)
    if not isinstance(given, dict):
        raise UsageError(f"{file}: expected a group of keys with rows: {{NAME: [KEY=VALUE, ...]}}")
    own = [override for override in overrides if override.startswith("seeds=")]
    for override in own:
        given["seeds"] = int(number) if (number := override.removeprefix("seeds=")).isdigit() else number
    settings = parse(TableConfig, given)
    if settings.seeds < 1 or not settings.rows:
        raise UsageError(f"{file}: expected a row or more, and seeds: 1 or more")
    for name in settings.rows:
        if not NAME[0](name):
            raise UsageError(f"rows.{name}: expected {NAME[1]}")
    if settings.against is not None and settings.against not in settings.rows:
        raise UsageError(f"against={settings.against}: there is no such row{nearest(settings.against, settings.rows)}")
    of_runs = [override for override in overrides if override not in own]
    folder = (runs or Path("runs")) / file.stem
    cells = []
    for seed in range(1, settings.seeds + 1):
        for row, extra in settings.rows.items():
            try:
                config = drop_unused(compose([*settings.overrides, *extra, *of_runs, f"seed={seed}"], folders))
            except UsageError as error:
                raise UsageError(f"rows.{row}: {error}") from error
            config = config.replace(name=f"{row}-seed{seed}", runs=str(folder / "cells"), alone=False)
            cells.append(Cell(row, seed, config, _key(config)))
    return Record(file.stem, settings, folder, tuple(cells))


def _key(config: RunConfig) -> str:
    """Of all that decides a cell's figures, given weights too, and not where its files go."""
    ignored = ("name", "runs", "logger", "names")
    plain = {key: value for key, value in config.plain().items() if key not in ignored}
    plain["recipe"] = [VERSION, sorted(given_weights(config))]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
