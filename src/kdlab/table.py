"""`python -m kdlab.table sweeps/sst2.yaml`: train rows of runs over seeds, cell by cell, and make their table.

Stopped at any point, the same command goes on. `--minutes 9` starts no further cell after that time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdlab.core.errors import UsageError, one_line
from kdlab.core.files import write_text

if TYPE_CHECKING:
    from kdlab.study.record import Cell, Record


@one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit code is 0, 1 where a cell diverged, 2 for what the user must change."""
    parser = argparse.ArgumentParser(prog="python -m kdlab.table", description=__doc__)
    parser.add_argument("table", type=Path, help="a YAML file; see kdlab.study.record")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of every run, or seeds=N")
    parser.add_argument("--config-dir", action="append", default=[], type=Path, help="a folder of your own configs")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the table's folder goes")
    parser.add_argument("--minutes", type=float, help="start no cell after so long")
    given = parser.parse_args(arguments)
    from kdlab.study.record import read_record

    record = read_record(given.table, given.overrides, given.config_dir, given.runs)
    end = None if given.minutes is None else time.monotonic() + 60 * given.minutes
    diverged = 0
    try:
        for place, cell in enumerate(list(record.missing())):
            if place and end is not None and time.monotonic() > end:
                break
            diverged += not _train(record, cell)
    except KeyboardInterrupt:
        print("kdlab: stopped; the same command goes on")
    if not record.measured():
        raise UsageError(f"{record.results}: no cell is trained yet")
    from kdlab.reporting.record_table import markdown

    text = "\n".join(markdown(record))
    print(text)
    write_text(record.folder / "table.md", text + "\n")
    return 1 if diverged else 0


def _train(record: Record, cell: Cell) -> bool:
    from kdlab.run.execute import run
    from kdlab.run.preflight import Preflight
    from kdlab.training.loss_buffer import DivergedError

    try:
        Preflight().check(cell.config)
        outcome = run(cell.config)
    except UsageError as error:
        raise UsageError(f"rows.{cell.row}: {error}") from error
    except DivergedError as error:
        print(f"kdlab: rows.{cell.row}, seed {cell.seed}: {error}")
        return False
    if outcome is not None:
        record.add(cell, outcome.result)
    return True


if __name__ == "__main__":
    raise SystemExit(main())
