"""What trains in a phase: of the networks what it asks for, of the heads those that speak in it."""

from __future__ import annotations

from collections.abc import Set

from torch import nn

from kdlab.courses import Course
from kdlab.phases import Phase


def freeze(course: Course, phase: Phase, can_train: Set[nn.Parameter]) -> None:
    """Sets `requires_grad` of every parameter that can train to whether it does in a phase.

    Args:
        course: that of the phase.
        phase: the one that begins.
        can_train: the parameters of the run that ever do.
    """
    mode, objective = course.mode, course.objective
    present = {*mode.parameters(), *objective.parameters()}
    for parameter in can_train:
        parameter.requires_grad_(parameter in present)
    for name, head in objective.heads.items():
        if phase.heads is None or name in phase.heads:
            _freeze_fitted(course, name, phase.prepare)
        else:
            head.requires_grad_(False)
    if phase.train == "head":
        mode.requires_grad_(False)
    elif phase.train == "body":
        for learner in mode.observed:
            if learner.taps.classifier is not None:
                learner.network.get_submodule(learner.taps.classifier).requires_grad_(False)


def _freeze_fitted(course: Course, name: str, prepare: bool) -> None:
    # What is fitted before training trains then and only then; the rest of its head, the other way round.
    for placed in course.objective.placed(name):
        fitted = {p for part in placed.head.prepared() for p in part.parameters()}
        for parameter in placed.head.parameters():
            if (parameter in fitted) != prepare:
                parameter.requires_grad_(False)
