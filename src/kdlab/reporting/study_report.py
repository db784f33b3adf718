"""The report of a study: what its refits came to on test, then the search that led to them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from optuna.trial import TrialState
from rich.console import Console

from kdlab.core.errors import UsageError
from kdlab.reporting.charts import search as chart
from kdlab.reporting.charts.labels import number, short, titled, told
from kdlab.reporting.charts.search import Landmark
from kdlab.reporting.comparison import Contrast, contrasts
from kdlab.reporting.comparison_section import compared, provenance
from kdlab.reporting.html.page import beside, charts, folded, page, preformatted, section, wide
from kdlab.reporting.html.table import Column, Sheet
from kdlab.reporting.runs import EPOCHS, Board, Group, Run, board_of, read_run
from kdlab.study.pruner import feasible
from kdlab.study.results import SearchResults
from kdlab.study.storage import stored

COSTS = ("multiply_accumulates", "parameters", "bytes", "latency_ms")
"""What result.json says a network costs."""

MOST = 12
"""Rows of a table of trials."""


def of_study(folder: Path, console: Console, storage: str | None = None) -> str:
    """Prints what the refits and the search of a study came to; its page adds the charts.

    Args:
        folder: as `kdlab.study.spec` describes it.
        storage: where its trials are, if study.yaml does not tell.

    Raises:
        UsageError: where the study cannot be read.
    """
    with stored(folder, storage) as studies:
        searches = [SearchResults.of(study) for study in studies if "objectives" in study.user_attrs]
        if not searches:
            raise UsageError(f"{folder}: the study has not begun; python -m kdlab.sweep begins it")
        final = read_final(folder)
        lead, sections = [], []
        if final is not None:
            found = compared(final.board, final.rivals, console, final.keep)
            lead += found.sentences
            sections.append(found.section)
        missing = [f"{name}: not every seed came to its end, so it is left out." for name in _final(folder)["missing"]]
        for line in missing:
            console.print(line, highlight=False)
        lead += missing
        if len(searches) > 1:
            summary = _arms(searches)
            console.print(summary.to_rich())
            sections.append(section(summary.title, summary.to_html(titled=False)))
        for search in searches:
            parts = _search(search, final.landmarks(search.metric) if final else [])
            if len(searches) == 1:
                lead.append(_counted(search))
                console.print(_best(search).to_rich())
                console.print(lead[-1], highlight=False)
                sections += parts
            else:
                sections.append(folded(f"{search.arm}: {_counted(search)}", *parts))
        sections.append(folded("study.yaml", preformatted((folder / "study.yaml").read_text())))
    return page(f"Study {folder.resolve().name}", lead, sections, provenance(final.runs) if final else [])


@dataclass(frozen=True)
class Final:
    """The refits that final.json counts, and what is compared.

    keep: the epoch that is kept, `last` or `best`.
    """

    board: Board
    rivals: dict[str, list[Contrast]]
    keep: str

    @property
    def runs(self) -> list[Run]:
        return [run for group in self.board.groups for run in group.runs]

    def landmarks(self, metric: str) -> list[Landmark]:
        """The teacher and every student alone by what it costs; its validation metric is a mean over seeds."""
        rows: dict[tuple[str, int], list[Mapping[str, Any]]] = defaultdict(list)
        for run in self.runs:
            for name in ("alone", "teacher"):
                row = run.result[name] or {}
                seen = row.get("validation") or {"metric": None}
                if f"validation.{seen['metric']}" == metric and seen[self.keep] is not None:
                    rows[name, row["multiply_accumulates"]].append(row)
        names = {"teacher": "teacher", "alone": "student alone"}
        return [
            Landmark(
                names[name], name, {f"student.{key}": float(several[0][key]) for key in COSTS},
                fmean(row["validation"][self.keep] for row in several),
            )
            for (name, _), several in rows.items()
        ]  # fmt: skip


def read_final(folder: Path) -> Final | None:
    """The refits of a study; None where there are none that came to their end.

    Raises:
        UsageError: where one is not complete.
    """
    settings = _final(folder)["settings"]
    if not settings:
        return None
    groups = {
        setting["name"]: Group(setting["name"], tuple(read_run(folder / place) for place in setting["folders"]))
        for setting in settings
    }
    pairs = [(setting["name"], setting["against"]) for setting in settings if setting["against"] in groups]
    rivals = {
        epoch: contrasts([
            (name, other, groups[name].test("student", epoch), groups[other].test("student", epoch))
            for name, other in pairs
        ])
        for epoch in EPOCHS
    }  # fmt: skip
    board = board_of(list(groups.values()))
    return Final(board, rivals, board.groups[0].runs[0].config.keep)


def _final(folder: Path) -> dict[str, Any]:
    file = folder / "final.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {"settings": [], "missing": []}
    return found


def _search(search: SearchResults, landmarks: Sequence[Landmark]) -> list[str]:
    """The sections of one search."""
    value = titled(search.metric)
    fronts = [(f"{value} against {titled(cost)}", chart.front(search, cost, landmarks)) for cost in search.costs]
    marked = "" if landmarks else " No refits yet, so the teacher and the student alone are not marked."
    failed = [trial for trial in search.trials if trial.state == TrialState.FAIL]
    reasons = Sheet(
        "Failed trials", [Column("trial"), Column("reason", "left")],
        [[str(trial.number), trial.user_attrs.get("reason", "unknown")] for trial in failed],
    )  # fmt: skip
    best = _best(search)
    return [
        section(
            best.title,
            chart.KEY,
            beside(charts(*fronts), best.to_html(titled=False)),
            note=chart.CUT + marked,
        ),
        section(
            "Course",
            charts(
                ("Every trial, and the best so far", chart.history(search)),
                ("Learning curves; those of trials that are not beaten are thick", chart.learning(search)),
            ),
        ),
        section(
            "Parameters",
            charts(
                ("Importances: what tells the best tenth from the rest (PED-ANOVA)", chart.importances(search)),
                *((f"{value} against {name}", found) for name, found in chart.slices(search)),
            ),
            wide("A line for each complete trial; the stronger its colour, the better", chart.parallel(search)),
        ),
        reasons.to_html() if failed else "",
    ]


def _best(search: SearchResults) -> Sheet:
    """The front; where there is one objective, the best trials."""
    many = len(search.objectives) > 1
    fit = [trial for trial in search.complete if feasible(trial)]
    sign = -1 if search.direction == "max" else 1
    trials = search.front if many else sorted(fit, key=lambda trial: sign * (search.value(trial) or 0.0))[:MOST]
    names = short(list(search.space))
    metrics = list(dict.fromkeys([search.metric, *search.costs]))
    columns = [Column("trial"), *(Column(titled(metric)) for metric in metrics), *map(Column, names.values())]
    rows = [
        [
            str(trial.number),
            *(_figure(metric, search.read(trial, metric)) for metric in metrics),
            *(number(trial.params[name]) if name in trial.params else "" for name in names),
        ]
        for trial in trials
    ]
    return Sheet("Pareto front" if many else "Best trials", columns, rows)


def _arms(searches: Sequence[SearchResults]) -> Sheet:
    """A row per option that is compared."""
    first = searches[0]
    columns = [Column("option", "left"), Column("complete"), Column("pruned"), Column("failed"),
               Column(f"best {titled(first.metric)}"), Column("found", "left")]  # fmt: skip
    rows = []
    for search in searches:
        counts, best = search.counts(), search.best
        value = _figure(search.metric, search.value(best)) if best else ""
        params = told(best.params) if best else ""
        came = [str(counts.get(words, 0)) for words in ("complete", "pruned", "failed")]
        rows.append([str(search.arm), *came, value, params])
    return Sheet("Searches", columns, rows)


def _counted(search: SearchResults) -> str:
    """`60 trials: 48 complete, 12 pruned. Best: trial 3 with …`"""
    counts = ", ".join(f"{count} {words}" for words, count in search.counts().items())
    said = f"{len(search.trials)} trials: {counts}."
    if (best := search.best) is None:
        return said
    value = _figure(search.metric, search.value(best))
    return f"{said} Best by {titled(search.metric)}: trial {best.number} with {value}, {told(best.params)}."


def _figure(metric: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if metric.startswith("validation.") else f"{value:,.6g}"
