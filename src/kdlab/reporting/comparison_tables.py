"""Settings over their seeds: tables of means with intervals, and of paired differences with tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kdlab.core.comparison import Comparison, compare, format_difference, format_interval, format_mean
from kdlab.core.errors import UsageError, nearest
from kdlab.core.statistics import LEVEL, least_p
from kdlab.reporting.html.table import Column, ReportTable
from kdlab.reporting.runs import EPOCHS, Group, ResultSet

METHOD = (
    f"± and “to”: {100 * LEVEL:.0f} % interval of the mean over seeds, Student's t; on the page also by percentile "
    "bootstrap, which is too narrow for few seeds. Wilcoxon: p of the signed-rank test, two-sided, paired by seed."
)


TESTS = (Column("by bootstrap", page_only=True), Column("Wilcoxon", page_only=True), Column("t, Holm"))
"""The columns after a difference. The deciding test is the last, and the only one that fits a terminal."""


def compare_with_alone(results: ResultSet, epoch: str) -> dict[str, Comparison]:
    """The distilled student against the same student alone, by the label of each setting that has both."""
    sides = {
        group.label: (group.test("student", epoch), group.test("alone", epoch))
        for group in results.groups
        if group.has_baseline
    }
    return {
        found.label: found for found in compare([(label, "alone", *pair) for label, pair in sides.items() if all(pair)])
    }


def compare_settings(results: ResultSet, epoch: str, against: str | None = None) -> list[Comparison]:
    """Every other setting against a reference: the named one, else plain KD if there is a run of it, else the first
    run.

    Raises:
        UsageError: where no setting has that name.
    """
    reference = _reference(results, against)
    base = reference.test("student", epoch)
    return compare([
        (group.label, reference.label, group.test("student", epoch), base)
        for group in results.groups
        if group is not reference
    ])  # fmt: skip


def summary_tables(results: ResultSet) -> list[ReportTable]:
    """Student alone, distilled, teacher and the paired difference: for one setting by epoch, for several a table
    each."""
    gain = {epoch: compare_with_alone(results, epoch) for epoch in EPOCHS}
    seeds = sorted({seed for group in results.groups for seed in group.seeds})
    title = (
        f"{results.data}: {results.title} of the student on {results.samples} test samples, seeds {seed_range(seeds)}"
    )
    values = [Column("alone"), Column("distilled"), Column("teacher"), Column("distilled − alone"), *TESTS]
    if len(results.groups) == 1:
        (group,) = results.groups
        rows = [[words, *_row(group, epoch, gain[epoch])[:-2]] for epoch, words in EPOCHS.items()]
        columns = [Column("test", "left"), *values[:-3], Column("Wilcoxon")]
        return [ReportTable(title, columns, [row for row in rows if any(row[1:])])]
    values[2] = Column("teacher", page_only=True)
    columns = [Column("setting", "left"), Column("seeds"), *values]
    tables = []
    for epoch, words in EPOCHS.items():
        rows = [
            [group.label, str(len(group.seeds)), *_row(group, epoch, gain[epoch])]
            for group in results.groups
            if group.test("student", epoch)
        ]
        tables.append(_without_equal_counts(ReportTable(f"{title}, {words}", columns, rows)))
    return [table for table in tables if table.rows]


def comparison_table(found: Sequence[Comparison], epoch: str) -> ReportTable:
    """A row per comparison. epoch: `last` or `best`."""
    columns = [Column("settings", "left"), Column("seeds"), Column("difference"), *TESTS]
    rows = [[one.name, str(len(one.seeds)), *_difference(one)] for one in found]
    return _without_equal_counts(ReportTable(f"Between settings, paired by seed, {EPOCHS[epoch]}", columns, rows))


def footnotes(results: ResultSet) -> list[str]:
    """Notes for the reader of the tables."""
    most = max(len(group.seeds) for group in results.groups)
    floor = f" With {most} seeds it cannot be below {least_p(most):.3g}." if 1 < most < 6 else ""
    found = [METHOD + floor]
    if len(results.groups) > 1:
        found.append(
            "Intervals and Wilcoxon p are uncorrected; on the page the Holm-corrected p stands below. "
            "t, Holm: p of the paired t test, corrected for the number of comparisons in its table; below 0.05 a "
            "setting is called better or worse."
        )
    if results.direction == "min":
        found.append(f"Lower {results.title} is better.")
    repeated = sum(len(group.runs) - len(group.seeds) for group in results.groups)
    if repeated:
        found.append(f"{repeated} runs repeat the setting and seed of another; their mean counts once.")
    return found


def seed_range(seeds: Sequence[int]) -> str:
    """`1 to 5`, `0, 2, 7`."""
    if len(seeds) > 2 and seeds[-1] - seeds[0] == len(seeds) - 1:
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


def _difference(found: Comparison | None) -> list[str]:
    if found is None:
        return [""] * (1 + len(TESTS))
    gain = found.paired.mean
    interval = f"\n{format_interval(gain.interval)}" if gain.interval else ""
    return [
        format_difference(gain.value) + interval,
        format_interval(found.paired.bootstrap),
        f"{found.paired.wilcoxon:.3g}" + (f"\nHolm {found.wilcoxon_holm:.3g}" if found.tests > 1 else ""),
        f"{found.p_holm:.3g}",
    ]


def _reference(results: ResultSet, against: str | None) -> Group:
    if against is not None:
        named = [group for group in results.groups if group.label == against]
        if not named:
            labels = [group.label for group in results.groups]
            raise UsageError(f"--against {against}: no setting has that name{nearest(against, labels)}")
        return named[0]
    names = [(group, group.runs[0].result["names"]) for group in results.groups]
    plain = [group for group, name in names if (name.get("loss"), name.get("mode")) == ("kd", "offline")]
    first: Group = min(results.groups, key=lambda group: min(run.folder.name for run in group.runs))
    return plain[0] if len(plain) == 1 else first


def _row(group: Group, epoch: str, gain: Mapping[str, Comparison]) -> list[str]:
    rows = ("alone", "student", "teacher") if group.distills else ("student", "alone", "teacher")
    means = [format_mean(list(group.test(row, epoch).values())) for row in rows]
    return [*means, *_difference(gain.get(group.label))]


def _without_equal_counts(table: ReportTable) -> ReportTable:
    """A table without its number of seeds, where that is the same in all rows."""
    if len({row[1] for row in table.rows}) > 1:
        return table
    columns = [column for place, column in enumerate(table.columns) if place != 1]
    return ReportTable(table.title, columns, [[*row[:1], *row[2:]] for row in table.rows])
