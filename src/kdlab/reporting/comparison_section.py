"""Settings over their seeds, printed and as a section of the page: tables, tests, charts and their provenance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from kdlab.core.comparison import Comparison
from kdlab.core.terminal import say
from kdlab.reporting.charts import curves
from kdlab.reporting.charts.forest import Row, forest
from kdlab.reporting.comparison_tables import compare_with_alone, comparison_table, footnotes, summary_tables
from kdlab.reporting.html.page import charts, legend, paragraphs, section
from kdlab.reporting.runs import EPOCHS, ResultSet, Run, read_curve

MAX_SENTENCES = 3
"""Up to this many comparisons are also put into words; beyond that the tables suffice."""


@dataclass(frozen=True)
class ComparisonSection:
    """Its sentences, for the top of the page, and its HTML."""

    sentences: list[str]
    html: str


def comparison_section(
    results: ResultSet, comparisons: Mapping[str, Sequence[Comparison]], console: Console, epoch: str = "last"
) -> ComparisonSection:
    """Prints the tables of a set of results, and makes its section of the page.

    Args:
        comparisons: between settings, by epoch; there may be none.
        epoch: of charts and sentences, `last` or `best`.
    """
    tables = summary_tables(results)
    tables += [comparison_table(several, tested) for tested, several in comparisons.items() if several]
    if results.common:
        say(console, results.common)
    for table in tables:
        console.print(table.to_rich())
    over_alone = compare_with_alone(results, epoch)
    few = [
        one
        for several in (comparisons.get(epoch, ()), over_alone.values())
        if len(several) <= MAX_SENTENCES
        for one in several
    ]
    sentences = [
        f"{EPOCHS[epoch].capitalize()}: {one.sentence(results.direction, every_test=len(few) == 1)}" for one in few
    ]
    remarks = footnotes(results)
    for line in [*sentences, *remarks]:
        say(console, line)
    parts = [table.to_html(titled=place > 0) for place, table in enumerate(tables)]
    parts += [paragraphs(remarks, "note")]
    parts.append(legend(("student", "distilled"), ("alone", "alone"), ("teacher", "teacher")))
    parts.append(charts(
        (f"Test, {EPOCHS[epoch]}: small dots are seeds, lines 95 % t intervals", _tested(results, epoch)),
        ("Distilled − alone, paired by seed", _differences(list(over_alone.values()), results)),
        ("Between settings, paired by seed", _differences(comparisons.get(epoch, ()), results)),
    ))  # fmt: skip
    parts.append(charts(*_learning(results)))
    return ComparisonSection(sentences, section(tables[0].title, *parts, note=results.common))


def provenance(runs: Sequence[Run]) -> list[str]:
    """Data, versions, commits and hardware of runs; several where they differ."""

    def distinct(read: Callable[[Mapping[str, Any]], str]) -> str:
        return ", ".join(dict.fromkeys(read(run.result) for run in runs))

    data = distinct(lambda r: f"{r['data']['train']} for training, {r['data']['validation']} for validation, "
                              f"{r['data']['test']} for test, fingerprint {r['data']['fingerprint'][:12]}")  # fmt: skip
    packages = distinct(lambda r: ", ".join(f"{name} {number}" for name, number in r["versions"].items()))
    machine = distinct(lambda r: f"{r['hardware']['gpu'] or r['hardware']['cpu']}, threads: {r['hardware']['threads']}")
    commit = distinct(lambda r: (r["commit"] or "unknown")[:12])
    return [f"Data: {data}.", f"Made with {packages}; commit {commit}; {machine}."]


def _tested(results: ResultSet, epoch: str) -> str:
    """Every setting's test values."""
    rows = []
    for group in results.groups:
        own = ("distilled", "student") if group.distills else ("trained alone", "alone")
        rows.append(Row(group.label, *own, group.test("student", epoch)))
        rows.append(Row("", "alone", "alone", group.test("alone", epoch)))
        rows.append(Row("", "teacher", "teacher", group.test("teacher", epoch), same_row=True))
    return forest(rows, results.title, "test by setting")


def _differences(found: Sequence[Comparison], results: ResultSet) -> str:
    rows = [
        Row(one.name, one.name, "student", dict(zip(one.seeds, one.paired.differences, strict=True))) for one in found
    ]
    return forest(rows, f"difference of {results.title}", "paired differences", zero=True)


def _learning(results: ResultSet) -> list[tuple[str, str]]:
    """A chart per setting, all with one vertical axis."""
    metric = f"validation/{results.metric}"
    files = [file for group in results.groups for run in group.runs
             for file in (run.folder / "metrics.csv", run.folder / "alone" / "metrics.csv")]  # fmt: skip
    every = [found for file in files if (found := read_curve(file, metric))]
    if not every:
        return []
    teachers = [run.validation("teacher") for group in results.groups for run in group.runs]
    y_range = curves.axis_range(every, [value for value in teachers if value is not None], results.direction)
    return [
        (
            f"Validation by epoch: {group.label}",
            curves.group_validation(group, results.title, results.direction, y_range),
        )
        for group in results.groups
    ]
