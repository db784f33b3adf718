"""Charts of a search: history, Pareto front, importances, slices, parallel coordinates, learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import quantiles

from optuna.trial import FrozenTrial, TrialState

from kdlab.reporting.charts.curves import bounds
from kdlab.reporting.charts.labels import short, titled, told
from kdlab.reporting.charts.scale import Linear, Rows, scale_for, scale_of, shorten
from kdlab.reporting.charts.svg import WIDTH, Frame, drawing, element, tip, write
from kdlab.reporting.html.page import legend
from kdlab.study.pruner import feasible
from kdlab.study.results import SearchResults
from kdlab.study.spec import curve_of

SHADES = 5
"""Classes of colour from worse to better, `q0` to `q4`."""

DECADE = 8
"""From so many times the least on, an axis of costs is logarithmic."""

CUT = "Trials far worse than the rest stand at the edge of a chart; their values show where the pointer rests."

KEY = legend(
    ("student", "complete"), ("pruned", "pruned"), ("infeasible", "breaks a constraint"), ("front", "not beaten")
)


@dataclass(frozen=True)
class Landmark:
    """A network that is no trial, on the axes of the trials: the teacher, the student alone. class_: its colour."""

    name: str
    class_: str
    cost: dict[str, float]
    value: float


def history(search: SearchResults) -> str:
    """Trials in their order, and the best so far."""
    trials = search.seen
    if not trials:
        return ""
    frame = Frame(Linear(-1, trials[-1].number + 1), _values(search), "trial", titled(search.metric))
    better = max if search.direction == "max" else min
    fit = [trial for trial in search.complete if feasible(trial)]
    best = accumulate([search.value(trial) or 0.0 for trial in fit], better)
    points = [(trial.number, value) for trial, value in zip(fit, best, strict=True)]
    if points:
        frame.line([*points, (trials[-1].number, points[-1][1])], "front", steps=True)
    _dots(frame, search, lambda trial: trial.number)
    return frame.draw("history")


def front(search: SearchResults, cost: str, landmarks: Sequence[Landmark] = ()) -> str:
    """Value against a cost: trials, the front, the published setting, the teacher and the student alone."""
    trials = [trial for trial in search.seen if search.read(trial, cost) is not None]
    known = [mark for mark in landmarks if cost in mark.cost]
    costs = [*(search.read(trial, cost) or 0.0 for trial in trials), *(mark.cost[cost] for mark in known)]
    if len(set(costs)) < 2:
        return ""
    x = scale_of(costs, log=min(costs) > 0 and max(costs) > DECADE * min(costs))
    frame = Frame(x, _values(search, [mark.value for mark in known]), titled(cost), titled(search.metric))
    points = [(search.read(trial, cost), search.value(trial)) for trial in search.front]
    frame.line(points, "front", "Pareto front", steps=True)
    _dots(frame, search, lambda trial: search.read(trial, cost))
    for mark in known:
        frame.dot(
            mark.cost[cost], mark.value, mark.class_, f"{mark.name}: {mark.value:.4f}, {mark.cost[cost]:,.0f}", 5.5
        )
        frame.label(mark.cost[cost], mark.value, mark.name, mark.class_)
    if trials and trials[0].number == 0 and search.value(trials[0]) is not None:
        place = (search.read(trials[0], cost), _clamped(frame, search.value(trials[0]) or 0.0))
        frame.dot(*place, "ring", "the published setting", 7)
        frame.label(*place, "published")
    return frame.draw(f"{titled(search.metric)} against {titled(cost)}")


def slices(search: SearchResults) -> list[tuple[str, str]]:
    """(name, value against it) of every parameter."""
    found = []
    for name, distribution in search.space.items():
        trials = [trial for trial in search.seen if name in trial.params]
        if not trials:
            continue
        frame = Frame(scale_for(distribution), _values(search), "", titled(search.metric), height=230)
        _dots(frame, search, lambda trial, name=name: trial.params[name], trials)
        found.append((name, frame.draw(f"{titled(search.metric)} against {name}")))
    return found


def importances(search: SearchResults) -> str:
    """A bar for each parameter."""
    found = search.importances()
    if not found:
        return ""
    frame = Frame(Linear(0, 1), Rows(2 * len(found)), "share", left=14, top=4, right=46, height=40 + 42 * len(found))
    names = short(list(found))
    for place, (name, share) in enumerate(sorted(found.items(), key=lambda pair: -pair[1])):
        (left, up), (right, _) = frame.at(0, 2 * place + 0.9), frame.at(share, 2 * place + 0.9)
        frame.over.append(
            element(
                "rect", tip(f"{share:.3f}"), x=left, y=up - 7, width=max(1.0, right - left), height=14, class_="bar"
            )
        )
        frame.over.append(write(left, frame.up(2 * place) + 5, names[name], "label"))
        frame.over.append(write(right + 6, up + 4, f"{share:.0%}"))
    return frame.draw("importances of the parameters")


def learning(search: SearchResults) -> str:
    """The curve of every trial; those of the front in colour."""
    found = {trial.number: list(curve_of(trial).items()) for trial in search.seen}
    found = {place: points for place, points in found.items() if points}
    if not found:
        return ""
    low, high = bounds(list(found.values()), [], search.direction)
    last = max(points[-1][0] for points in found.values())
    frame = Frame(Linear(0, last), Linear(low, high), "epoch", titled(search.metric), right=20)
    chosen = {trial.number for trial in search.front}
    order = sorted(search.seen, key=lambda trial: (trial.number in chosen, trial.number))
    for trial in order:
        points = found.get(trial.number, [])
        pruned = trial.state == TrialState.PRUNED
        kind = "front" if trial.number in chosen else "pruned thin" if pruned else "student faint"
        frame.line(points, kind, _tip(search, trial))
        if pruned and points and points[-1][1] >= low:
            frame.dot(*points[-1], "pruned", _tip(search, trial), 2.5)
    return frame.draw("learning curves")


def parallel(search: SearchResults) -> str:
    """A line for each complete trial through its parameters and what they came to; better ones in stronger colour."""
    trials = sorted((t for t in search.complete if feasible(t)), key=lambda t: search.value(t) or 0.0)
    if search.direction == "min":
        trials = trials[::-1]
    if len(trials) < 2:
        return ""
    names = list(search.space)
    metrics = [*(metric for metric in search.objectives if metric != search.metric), search.metric]
    scales = {name: scale_for(of) for name, of in search.space.items()}
    for metric in metrics:
        values = [search.read(trial, metric) or 0.0 for trial in trials]
        scales[metric] = scale_of(values, log=min(values) > 0 and max(values) > DECADE * min(values))
    width, top, floor = max(WIDTH, 120.0 * len(scales)), 40.0, 250.0
    across = {name: 36 + place * (width - 84) / (len(scales) - 1) for place, name in enumerate(scales)}
    parts = []
    for rank, trial in enumerate(trials):
        said = {**trial.params, **{metric: search.read(trial, metric) for metric in metrics}}
        places = [
            (across[name], floor + 16 if name not in said else floor - scale.place(said[name]) * (floor - top))
            for name, scale in scales.items()
        ]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(element("path", tip(_tip(search, trial)), d=path, class_=f"q{rank * SHADES // len(trials)}"))
    shown = short(names) | {metric: titled(metric).removeprefix("validation ") for metric in metrics}
    for place, (name, scale) in enumerate(scales.items()):
        x = across[name]
        parts.append(element("path", d=f"M{x:.1f} {top}V{floor}", class_="stem"))
        side = "end" if place == len(scales) - 1 else "start"
        step = 7 if side == "end" else -7
        words = shorten(shown[name], int((width - 84) / (len(scales) - 1) / 6.4))
        parts.append(write(x + step, 16 if place % 2 == 0 else 30, words, "label", side))
        for value, text in scale.ticks():
            parts.append(write(x + 5, floor - scale.place(value) * (floor - top) + 4, text, "over"))
        if any(name in names and name not in trial.params for trial in trials):
            parts.append(write(x + 5, floor + 20, "not set", "over"))
    return drawing("parallel coordinates", width, floor + 28, parts)


def _dots(frame: Frame, search: SearchResults, across: object, trials: Sequence[FrozenTrial] | None = None) -> None:
    """Every trial that got somewhere, the front on top."""
    assert callable(across)
    chosen = {trial.number for trial in search.front}
    for trial in sorted(search.seen if trials is None else trials, key=lambda trial: trial.number in chosen):
        value, x = search.value(trial), across(trial)
        if value is None or x is None:
            continue
        kind = "front" if trial.number in chosen else "infeasible" if not feasible(trial) else "student"
        kind = "pruned" if trial.state == TrialState.PRUNED else kind
        frame.dot(x, _clamped(frame, value), kind, _tip(search, trial), 4.5 if kind == "front" else 3.5)


def _tip(search: SearchResults, trial: FrozenTrial) -> str:
    value = search.value(trial)
    reason = f"; {trial.user_attrs['reason']}" if "reason" in trial.user_attrs else ""
    costs = [f", {titled(cost)} {of:,.4g}" for cost in search.costs if (of := search.read(trial, cost)) is not None]
    scored = "" if value is None else f"{titled(search.metric)} {value:.4f}{''.join(costs)}; "
    return f"trial {trial.number}: {scored}{told(trial.params)}{reason}"


def _values(search: SearchResults, more: Sequence[float] = ()) -> Linear:
    """The vertical axis: all values but those far from the rest (Tukey's outer fence, 3 interquartile ranges)."""
    values = [value for trial in search.seen if (value := search.value(trial)) is not None]
    if len(values) >= 4:
        low, _, high = quantiles(values, n=4)
        room = 3 * (high - low) or 0.02
        values = [value for value in values if low - room <= value <= high + room]
    found = scale_of([*values, *more])
    assert isinstance(found, Linear)
    return found


def _clamped(frame: Frame, value: float) -> float:
    assert isinstance(frame.y, Linear)
    return min(max(value, frame.y.low), frame.y.high)
