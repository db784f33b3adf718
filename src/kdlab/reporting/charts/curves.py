"""Learning curves: the validation metric after each epoch, and the terms of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from kdlab.reporting.charts.scale import LinearScale, scale_from_values
from kdlab.reporting.charts.svg import Axes
from kdlab.reporting.runs import Curve, Group, Run, loss_curves, read_curve

SETTLED_AFTER = 1 / 3
"""The share of the schedule that the vertical axis may leave out: an untrained network guesses."""

CLIPPED = "The axis starts where the curves are after a third of their epochs."


@dataclass(frozen=True)
class Line:
    """A curve and its CSS class. hover: its name in the hover text; label: written at its right end."""

    points: Curve
    class_: str
    hover: str = ""
    label: str = ""


def run_validation(run: Run) -> str:
    """Student distilled and alone by epoch; those without a curve here, and the teacher, as horizontal lines."""
    metric = f"validation/{run.primary}"
    lines = [Line(read_curve(run.folder / "metrics.csv", metric), "student", "distilled", "distilled")]
    if alone := read_curve(run.folder / "alone" / "metrics.csv", metric):
        lines.append(Line(alone, "alone", "alone", "alone"))
    levels = {} if alone else {"alone": run.validation("alone")}
    levels["teacher"] = run.validation("teacher")
    title = run.result["titles"][run.primary]
    return learning_curves(lines, levels, title, f"validation {title} by epoch", run.result["directions"][run.primary])


def group_validation(group: Group, title: str, direction: str, y_range: tuple[float, float] | None = None) -> str:
    """Every seed of a setting by epoch, distilled and alone, and the teacher."""
    lines = []
    metric = f"validation/{group.runs[0].primary}"
    for run in group.runs:
        for name, file in (("alone", run.folder / "alone" / "metrics.csv"), ("student", run.folder / "metrics.csv")):
            words = "distilled" if name == "student" and group.distills else "alone"
            label = words if run is group.runs[-1] else ""
            lines.append(Line(read_curve(file, metric), f"{name} thin", f"{words}, seed {run.seed}", label))
    levels = {"teacher": group.runs[0].validation("teacher")}
    alone = [value for run in group.runs if (value := run.validation("alone")) is not None]
    if alone and not any(line.points for line in lines if line.class_.startswith("alone")):
        levels["alone"] = fmean(alone)
    return learning_curves(lines, levels, title, f"validation {title} by epoch, {group.label}", direction, y_range)


def loss_terms(run: Run) -> str:
    """Every term of the loss by epoch, on a logarithmic axis."""
    found = {name: of for name, of in loss_curves(run.folder / "metrics.csv").items() if of}
    if not found:
        return ""
    values = [value for of in found.values() for _, value in of]
    last = max(of[-1][0] for of in found.values())
    axes = Axes(LinearScale(0, last), scale_from_values(values, log=True), "epoch", "loss", right=86)
    for name, of in found.items():
        axes.line(of, "student" if name == "total" else "term", name)
    axes.end_labels([(of[-1][1], name, "student" if name == "total" else "") for name, of in found.items()])
    return axes.draw("terms of the loss by epoch")


def learning_curves(
    lines: Sequence[Line], levels: dict[str, float | None], y_title: str, title: str, direction: str,
    y_range: tuple[float, float] | None = None,
) -> str:  # fmt: skip
    """Curves by epoch, and horizontal lines by name.

    Args:
        y_range: the vertical axis, where several charts share one.
    """
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    known = {name: value for name, value in levels.items() if value is not None}
    low, high = y_range or axis_range([line.points for line in lines], list(known.values()), direction)
    last = max(line.points[-1][0] for line in lines)
    axes = Axes(LinearScale(0, last), LinearScale(low, high), "epoch", f"validation {y_title}", right=64)
    for name, value in known.items():
        axes.line([(0, value), (last, value)], f"{name} level", f"{name} {value:.4f}")
    for line in lines:
        axes.line(line.points, line.class_, f"{line.hover}: {line.points[-1][1]:.4f} at the end")
    named = {line.label: (line.points[-1][1], line.label, line.class_.split()[0]) for line in lines if line.label}
    axes.end_labels([*named.values(), *((value, name, name) for name, value in known.items())])
    return axes.draw(title)


def axis_range(curves: Sequence[Curve], levels: Sequence[float], direction: str) -> tuple[float, float]:
    """The range of a vertical axis for curves, possibly without their first third."""
    kept = [value for of in curves for epoch, value in of if epoch >= SETTLED_AFTER * of[-1][0]]
    low, high = min([*kept, *levels]), max([*kept, *levels])
    room = 0.05 * (high - low) or 0.01
    return (low - (0 if direction == "max" else room), high + (room if direction == "max" else 0))
