"""Settings over their seeds: tables of means with intervals, and of paired differences with tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdlab.errors import UsageError, nearest
from kdlab.reporting.runs import EPOCHS, Board, Group
from kdlab.reporting.sheet import Column, Sheet
from kdlab.statistics import LEVEL, Interval, Paired, holm, least_p, mean, paired

METHOD = (
    f"± and “to”: {100 * LEVEL:.0f} % interval of the mean over seeds, Student's t; on the page also by percentile "
    "bootstrap, which is too narrow for few seeds. p: Wilcoxon signed-rank, two-sided, paired by seed."
)


TESTED = {"last": "last", "best": "best by\nvalidation"}
"""The epochs that were tested, in a table."""


@dataclass(frozen=True)
class Contrast:
    """One setting against another on the seeds that both have. corrected: p after Holm, of its whole table."""

    label: str
    against: str
    seeds: tuple[int, ...]
    paired: Paired
    corrected: float

    @property
    def name(self) -> str:
        return f"{self.label} − {self.against}"

    def sentence(self, direction: str) -> str:
        """What it says, in words: better or worse only where the t interval leaves out 0."""
        found = self.paired.mean
        if found.interval is None:
            return f"{self.label} − {self.against}: {signed(found.value)} with one seed, which says little."
        low, high = found.interval
        better = (found.value > 0) == (direction == "max")
        verdict = "is not shown to differ from" if low <= 0 <= high else "is better than" if better else "is worse than"
        least = ", the least that so few seeds can give" if self.paired.p <= least_p(found.n) else ""
        return (
            f"{self.label} {verdict} {self.against}: {signed(found.value)} on average over {found.n} seeds; "
            f"95 % interval {span(found.interval)} (t), {span(self.paired.bootstrap)} (bootstrap); "
            f"Wilcoxon p {self.paired.p:.3g}{least}."
        )


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
    """Compares each pair, (label, against, values by seed, values by seed), on its common seeds; p after Holm."""
    found = []
    for label, against, values, others in pairs:
        if seeds := sorted(values.keys() & others.keys()):
            compared = paired([values[seed] for seed in seeds], [others[seed] for seed in seeds])
            found.append((label, against, tuple(seeds), compared))
    corrected = holm([compared.p for *_, compared in found])
    return [Contrast(*one, p) for one, p in zip(found, corrected, strict=True)]


def figures(board: Board) -> Sheet:
    """A row per setting and epoch: student alone, distilled, teacher, and the paired difference."""
    several = len(board.groups) > 1
    columns = [
        Column("setting", "left"), Column("seeds"), Column("epoch", "left"), Column("alone"),
        Column("distilled"), Column("teacher"), Column("distilled − alone"), Column("by bootstrap", page=True),
        Column("p"), Column("p, Holm"),
    ]  # fmt: skip
    rows = []
    gain = {epoch: gains(board, epoch) for epoch in EPOCHS}
    for group in board.groups:
        for epoch in EPOCHS:
            if not (student := group.test("student", epoch)):
                continue
            alone, teacher = group.test("alone", epoch), group.test("teacher", epoch)
            shown = [group.label, str(len(student)), TESTED[epoch], spread(alone), spread(student), spread(teacher)]
            rows.append([*shown, *_difference(gain[epoch].get(group.label))])
    seeds = sorted({seed for group in board.groups for seed in group.seeds})
    needless = [] if several else ["setting", "p, Holm"]
    if all(group.seeds == seeds for group in board.groups):
        needless.append("seeds")
    title = f"{board.data}: {board.title} of the student on {board.samples} test samples, seeds {enumerated(seeds)}"
    return _without(Sheet(title, columns, rows, notes(board)), needless)


def comparison(found: Mapping[str, Sequence[Contrast]]) -> Sheet:
    """A row per contrast and epoch. found: by epoch."""
    columns = [
        Column("settings", "left"), Column("seeds"), Column("epoch", "left"), Column("difference"),
        Column("by bootstrap", page=True), Column("p"), Column("p, Holm"),
    ]  # fmt: skip
    rows = [
        [one.name, str(len(one.seeds)), TESTED[epoch], *_difference(one)]
        for place in range(max(map(len, found.values())))
        for epoch, several in found.items()
        for one in several[place : place + 1]
    ]
    return Sheet("Between settings, paired by seed", columns, rows)


def notes(board: Board) -> list[str]:
    """What has to be known to read the tables of a board."""
    most = max(len(group.seeds) for group in board.groups)
    found = [METHOD + f" With {most} seeds it cannot be below {least_p(most):.3g}." if most > 1 else METHOD]
    if len(board.groups) > 1:
        found.append("p, Holm: corrected for the number of settings, at each epoch; below 0.05 is evidence.")
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
        return [""] * 4
    gain = found.paired.mean
    interval = f"\n{span(gain.interval)}" if gain.interval else ""
    return [
        signed(gain.value) + interval,
        span(found.paired.bootstrap),
        f"{found.paired.p:.3g}",
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


def _without(sheet: Sheet, names: Sequence[str]) -> Sheet:
    """A table less some columns."""
    kept = [place for place, column in enumerate(sheet.columns) if column.name not in names]
    rows = [[row[place] for place in kept] for row in sheet.rows]
    return Sheet(sheet.title, [sheet.columns[place] for place in kept], rows, sheet.notes)
