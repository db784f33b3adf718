"""The report of a run, and of a folder of runs: which tables and charts there are, and in what order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from kdlab.reporting.charts import curves
from kdlab.reporting.comparison import duels
from kdlab.reporting.comparison_section import compared, provenance
from kdlab.reporting.html.page import charts, folded, page, section
from kdlab.reporting.html.table import Column, Sheet
from kdlab.reporting.runs import EPOCHS, NAMES, Run, boards


def of_run(run: Run, console: Console) -> str:
    """Prints the table of a run; its page adds the learning curves."""
    from kdlab.run.result import ROWS, lines, print_table  # with torch, seconds that a folder of runs need not wait

    print_table(run.result, console)
    shown = {name: run.result[name] for name in ROWS if run.result[name]}
    titles = [ROWS[name] if len(shown) > 1 else "student" for name in shown]
    rows = [(words, *cells) for words, cells in lines(run.result, shown)]
    table = Sheet("", [Column("", "left"), *map(Column, titles)], rows)
    names = run.result["names"]
    about = ", ".join(f"{name} {names[name]}" for name in NAMES if names.get(name))
    return page(
        run.result["name"],
        [f"{about}; seed {run.seed}.", *_gap(run)],
        [
            section("Figures", table.to_html()),
            section(
                "Learning curves",
                charts(
                    (f"Validation {run.result['titles'][run.primary]}", curves.validation_of_run(run)),
                    ("Terms of the loss, each before its weight", curves.losses(run)),
                ),
                note=curves.CUT,
            ),
        ],
        provenance([run]),
    )


def of_runs(runs: Sequence[Run], unfinished: int, path: Path, against: str | None, console: Console) -> str:
    """Prints means over seeds, paired differences and comparisons; its page adds the charts.

    Args:
        unfinished: how many other runs are there, which have no result.
        against: the setting that the others are compared with.

    Raises:
        UsageError: where `against` is none of the settings.
    """
    lead, sections = [], []
    for board in boards(runs):
        found = compared(board, {epoch: duels(board, epoch, against) for epoch in EPOCHS}, console)
        lead += found.sentences
        sections.append(found.section)
    if unfinished:
        lead.append(f"{unfinished} runs without a result.json are left out: they go on, or stopped.")
        console.print(lead[-1], highlight=False)
    sections.append(folded(f"The {len(runs)} runs", _list(runs).to_html()))
    return page(f"{len(runs)} runs in {path.resolve().name}", lead, sections, provenance(runs))


def _list(runs: Sequence[Run]) -> Sheet:
    columns = [Column("run", "left"), Column("seed"), *(Column(f"test, {words}") for words in EPOCHS.values())]
    rows = []
    for run in sorted(runs, key=lambda run: run.folder.name):
        tested = [run.test("student", epoch) for epoch in EPOCHS]
        rows.append([run.folder.name, str(run.seed), *("" if value is None else f"{value:.4f}" for value in tested)])
    return Sheet("", columns, rows)


def _gap(run: Run) -> list[str]:
    shares = run.result["gap_closed"]
    known = [f"{share:.0%} at the {EPOCHS[epoch]}" for epoch, share in shares.items() if share is not None]
    words = "Of the gap between the student alone and the teacher, distilling closed "
    return [words + ", ".join(known) + "."] if known else []
