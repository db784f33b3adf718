"""The report of a run, and of a folder of runs: its tables and charts, in order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from kdlab.core.terminal import say
from kdlab.reporting.charts import curves
from kdlab.reporting.comparison_section import comparison_section, provenance
from kdlab.reporting.comparison_tables import compare_settings
from kdlab.reporting.html.page import charts, collapsible, page, section
from kdlab.reporting.html.table import Column, ReportTable
from kdlab.reporting.runs import EPOCHS, NAMES, Run, result_sets


def report_run(run: Run, console: Console) -> str:
    """Prints the table of a run; its page adds the learning curves."""
    from kdlab.run.result import (  # imports torch, which takes seconds; a folder of runs does without
        ROWS,
        lines,
        print_table,
    )

    print_table(run.result, console)
    present = {name: run.result[name] for name in ROWS if run.result[name]}
    titles = [ROWS[name] if len(present) > 1 else "student" for name in present]
    rows = [(words, *cells) for words, cells in lines(run.result, present)]
    table = ReportTable("", [Column("", "left"), *map(Column, titles)], rows)
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
                    (f"Validation {run.result['titles'][run.primary]}", curves.run_validation(run)),
                    ("Terms of the loss, each before its weight", curves.loss_terms(run)),
                ),
                note=curves.CLIPPED,
            ),
        ],
        provenance([run]),
    )


def report_runs(runs: Sequence[Run], unfinished: int, path: Path, against: str | None, console: Console) -> str:
    """Prints means over seeds, paired differences and comparisons; its page adds the charts.

    Args:
        unfinished: the number of other runs, which have no result.
        against: the setting that the others are compared with.

    Raises:
        UsageError: where `against` is none of the settings.
    """
    summary_lines, sections = [], []
    for results in result_sets(runs):
        found = comparison_section(
            results, {epoch: compare_settings(results, epoch, against) for epoch in EPOCHS}, console
        )
        summary_lines += found.sentences
        sections.append(found.html)
    if unfinished:
        summary_lines.append(f"{unfinished} runs without a result.json are left out: still running, or stopped.")
        say(console, summary_lines[-1])
    sections.append(collapsible(f"The {len(runs)} runs", _list(runs).to_html()))
    return page(f"{len(runs)} runs in {path.resolve().name}", summary_lines, sections, provenance(runs))


def _list(runs: Sequence[Run]) -> ReportTable:
    columns = [Column("run", "left"), Column("seed"), *(Column(f"test, {words}") for words in EPOCHS.values())]
    rows = []
    for run in sorted(runs, key=lambda run: run.folder.name):
        tested = [run.test("student", epoch) for epoch in EPOCHS]
        rows.append([run.folder.name, str(run.seed), *("" if value is None else f"{value:.4f}" for value in tested)])
    return ReportTable("", columns, rows)


def _gap(run: Run) -> list[str]:
    shares = run.result["gap_closed"]
    known = [f"{share:.0%} at the {EPOCHS[epoch]}" for epoch, share in shares.items() if share is not None]
    words = "Of the gap between the student alone and the teacher, distillation closed "
    return [words + ", ".join(known) + "."] if known else []
