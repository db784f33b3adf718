"""Settings over their seeds: tables of means with intervals, and of paired differences with tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdlab.core.errors import UsageError, nearest
from kdlab.core.statistics import LEVEL, Interval, Paired, holm, least_p, mean, paired, shown
from kdlab.reporting.html.table import Column, Sheet
from kdlab.reporting.runs import EPOCHS, Board, Group

METHOD = (
    f"± and “to”: {100 * LEVEL:.0f} % interval of the mean over seeds, Student's t; on the page also by percentile "
    "bootstrap, which is too narrow for few seeds. Wilcoxon: p of the signed-rank test, two-sided, paired by seed."
)


TESTS = (Column("by bootstrap", page=True), Column("Wilcoxon", page=True), Column("t, Holm"))
"""What follows a difference. What decides comes last, and is the one that the terminal has room for."""


@dataclass(frozen=True)
class Contrast:
    """One setting against another on the seeds that both have.

    corrected, ranks: p of the t test and of Wilcoxon's after Holm, for the `tests` of its table.
    """

    label: str
    against: str
    seeds: tuple[int, ...]
    paired: Paired
    corrected: float
    ranks: float
    tests: int

    @property
    def name(self) -> str:
        return f"{self.label} − {self.against}"

    def sentence(self, direction: str, *, whole: bool = True) -> str:
        """What it says, in words: better or worse by the t test after Holm. whole: the other tests too."""
        found = self.paired.mean
        if found.interval is None:
            return f"{self.name} is {signed(found.value)} with one seed, which says little."
        sign = shown(found.value, self.corrected) * (1 if direction == "max" else -1)
        verdict = {0: "is not shown to differ from", 1: "is better than", -1: "is worse than"}[sign]
        said = (
            f"{self.label} {verdict} {self.against}: {signed(found.value)} on average over {found.n} seeds, "
            f"95 % interval {span(found.interval)}"
        )
        if self.tests > 1:
            return f"{said} by itself; t test after Holm for {self.tests} comparisons: p {self.corrected:.3g}."
        if not whole:
            return f"{said}."
        p = self.paired.wilcoxon
        least = ", the least that so few seeds can give" if p <= least_p(found.n) else ""
        return f"{said} (t), {span(self.paired.bootstrap)} (bootstrap); Wilcoxon p {p:.3g}{least}."


def gains(board: Board, epoch: str) -> dict[str, Contrast]:
    """Of each setting that distils, the student distilled against itself alone, by its label."""
    sides = {
        group.label: (group.test("student", epoch), group.test("alone", epoch))
        for group in board.groups
        if group.distils
    }
    return {
        found.label: found
        for found in contrasts([(label, "alone", *pair) for label, pair in sides.items() if all(pair)])
    }


def duels(board: Board, epoch: str, against: str | None = None) -> list[Contrast]:
    """Every other setting against one: the one named, else plain KD where there is one, else the first that was run.

    Raises:
        UsageError: where no setting has that name.
    """
    reference = _reference(board, against)
    base = reference.test("student", epoch)
    return contrasts([
        (group.label, reference.label, group.test("student", epoch), base)
        for group in board.groups
        if group is not reference
    ])  # fmt: skip


def contrasts(pairs: Sequence[tuple[str, str, Mapping[int, float], Mapping[int, float]]]) -> list[Contrast]:
    """Compares each pair, (label, against, values by seed, values by seed), on its common seeds; corrected for all."""
    found = []
    for label, against, values, others in pairs:
        if seeds := sorted(values.keys() & others.keys()):
            compared = paired([values[seed] for seed in seeds], [others[seed] for seed in seeds])
            found.append((label, against, tuple(seeds), compared))
    corrected = holm([compared.p for *_, compared in found])
    ranks = holm([compared.wilcoxon for *_, compared in found])
    return [Contrast(*one, p, rank, len(found)) for one, p, rank in zip(found, corrected, ranks, strict=True)]


def figures(board: Board) -> list[Sheet]:
    """Student alone, distilled, teacher and the paired difference: of one setting by epoch, of several a table each."""
    gain = {epoch: gains(board, epoch) for epoch in EPOCHS}
    seeds = sorted({seed for group in board.groups for seed in group.seeds})
    title = f"{board.data}: {board.title} of the student on {board.samples} test samples, seeds {enumerated(seeds)}"
    figures = [Column("alone"), Column("distilled"), Column("teacher"), Column("distilled − alone"), *TESTS]
    if len(board.groups) == 1:
        (group,) = board.groups
        rows = [[words, *_figures(group, epoch, gain[epoch])[:-2]] for epoch, words in EPOCHS.items()]
        columns = [Column("test", "left"), *figures[:-3], Column("Wilcoxon")]
        return [Sheet(title, columns, [row for row in rows if any(row[1:])])]
    figures[2] = Column("teacher", page=True)
    columns = [Column("setting", "left"), Column("seeds"), *figures]
    sheets = []
    for epoch, words in EPOCHS.items():
        rows = [
            [group.label, str(len(group.seeds)), *_figures(group, epoch, gain[epoch])]
            for group in board.groups
            if group.test("student", epoch)
        ]
        sheets.append(_lean(Sheet(f"{title}, {words}", columns, rows)))
    return [sheet for sheet in sheets if sheet.rows]


def comparison(found: Sequence[Contrast], words: str) -> Sheet:
    """A row per contrast. words: the epoch."""
    columns = [Column("settings", "left"), Column("seeds"), Column("difference"), *TESTS]
    rows = [[one.name, str(len(one.seeds)), *_difference(one)] for one in found]
    return _lean(Sheet(f"Between settings, paired by seed, {words}", columns, rows))


def notes(board: Board) -> list[str]:
    """What has to be known to read the tables of a board."""
    most = max(len(group.seeds) for group in board.groups)
    floor = f" With {most} seeds it cannot be below {least_p(most):.3g}." if 1 < most < 6 else ""
    found = [METHOD + floor]
    if len(board.groups) > 1:
        found.append(
            "Intervals and Wilcoxon are of each comparison by itself; on the page its p after Holm stands below. "
            "t, Holm: p of the paired t test, corrected for the number of comparisons of its table; below 0.05 a "
            "setting is called better or worse."
        )
    if board.direction == "min":
        found.append(f"Of {board.title}, less is better.")
    repeated = sum(len(group.runs) - len(group.seeds) for group in board.groups)
    if repeated:
        found.append(f"{repeated} runs share a setting and seed with another; they count once, by their mean.")
    return found


def spread(values: Mapping[int, float]) -> str:
    """`0.9683` and, below it, `± 0.0042`; without an interval where all are one, as a teacher's are."""
    if not values:
        return ""
    found = mean(list(values.values()))
    return f"{found.value:.4f}" + (f"\n± {found.margin:.4f}" if found.margin else "")


def signed(value: float) -> str:
    """A difference, with a proper minus."""
    return f"{value:+.4f}".replace("-", "−")


def span(interval: Interval | None) -> str:
    """`+0.0056 to +0.0266`."""
    return f"{signed(interval[0])} to {signed(interval[1])}" if interval else ""


def enumerated(seeds: Sequence[int]) -> str:
    """`1 to 5`, `0, 2, 7`."""
    if len(seeds) > 2 and seeds[-1] - seeds[0] == len(seeds) - 1:
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


def _difference(found: Contrast | None) -> list[str]:
    if found is None:
        return [""] * (1 + len(TESTS))
    gain = found.paired.mean
    interval = f"\n{span(gain.interval)}" if gain.interval else ""
    return [
        signed(gain.value) + interval,
        span(found.paired.bootstrap),
        f"{found.paired.wilcoxon:.3g}" + (f"\nHolm {found.ranks:.3g}" if found.tests > 1 else ""),
        f"{found.corrected:.3g}",
    ]


def _reference(board: Board, against: str | None) -> Group:
    if against is not None:
        named = [group for group in board.groups if group.label == against]
        if not named:
            labels = [group.label for group in board.groups]
            raise UsageError(f"--against {against}: no setting has that name{nearest(against, labels)}")
        return named[0]
    names = [(group, group.runs[0].result["names"]) for group in board.groups]
    plain = [group for group, name in names if (name.get("loss"), name.get("mode")) == ("kd", "offline")]
    first: Group = min(board.groups, key=lambda group: min(run.folder.name for run in group.runs))
    return plain[0] if len(plain) == 1 else first


def _figures(group: Group, epoch: str, gain: Mapping[str, Contrast]) -> list[str]:
    rows = ("alone", "student", "teacher") if group.taught else ("student", "alone", "teacher")
    means = [spread(group.test(row, epoch)) for row in rows]
    return [*means, *_difference(gain.get(group.label))]


def _lean(sheet: Sheet) -> Sheet:
    """A table less the count of seeds, where all its rows have as many."""
    if len({row[1] for row in sheet.rows}) > 1:
        return sheet
    columns = [column for place, column in enumerate(sheet.columns) if place != 1]
    return Sheet(sheet.title, columns, [[*row[:1], *row[2:]] for row in sheet.rows])
