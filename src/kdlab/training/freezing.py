"""What trains in a phase, and by which optimizer: the requested parts of the networks, and the heads that take part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from torch import nn

from kdlab.training.phase_setup import PhaseSetup
from kdlab.training.phases import Phase


def freeze(setup: PhaseSetup, phase: Phase, can_train: Set[nn.Parameter]) -> None:
    """Sets `requires_grad` of every parameter that can train to whether it does in a phase.

    Args:
        setup: of the phase.
        phase: the one that begins.
        can_train: the parameters of the run that ever train.
    """
    mode, objective = setup.mode, setup.objective
    present = {*mode.parameters(), *objective.parameters()}
    for parameter in can_train:
        parameter.requires_grad_(parameter in present)
    for name, head in objective.heads.items():
        if phase.heads is None or name in phase.heads:
            _freeze_fitted(setup, name, phase.prepare)
        else:
            head.requires_grad_(False)
    if phase.train == "head":
        mode.requires_grad_(False)
    elif phase.train == "body":
        for learner in mode.observed:
            if learner.taps.classifier is not None:
                learner.network.get_submodule(learner.taps.classifier).requires_grad_(False)


def owned(
    setup: PhaseSetup, phase: Phase, trained: Sequence[nn.Parameter]
) -> Iterator[tuple[Mapping[str, Any] | None, list[nn.Parameter]]]:
    """The settings of each optimizer of a phase, and what it trains: the phase's own, then those of learners.

    Args:
        setup: of the phase.
        phase: settings of None are the run's.
        trained: all parameters that train in it.
    """
    owners = {
        parameter: learner.name
        for learner in setup.mode.observed
        if learner.name in setup.optimizers
        for parameter in learner.network.parameters()
    }
    for name, settings in ((None, phase.optimizer), *setup.optimizers.items()):
        share = [parameter for parameter in trained if owners.get(parameter) == name]
        if share:
            yield settings, share


def _freeze_fitted(setup: PhaseSetup, name: str, prepare: bool) -> None:
    # Prepared parts of a head train only in its preparing phase, its other parts only in the other phases.
    for placed in setup.objective.placed(name):
        fitted = {p for part in placed.head.prepared() for p in part.parameters()}
        for parameter in placed.head.parameters():
            if (parameter in fitted) != prepare:
                parameter.requires_grad_(False)
