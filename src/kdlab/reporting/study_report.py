"""The report of a study: the test results of its refits, then the search that led to them."""

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

from kdlab.core.comparison import Comparison, compare
from kdlab.core.errors import UsageError
from kdlab.core.terminal import say
from kdlab.reporting.charts import search as chart
from kdlab.reporting.charts.labels import format_params, format_value, metric_title, short_names
from kdlab.reporting.charts.search import ReferencePoint
from kdlab.reporting.comparison_section import comparison_section, provenance
from kdlab.reporting.html.page import charts, collapsible, page, preformatted, section, side_by_side, wide_chart
from kdlab.reporting.html.table import Column, ReportTable
from kdlab.reporting.runs import EPOCHS, Group, ResultSet, Run, read_run, result_set_of
from kdlab.study.results import SearchResults
from kdlab.study.storage import stored

COSTS = ("multiply_accumulates", "parameters", "bytes", "latency_ms")
"""The keys of result.json that say what a network costs."""

MAX_ROWS = 12
"""The columns of a table of trials."""


def report_study(folder: Path, console: Console, storage: str | None = None) -> str:
    """Prints the results of the refits and of the search; the page adds the charts.

    Args:
        folder: as `kdlab.study.spec` describes it.
        storage: where its trials are, if study.yaml does not say.

    Raises:
        UsageError: where the study cannot be read.
    """
    with stored(folder, storage) as studies:
        searches = [SearchResults.of(study) for study in studies if "objectives" in study.user_attrs]
        if not searches:
            raise UsageError(f"{folder}: the study has not started; python -m kdlab.sweep starts it")
        final = read_refits(folder)
        summary_lines, sections = [], []
        if final is not None:
            found = comparison_section(final.results, final.comparisons, console, final.keep)
            summary_lines += found.sentences
            sections.append(found.html)
        missing = [f"{name}: left out, because not every seed finished." for name in _final(folder)["missing"]]
        for line in missing:
            say(console, line)
        summary_lines += missing
        if len(searches) > 1:
            options = _options(searches)
            console.print(options.to_rich())
            sections.append(section(options.title, options.to_html(titled=False)))
        for search in searches:
            parts = _search(search, final.reference_points(search.metric) if final else [])
            if len(searches) == 1:
                summary_lines.append(_trial_counts(search))
                console.print(_best(search).to_rich())
                say(console, summary_lines[-1])
                sections += parts
            else:
                sections.append(collapsible(f"{search.option}: {_trial_counts(search)}", *parts))
        sections.append(collapsible("study.yaml", preformatted((folder / "study.yaml").read_text())))
    return page(f"Study {folder.resolve().name}", summary_lines, sections, provenance(final.runs) if final else [])


@dataclass(frozen=True)
class RefitResults:
    """The refits in final.json, and the comparisons between them, by epoch.

    keep: the epoch that is kept, `last` or `best`.
    """

    results: ResultSet
    comparisons: dict[str, list[Comparison]]
    keep: str

    @property
    def runs(self) -> list[Run]:
        return [run for group in self.results.groups for run in group.runs]

    def reference_points(self, metric: str) -> list[ReferencePoint]:
        """The teacher and every student alone by cost; the validation metric is a mean over seeds."""
        rows: dict[tuple[str, int], list[Mapping[str, Any]]] = defaultdict(list)
        for run in self.runs:
            for name in ("alone", "teacher"):
                row = run.result[name] or {}
                seen = row.get("validation") or {"metric": None}
                if f"validation.{seen['metric']}" == metric and seen[self.keep] is not None:
                    rows[name, row["multiply_accumulates"]].append(row)
        names = {"teacher": "teacher", "alone": "student alone"}
        return [
            ReferencePoint(
                names[name], name, {f"student.{key}": float(several[0][key]) for key in COSTS},
                fmean(row["validation"][self.keep] for row in several),
            )
            for (name, _), several in rows.items()
        ]  # fmt: skip


def read_refits(folder: Path) -> RefitResults | None:
    """The refits of a study; None where none has finished.

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
    comparisons = {
        epoch: compare([
            (name, other, groups[name].test("student", epoch), groups[other].test("student", epoch))
            for name, other in pairs
        ])
        for epoch in EPOCHS
    }  # fmt: skip
    results = result_set_of(list(groups.values()))
    return RefitResults(results, comparisons, results.groups[0].runs[0].config.keep)


def _final(folder: Path) -> dict[str, Any]:
    file = folder / "final.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {"settings": [], "missing": []}
    return found


def _search(search: SearchResults, references: Sequence[ReferencePoint]) -> list[str]:
    """The sections of one search."""
    value = metric_title(search.metric)
    fronts = [
        (f"{value} against {metric_title(cost)}", chart.pareto_front(search, cost, references)) for cost in search.costs
    ]
    marked = "" if references else " No refits yet, so the teacher and the student alone are not marked."
    failed = [trial for trial in search.trials if trial.state == TrialState.FAIL]
    reasons = ReportTable(
        "Failed trials", [Column("trial"), Column("reason", "left")],
        [[str(trial.number), trial.user_attrs.get("reason", "unknown")] for trial in failed],
    )  # fmt: skip
    best = _best(search)
    return [
        section(
            best.title,
            chart.LEGEND,
            side_by_side(charts(*fronts), best.to_html(titled=False)),
            note=chart.CLIPPED + marked,
        ),
        section(
            "History",
            charts(
                ("Every trial, and the best so far", chart.optimization_history(search)),
                ("Learning curves; those of the Pareto front are thick", chart.learning_curves(search)),
            ),
        ),
        section(
            "Parameters",
            charts(
                ("Importances: what tells the best tenth from the rest (PED-ANOVA)", chart.param_importances(search)),
                *((f"{value} against {name}", found) for name, found in chart.slice_plots(search)),
            ),
            wide_chart(
                "A line for each complete trial; the stronger its colour, the better", chart.parallel_coordinate(search)
            ),
        ),
        reasons.to_html() if failed else "",
    ]


def _best(search: SearchResults) -> ReportTable:
    """The front; where there is one objective, the best trials."""
    many = len(search.objectives) > 1
    sign = -1 if search.direction == "max" else 1
    trials = (
        search.front
        if many
        else sorted(search.feasible, key=lambda trial: sign * (search.value(trial) or 0.0))[:MAX_ROWS]
    )
    names = short_names(list(search.space))
    metrics = list(dict.fromkeys([search.metric, *search.costs]))
    columns = [Column("trial"), *(Column(metric_title(metric)) for metric in metrics), *map(Column, names.values())]
    rows = [
        [
            str(trial.number),
            *(_format_metric(metric, search.read(trial, metric)) for metric in metrics),
            *(format_value(trial.params[name]) if name in trial.params else "" for name in names),
        ]
        for trial in trials
    ]
    return ReportTable("Pareto front" if many else "Best trials", columns, rows)


def _options(searches: Sequence[SearchResults]) -> ReportTable:
    """A row per option that is compared."""
    first = searches[0]
    columns = [Column("option", "left"), Column("complete"), Column("pruned"), Column("failed"),
               Column(f"best {metric_title(first.metric)}"), Column("found", "left")]  # fmt: skip
    rows = []
    for search in searches:
        counts, best = search.counts(), search.best
        value = _format_metric(search.metric, search.value(best)) if best else ""
        params = format_params(best.params) if best else ""
        states = [str(counts.get(words, 0)) for words in ("complete", "pruned", "failed")]
        rows.append([str(search.option), *states, value, params])
    return ReportTable("Searches", columns, rows)


def _trial_counts(search: SearchResults) -> str:
    """`60 trials: 48 complete, 12 pruned. Best: trial 3 with …`"""
    counts = ", ".join(f"{count} {words}" for words, count in search.counts().items())
    counted = f"{len(search.trials)} trials: {counts}."
    if (best := search.best) is None:
        return counted
    title, value = metric_title(search.metric), _format_metric(search.metric, search.value(best))
    return f"{counted} Best by {title}: trial {best.number} with {value}, {format_params(best.params)}."


def _format_metric(metric: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if metric.startswith("validation.") else f"{value:,.6g}"
