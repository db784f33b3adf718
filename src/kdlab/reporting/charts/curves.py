"""Learning curves: what was validated after each epoch, and the terms of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from kdlab.reporting.charts.scale import Linear, scale_of
from kdlab.reporting.charts.svg import Frame
from kdlab.reporting.runs import Curve, Group, Run, curve, terms

SHOWN = 1 / 3
"""The part of a schedule that the vertical axis need not hold: networks start by guessing, and soon no longer do."""

CUT = "The axis starts where the curves are after a third of their epochs."


@dataclass(frozen=True)
class Line:
    """A curve, its class and what it is called; `label` names it beside its end."""

    points: Curve
    class_: str
    tip: str = ""
    label: str = ""


def validation_of_run(run: Run) -> str:
    """Student distilled and alone by epoch; those whose curve lies elsewhere, and the teacher, as level lines."""
    metric = f"validation/{run.primary}"
    lines = [Line(curve(run.folder / "metrics.csv", metric), "student", "distilled", "distilled")]
    if alone := curve(run.folder / "alone" / "metrics.csv", metric):
        lines.append(Line(alone, "alone", "alone", "alone"))
    levels = {} if alone else {"alone": run.validation("alone")}
    levels["teacher"] = run.validation("teacher")
    title = run.result["titles"][run.primary]
    return learning(lines, levels, title, f"validation {title} by epoch", run.result["directions"][run.primary])


def validation_of_group(group: Group, title: str, direction: str, within: tuple[float, float] | None = None) -> str:
    """Every seed of a setting by epoch, distilled and alone, and the teacher."""
    lines = []
    metric = f"validation/{group.runs[0].primary}"
    for run in group.runs:
        for name, file in (("alone", run.folder / "alone" / "metrics.csv"), ("student", run.folder / "metrics.csv")):
            words = "distilled" if name == "student" and group.taught else "alone"
            label = words if run is group.runs[-1] else ""
            lines.append(Line(curve(file, metric), f"{name} thin", f"{words}, seed {run.seed}", label))
    levels = {"teacher": group.runs[0].validation("teacher")}
    alone = [value for run in group.runs if (value := run.validation("alone")) is not None]
    if alone and not any(line.points for line in lines if line.class_.startswith("alone")):
        levels["alone"] = fmean(alone)
    return learning(lines, levels, title, f"validation {title} by epoch, {group.label}", direction, within)


def losses(run: Run) -> str:
    """Every term of the loss by epoch, on a logarithmic axis."""
    found = {name: of for name, of in terms(run.folder / "metrics.csv").items() if of}
    if not found:
        return ""
    values = [value for of in found.values() for _, value in of]
    last = max(of[-1][0] for of in found.values())
    frame = Frame(Linear(0, last), scale_of(values, log=True), "epoch", "loss", right=86)
    for name, of in found.items():
        frame.line(of, "student" if name == "total" else "term", name)
    frame.ends([(of[-1][1], name, "student" if name == "total" else "") for name, of in found.items()])
    return frame.draw("terms of the loss by epoch")


def learning(
    lines: Sequence[Line], levels: dict[str, float | None], y_title: str, title: str, direction: str,
    within: tuple[float, float] | None = None,
) -> str:  # fmt: skip
    """Curves by epoch, and level lines by name.

    Args:
        within: the vertical axis, where several charts share one.
    """
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    known = {name: value for name, value in levels.items() if value is not None}
    low, high = within or bounds([line.points for line in lines], list(known.values()), direction)
    last = max(line.points[-1][0] for line in lines)
    frame = Frame(Linear(0, last), Linear(low, high), "epoch", f"validation {y_title}", right=64)
    for name, value in known.items():
        frame.line([(0, value), (last, value)], f"{name} level", f"{name} {value:.4f}")
    for line in lines:
        frame.line(line.points, line.class_, f"{line.tip}: {line.points[-1][1]:.4f} at the end")
    named = {line.label: (line.points[-1][1], line.label, line.class_.split()[0]) for line in lines if line.label}
    frame.ends([*named.values(), *((value, name, name) for name, value in known.items())])
    return frame.draw(title)


def bounds(curves: Sequence[Curve], levels: Sequence[float], direction: str) -> tuple[float, float]:
    """A vertical axis for curves, from where they are after a third of their epochs."""
    kept = [value for of in curves for epoch, value in of if epoch >= SHOWN * of[-1][0]]
    low, high = min([*kept, *levels]), max([*kept, *levels])
    room = 0.05 * (high - low) or 0.01
    return (low - (0 if direction == "max" else room), high + (room if direction == "max" else 0))
