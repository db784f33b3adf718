"""Settings over their seeds as a section of a page, and as printed: tables, tests, charts, where they come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from kdlab.reporting.charts import curves
from kdlab.reporting.charts.forest import Row, forest
from kdlab.reporting.comparison import Contrast, comparison, figures, gains, notes
from kdlab.reporting.html.page import charts, legend, paragraphs, section
from kdlab.reporting.runs import EPOCHS, Board, Run, curve

SENTENCES = 3
"""So many comparisons are told in words; of more, the tables say enough."""


@dataclass(frozen=True)
class Compared:
    """What is said of a board in words, and its section of the page."""

    sentences: list[str]
    section: str


def compared(board: Board, rivals: Mapping[str, Sequence[Contrast]], console: Console, epoch: str = "last") -> Compared:
    """Prints the tables of a board, and makes its section.

    Args:
        rivals: comparisons between settings, by epoch; perhaps none.
        epoch: the one that charts and sentences are of, `last` or `best`.
    """
    sheets = figures(board)
    sheets += [comparison(duels, EPOCHS[tested]) for tested, duels in rivals.items() if duels]
    if board.common:
        console.print(board.common, highlight=False)
    for sheet in sheets:
        console.print(sheet.to_rich())
    gain = gains(board, epoch)
    few = [one for several in (rivals.get(epoch, ()), gain.values()) if len(several) <= SENTENCES for one in several]
    told = [f"{EPOCHS[epoch].capitalize()}: {one.sentence(board.direction, whole=len(few) == 1)}" for one in few]
    remarks = notes(board)
    for line in [*told, *remarks]:
        console.print(line, highlight=False)
    parts = [sheet.to_html(titled=place > 0) for place, sheet in enumerate(sheets)]
    parts += [paragraphs(remarks, "note")]
    parts.append(legend(("student", "distilled"), ("alone", "alone"), ("teacher", "teacher")))
    parts.append(charts(
        (f"Test, {EPOCHS[epoch]}: small dots are seeds, lines 95 % t intervals", _tested(board, epoch)),
        ("Distilled − alone, paired by seed", _differences(list(gain.values()), board)),
        ("Between settings, paired by seed", _differences(rivals.get(epoch, ()), board)),
    ))  # fmt: skip
    parts.append(charts(*_learning(board)))
    return Compared(told, section(sheets[0].title, *parts, note=board.common))


def provenance(runs: Sequence[Run]) -> list[str]:
    """Data, versions, commits and hardware of runs; several where they differ."""

    def distinct(read: Callable[[Mapping[str, Any]], str]) -> str:
        return ", ".join(dict.fromkeys(read(run.result) for run in runs))

    data = distinct(lambda r: f"{r['data']['train']} to train, {r['data']['validation']} to validate, "
                              f"{r['data']['test']} to test, fingerprint {r['data']['fingerprint'][:12]}")  # fmt: skip
    packages = distinct(lambda r: ", ".join(f"{name} {number}" for name, number in r["versions"].items()))
    machine = distinct(lambda r: f"{r['hardware']['gpu'] or r['hardware']['cpu']}, threads: {r['hardware']['threads']}")
    commit = distinct(lambda r: (r["commit"] or "unknown")[:12])
    return [f"Data: {data}.", f"Made with {packages}; commit {commit}; {machine}."]


def _tested(board: Board, epoch: str) -> str:
    """Every setting's test values."""
    rows = []
    for group in board.groups:
        own = ("distilled", "student") if group.taught else ("trained alone", "alone")
        rows.append(Row(group.label, *own, group.test("student", epoch)))
        rows.append(Row("", "alone", "alone", group.test("alone", epoch)))
        rows.append(Row("", "teacher", "teacher", group.test("teacher", epoch), beside=True))
    return forest(rows, board.title, "test by setting")


def _differences(found: Sequence[Contrast], board: Board) -> str:
    rows = [
        Row(one.name, one.name, "student", dict(zip(one.seeds, one.paired.differences, strict=True))) for one in found
    ]
    return forest(rows, f"difference of {board.title}", "paired differences", zero=True)


def _learning(board: Board) -> list[tuple[str, str]]:
    """A chart per setting, all with one vertical axis."""
    metric = f"validation/{board.metric}"
    files = [file for group in board.groups for run in group.runs
             for file in (run.folder / "metrics.csv", run.folder / "alone" / "metrics.csv")]  # fmt: skip
    every = [found for file in files if (found := curve(file, metric))]
    if not every:
        return []
    teachers = [run.validation("teacher") for group in board.groups for run in group.runs]
    within = curves.bounds(every, [value for value in teachers if value is not None], board.direction)
    return [
        (f"Validation by epoch: {group.label}", curves.validation_of_group(group, board.title, board.direction, within))
        for group in board.groups
    ]
