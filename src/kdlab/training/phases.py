"""Phases: the one mechanism for everything that changes with time.

A run is a sequence of phases. Each sets which heads take part, the weight of the supervised loss, what trains, and
with which optimizer and schedule; a new phase builds both anew. A paraphraser fitted before training, a first phase
that trains the body alone and a curriculum of losses are all phases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kdlab.config.schema import FirstPhase, HeadConfig, Phase
from kdlab.core.errors import UsageError, nearest

__all__ = ["Phase", "plan"]


def plan(epochs: int, heads: Mapping[str, HeadConfig], phases: Sequence[Phase] | None = None) -> tuple[Phase, ...]:
    """The phases of a run: those the user wrote, else the first phases that its losses propose and a main one.

    Args:
        epochs: of the main phase.
        heads: the settings of each head; `first` proposes a phase before the main one, for the head
            alone; unless it `stays`, the main phase is without it.
        phases: what the user wrote, instead.

    Raises:
        UsageError: where there is no phase, or one names a loss that was not chosen.
    """
    if phases is not None:
        if not phases:
            raise UsageError("phases=[]: expected one or more, [{epochs: 10}], or null")
        for place, phase in enumerate(phases):
            for name in phase.heads or ():
                if name not in heads:
                    raise UsageError(f"phases.{place}.heads={name}: not a chosen loss{nearest(name, heads)}")
        return tuple(phases)
    proposed = {name: head.first for name, head in heads.items() if head.first is not None}
    main = [name for name in heads if name not in proposed or proposed[name].stays]
    return (*(_alone(name, first) for name, first in proposed.items()), Phase(epochs=epochs, heads=tuple(main)))


def _alone(name: str, first: FirstPhase) -> Phase:
    """The phase that a loss proposes: the loss alone, without labels unless it sets `task_weight`."""
    task_weight = 0.0 if first.task_weight is None else first.task_weight
    own = {key: getattr(first, key) for key in Phase.model_fields}
    return Phase.model_construct(**{**own, "heads": (name,), "task_weight": task_weight})
