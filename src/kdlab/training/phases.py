"""Phases: the one mechanism for everything that changes with time.

A run is a row of phases. Each says which heads speak, how much the supervised loss counts, what trains,
and with which optimizer and schedule; a new phase makes both anew. A paraphraser that is fitted before
training, a first phase that trains the body alone and a curriculum of losses are all phases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from kdlab.core.errors import UsageError, nearest

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Phase:
    """A stretch of training.

    heads: those that speak; None: all. prepare: they are fitted to the teacher alone (`Head.prepare`).
    task_weight: of the supervised loss; None: the run's. train: all that can, the learners' bodies (all
    but the classifier) with the heads, or the heads alone. optimizer, scheduler, mode: None: the run's; an
    optimizer without `_target_` is the run's with those settings changed, {lr: 0.01}.
    """

    epochs: int
    heads: tuple[str, ...] | None = None
    task_weight: float | None = None
    train: Literal["all", "body", "head"] = "all"
    prepare: bool = False
    optimizer: Config | None = None
    scheduler: Config | None = None
    mode: Config | None = None


_KINDS: Mapping[str, tuple[Any, str]] = {
    "epochs": (int, "a whole number, 0 or more"),
    "heads": (list | tuple | None, "a list of chosen losses, such as [kd]"),
    "task_weight": (int | float | None, "a number, 0 or more"),
    "train": (str, "all or head or body"),
    "prepare": (bool, "true or false"),
}
"""What the value of a key of a phase must be. Its range stands in `values.py`."""


def plan(epochs: int, heads: Mapping[str, Config], phases: Sequence[Config] | None = None) -> tuple[Phase, ...]:
    """The phases of a run: those the user wrote, else the first phases that its losses propose and a main one.

    Args:
        epochs: of the main phase.
        heads: the settings of each head; `first` proposes a phase before the main one, in which the head
            is alone; unless it `stays`, the main phase goes on without it.
        phases: what the user wrote, in place of all that.

    Raises:
        UsageError: where a phase names an unknown key or head.
    """
    if phases is not None:
        if not phases:
            raise UsageError("phases=[]: expected one or more, [{epochs: 10}], or null")
        return tuple(_written(place, phase, heads) for place, phase in enumerate(phases))
    first, gone = [], set()
    for name, head in heads.items():
        if not (proposal := head.get("first")):
            continue
        own = {key: value for key, value in proposal.items() if key != "stays"}
        first.append(_written(0, {"task_weight": 0.0, **own, "heads": [name]}, heads, key=f"loss.heads.{name}.first"))
        if not proposal.get("stays", True):
            gone.add(name)
    return (*first, Phase(epochs, tuple(name for name in heads if name not in gone)))


def at(phases: Sequence[Phase], epoch: int) -> tuple[int, int]:
    """(place of the phase that an epoch belongs to, epoch at which it starts); the last one after the end."""
    start = 0
    for place, phase in enumerate(phases):
        if epoch < start + phase.epochs or place == len(phases) - 1:
            return place, start
        start += phase.epochs
    raise AssertionError("a run has at least one phase")


def _written(place: int, phase: Config, heads: Mapping[str, Config], key: str | None = None) -> Phase:
    key = key or f"phases.{place}"
    known = [field.name for field in fields(Phase)]
    for name, value in phase.items():
        if name not in known:
            raise UsageError(f"{key}.{name}: a phase has no such key{nearest(name, known)}")
        kind, expected = _KINDS.get(name, (object, ""))
        if not isinstance(value, kind):
            raise UsageError(f"{key}.{name}={'null' if value is None else value}: expected {expected}")
    if "epochs" not in phase:
        raise UsageError(f"{key}: say how long it lasts, epochs=N")
    for name in phase.get("heads") or ():
        if name not in [*heads]:
            raise UsageError(f"{key}.heads={name}: not a chosen loss{nearest(str(name), heads)}")
    given = dict(phase)
    if given.get("heads") is not None:
        given["heads"] = tuple(given["heads"])
    return Phase(**given)
