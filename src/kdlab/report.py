"""`python -m kdlab.report PATH`: the results of a run, a folder of runs or a study, printed and as an HTML page."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from kdlab.core.errors import UsageError, one_line
from kdlab.core.files import write_text
from kdlab.core.terminal import terminal


@one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit code is 0, or 2 for what the user must change."""
    parser = argparse.ArgumentParser(prog="python -m kdlab.report", description=__doc__)
    parser.add_argument("path", type=Path, help="the folder of a run or of a study, or one that holds runs")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="where to write the page; by default PATH/report.html"
    )
    parser.add_argument(
        "--against", metavar="SETTING", help="the setting that the others are compared with; by default plain KD"
    )
    parser.add_argument("--storage", metavar="URL", help="the storage of a study, where it needs a password")
    given = parser.parse_args(arguments)
    file = given.html or given.path / "report.html"
    text = report(given.path, terminal(), against=given.against, storage=given.storage)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, text)
    print(f"The page is {file}")
    return 0


def report(path: Path, console: Console, *, against: str | None = None, storage: str | None = None) -> str:
    """Prints the report of a path, and writes its page.

    Args:
        path: the folder of a run or of a study, or one that holds runs.
        against: the setting that the others are compared with.
        storage: where the trials of a study are, if its study.yaml omits it.

    Raises:
        UsageError: where there is nothing to report.
    """
    if (path / "study.yaml").is_file():
        from kdlab.reporting.study_report import report_study

        return report_study(path, console, storage)
    from kdlab.reporting.run_report import report_run, report_runs
    from kdlab.reporting.runs import read_run

    if (path / "config.yaml").is_file():
        return report_run(read_run(path), console)
    if not path.is_dir():
        raise UsageError(f"{path}: there is no such folder; expected one below runs/")
    complete = sorted(file.parent for file in path.glob("*/result.json"))
    if not complete:
        raise UsageError(
            f"{path}: nothing to report; expected a run (result.json), a folder of runs, or a study (study.yaml)"
        )
    begun = len(list(path.glob("*/config.yaml")))
    return report_runs([read_run(folder) for folder in complete], begun - len(complete), path, against, console)


if __name__ == "__main__":
    raise SystemExit(main())
