"""Charts of a search: history, Pareto front, importances, slices, parallel coordinates, learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import quantiles

from optuna.trial import FrozenTrial, TrialState

from kdlab.reporting.charts.curves import axis_range
from kdlab.reporting.charts.labels import format_params, metric_title, short_names
from kdlab.reporting.charts.scale import LinearScale, RowScale, scale_from_distribution, scale_from_values, truncate
from kdlab.reporting.charts.svg import WIDTH, Axes, element, svg_document, text_element, tooltip
from kdlab.reporting.html.page import legend
from kdlab.study.results import SearchResults
from kdlab.study.spec import curve_of, feasible

SHADES = 5
"""Classes of colour from worse to better, `q0` to `q4`."""

LOG_FROM_RATIO = 8
"""An axis of costs is logarithmic if the largest is at least this many times the smallest."""

CLIPPED = "Trials far worse than the rest are drawn at the edge of a chart; hover over them for their values."

LEGEND = legend(
    ("student", "complete"), ("pruned", "pruned"), ("infeasible", "breaks a constraint"), ("front", "Pareto-optimal")
)


@dataclass(frozen=True)
class ReferencePoint:
    """A network that is not a trial, for comparison in the charts of trials: the teacher, the student alone."""

    name: str
    class_: str
    cost: dict[str, float]
    value: float


def optimization_history(search: SearchResults) -> str:
    """Trials in their order, and the best so far."""
    trials = search.with_curve
    if not trials:
        return ""
    axes = Axes(LinearScale(-1, trials[-1].number + 1), _y_axis(search), "trial", metric_title(search.metric))
    better = max if search.direction == "max" else min
    best = accumulate([search.value(trial) or 0.0 for trial in search.feasible], better)
    points = [(trial.number, value) for trial, value in zip(search.feasible, best, strict=True)]
    if points:
        axes.line([*points, (trials[-1].number, points[-1][1])], "front", steps=True)
    _scatter(axes, search, lambda trial: trial.number)
    return axes.draw("history")


def pareto_front(search: SearchResults, cost: str, references: Sequence[ReferencePoint] = ()) -> str:
    """Value against a cost: trials, the front, the published setting, the teacher and the student alone."""
    trials = [trial for trial in search.with_curve if search.read(trial, cost) is not None]
    known = [mark for mark in references if cost in mark.cost]
    costs = [*(search.read(trial, cost) or 0.0 for trial in trials), *(mark.cost[cost] for mark in known)]
    if len(set(costs)) < 2:
        return ""
    x = scale_from_values(costs, log=min(costs) > 0 and max(costs) > LOG_FROM_RATIO * min(costs))
    axes = Axes(x, _y_axis(search, [mark.value for mark in known]), metric_title(cost), metric_title(search.metric))
    points = [(search.read(trial, cost), search.value(trial)) for trial in search.front]
    axes.line(points, "front", "Pareto front", steps=True)
    _scatter(axes, search, lambda trial: search.read(trial, cost))
    for mark in known:
        axes.dot(
            mark.cost[cost], mark.value, mark.class_, f"{mark.name}: {mark.value:.4f}, {mark.cost[cost]:,.0f}", 5.5
        )
        axes.label(mark.cost[cost], mark.value, mark.name, mark.class_)
    if trials and trials[0].number == 0 and search.value(trials[0]) is not None:
        place = (search.read(trials[0], cost), _clamped(axes, search.value(trials[0]) or 0.0))
        axes.dot(*place, "ring", "the published setting", 7)
        axes.label(*place, "published")
    return axes.draw(f"{metric_title(search.metric)} against {metric_title(cost)}")


def slice_plots(search: SearchResults) -> list[tuple[str, str]]:
    """(name, value against it) of every parameter."""
    found = []
    for name, distribution in search.space.items():
        trials = [trial for trial in search.with_curve if name in trial.params]
        if not trials:
            continue
        axes = Axes(scale_from_distribution(distribution), _y_axis(search), "", metric_title(search.metric), height=230)
        _scatter(axes, search, lambda trial, name=name: trial.params[name], trials)
        found.append((name, axes.draw(f"{metric_title(search.metric)} against {name}")))
    return found


def param_importances(search: SearchResults) -> str:
    """A bar for each parameter."""
    found = search.importances()
    if not found:
        return ""
    axes = Axes(
        LinearScale(0, 1), RowScale(2 * len(found)), "share", left=14, top=4, right=46, height=40 + 42 * len(found)
    )
    names = short_names(list(found))
    for place, (name, share) in enumerate(sorted(found.items(), key=lambda pair: -pair[1])):
        (left, up), (right, _) = axes.pixel(0, 2 * place + 0.9), axes.pixel(share, 2 * place + 0.9)
        axes.overlay.append(
            element(
                "rect", tooltip(f"{share:.3f}"), x=left, y=up - 7, width=max(1.0, right - left), height=14, class_="bar"
            )
        )
        axes.overlay.append(text_element(left, axes.y_pixel(2 * place) + 5, names[name], "label"))
        axes.overlay.append(text_element(right + 6, up + 4, f"{share:.0%}"))
    return axes.draw("importances of the parameters")


def learning_curves(search: SearchResults) -> str:
    """The curve of every trial; those of the front in colour."""
    found = {trial.number: list(curve_of(trial).items()) for trial in search.with_curve}
    found = {place: points for place, points in found.items() if points}
    if not found:
        return ""
    low, high = axis_range(list(found.values()), [], search.direction)
    last = max(points[-1][0] for points in found.values())
    axes = Axes(LinearScale(0, last), LinearScale(low, high), "epoch", metric_title(search.metric), right=20)
    chosen = {trial.number for trial in search.front}
    order = sorted(search.with_curve, key=lambda trial: (trial.number in chosen, trial.number))
    for trial in order:
        points = found.get(trial.number, [])
        pruned = trial.state == TrialState.PRUNED
        kind = "front" if trial.number in chosen else "pruned thin" if pruned else "student faint"
        axes.line(points, kind, _hover(search, trial))
        if pruned and points and points[-1][1] >= low:
            axes.dot(*points[-1], "pruned", _hover(search, trial), 2.5)
    return axes.draw("learning curves")


def parallel_coordinate(search: SearchResults) -> str:
    """A line for each complete trial through its parameters and its value; better ones in stronger colour."""
    trials = sorted(search.feasible, key=lambda t: search.value(t) or 0.0)
    if search.direction == "min":
        trials = trials[::-1]
    if len(trials) < 2:
        return ""
    names = list(search.space)
    metrics = [*(metric for metric in search.objectives if metric != search.metric), search.metric]
    scales = {name: scale_from_distribution(of) for name, of in search.space.items()}
    for metric in metrics:
        values = [search.read(trial, metric) or 0.0 for trial in trials]
        scales[metric] = scale_from_values(values, log=min(values) > 0 and max(values) > LOG_FROM_RATIO * min(values))
    width, top, floor = max(WIDTH, 120.0 * len(scales)), 40.0, 250.0
    across = {name: 36 + place * (width - 84) / (len(scales) - 1) for place, name in enumerate(scales)}
    parts = []
    for rank, trial in enumerate(trials):
        values_of = {**trial.params, **{metric: search.read(trial, metric) for metric in metrics}}
        places = [
            (
                across[name],
                floor + 16 if name not in values_of else floor - scale.position(values_of[name]) * (floor - top),
            )
            for name, scale in scales.items()
        ]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(element("path", tooltip(_hover(search, trial)), d=path, class_=f"q{rank * SHADES // len(trials)}"))
    labels = short_names(names) | {metric: metric_title(metric).removeprefix("validation ") for metric in metrics}
    for place, (name, scale) in enumerate(scales.items()):
        x = across[name]
        parts.append(element("path", d=f"M{x:.1f} {top}V{floor}", class_="stem"))
        side = "end" if place == len(scales) - 1 else "start"
        step = 7 if side == "end" else -7
        words = truncate(labels[name], int((width - 84) / (len(scales) - 1) / 6.4))
        parts.append(text_element(x + step, 16 if place % 2 == 0 else 30, words, "label", side))
        for value, text in scale.ticks():
            parts.append(text_element(x + 5, floor - scale.position(value) * (floor - top) + 4, text, "over"))
        if any(name in names and name not in trial.params for trial in trials):
            parts.append(text_element(x + 5, floor + 20, "not set", "over"))
    return svg_document("parallel coordinates", width, floor + 28, parts)


def _scatter(axes: Axes, search: SearchResults, x_of: object, trials: Sequence[FrozenTrial] | None = None) -> None:
    """Every trial that has a value, the front on top."""
    assert callable(x_of)
    chosen = {trial.number for trial in search.front}
    for trial in sorted(search.with_curve if trials is None else trials, key=lambda trial: trial.number in chosen):
        value, x = search.value(trial), x_of(trial)
        if value is None or x is None:
            continue
        kind = "front" if trial.number in chosen else "infeasible" if not feasible(trial) else "student"
        kind = "pruned" if trial.state == TrialState.PRUNED else kind
        axes.dot(x, _clamped(axes, value), kind, _hover(search, trial), 4.5 if kind == "front" else 3.5)


def _hover(search: SearchResults, trial: FrozenTrial) -> str:
    value = search.value(trial)
    reason = f"; {trial.user_attrs['reason']}" if "reason" in trial.user_attrs else ""
    costs = [
        f", {metric_title(cost)} {of:,.4g}" for cost in search.costs if (of := search.read(trial, cost)) is not None
    ]
    scored = "" if value is None else f"{metric_title(search.metric)} {value:.4f}{''.join(costs)}; "
    return f"trial {trial.number}: {scored}{format_params(trial.params)}{reason}"


def _y_axis(search: SearchResults, more: Sequence[float] = ()) -> LinearScale:
    """The vertical axis: all values but those far from the rest (Tukey's outer fence, 3 interquartile ranges)."""
    values = [value for trial in search.with_curve if (value := search.value(trial)) is not None]
    if len(values) >= 4:
        low, _, high = quantiles(values, n=4)
        room = 3 * (high - low) or 0.02
        values = [value for value in values if low - room <= value <= high + room]
    found = scale_from_values([*values, *more])
    assert isinstance(found, LinearScale)
    return found


def _clamped(axes: Axes, value: float) -> float:
    assert isinstance(axes.y, LinearScale)
    return min(max(value, axes.y.low), axes.y.high)
