"""What trains in a phase, and by which optimizer: of the networks what it asks for, of the heads those that speak."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

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


def owned(
    course: Course, phase: Phase, trained: Sequence[nn.Parameter]
) -> Iterator[tuple[Mapping[str, Any] | None, list[nn.Parameter]]]:
    """The settings of each optimizer of a phase, and what it trains: the phase's own, then those of learners.

    Args:
        course: that of the phase.
        phase: None in place of its settings stands for the run's.
        trained: all parameters that train in it.
    """
    owners = {
        parameter: learner.name
        for learner in course.mode.observed
        if learner.name in course.optimizers
        for parameter in learner.network.parameters()
    }
    for name, settings in ((None, phase.optimizer), *course.optimizers.items()):
        share = [parameter for parameter in trained if owners.get(parameter) == name]
        if share:
            yield settings, share


def _freeze_fitted(course: Course, name: str, prepare: bool) -> None:
    # What is fitted before training trains then and only then; the rest of its head, the other way round.
    for placed in course.objective.placed(name):
        fitted = {p for part in placed.head.prepared() for p in part.parameters()}
        for parameter in placed.head.parameters():
            if (parameter in fitted) != prepare:
                parameter.requires_grad_(False)
