"""What a mode is: who teaches whom. It owns the learners, declares its edges, and turns a batch into lessons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import nn

from kdlab.knowledge import Batch, Context, Example, Fields, Lesson, Progress
from kdlab.teacher import Observed, Teacher


class Edge(NamedTuple):
    """One learner and one teacher that it listens to, by their places in the lessons."""

    learner: int
    teacher: int
    name: str


class Learners(Protocol):
    """Makes a network to be trained. `place` 0 is the student; others are peers, with seeds of their own."""

    def __call__(self, place: int = 0) -> Observed: ...


@dataclass(frozen=True)
class Cast:
    """Who is there before a mode gives out the parts."""

    learners: Learners
    teachers: tuple[Teacher, ...]
    context: Context


class Mode(nn.Module):
    """Who teaches whom.

    A subclass makes its learners in `__init__(self, cast, **options)`, says its `edges`, and writes
    `lessons`. State of its own (averages, memories) are buffers of fixed shape.

    Class attributes: `wants_teacher` says whether it listens to a network of the store, `wants_heads`
    whether distillation losses mean anything in it, `views` which further views of a sample it can show.
    """

    wants_teacher: ClassVar[bool] = True
    wants_heads: ClassVar[bool] = True
    views: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *learners: Observed) -> None:
        super().__init__()
        self.observed = learners
        self.learners = nn.ModuleList([learner.network for learner in learners])

    @property
    def edges(self) -> tuple[Edge, ...]:
        """Every (learner, teacher) pair, known before training."""
        return ()

    @property
    def teachers(self) -> tuple[Teacher, ...]:
        """The frozen networks that this mode asks; none of them is part of the module tree."""
        return ()

    def source(self, edge: Edge) -> Observed | None:
        """The network that answers for an edge's teacher; None where no network does, only logits."""
        return None

    def offers(self, edge: Edge) -> tuple[Fields, Fields]:
        """What the learner and the teacher of an edge can be asked for."""
        source = self.source(edge)
        return self.observed[edge.learner].offers, Fields() if source is None else source.offers

    def listen(self, asked: Mapping[Edge, tuple[Fields, Fields]]) -> None:
        """Hooks in every network what the heads on its edges ask, and no more."""
        for place, learner in enumerate(self.observed):
            learner.listen(_union([ours for edge, (ours, _) in asked.items() if edge.learner == place]))
        for teacher in self.teachers:
            teacher.listen(_union([theirs for edge, (_, theirs) in asked.items() if self.source(edge) is teacher]))

    def close(self) -> None:
        """Takes every hook away."""
        for network in (*self.observed, *self.teachers):
            network.close()

    def examples(self, edge: Edge, batch: Batch) -> tuple[Example, Example]:
        """A dry run of both sides of an edge, with what was asked of them in `listen`."""
        source = self.source(edge)
        ours = self.observed[edge.learner].example(batch["input"])
        theirs = source.example(batch["input"]) if source is not None else Example(ours.knowledge.only(Fields()))
        return ours, theirs

    def lessons(self, batch: Batch, progress: Progress) -> list[Lesson]:
        """One lesson per learner, of one view of a batch."""
        raise NotImplementedError

    def forward(self, batch: Batch, progress: Progress) -> list[Lesson]:
        """One lesson per learner; with those of the batch's further views, where there are any."""
        lessons = self.lessons(batch, progress)
        if not batch.get("views"):
            return lessons
        others = {name: self.lessons(view, progress) for name, view in batch["views"].items()}
        return [
            replace(lesson, views={name: seen[place] for name, seen in others.items()})
            for place, lesson in enumerate(lessons)
        ]

    def students(self) -> dict[str, nn.Module]:
        """The networks that are validated; the first is the one that is kept."""
        return {self.observed[0].name: self.observed[0].network}

    def move(self, device: torch.device, dtype: torch.dtype | None = None) -> None:
        """Moves and casts what lies outside the module tree."""
        for teacher in self.teachers:
            teacher.to(device, dtype)

    def begin_epoch(self, progress: Progress) -> None:
        """Called before the first batch of every epoch."""

    def after_step(self, progress: Progress) -> None:
        """Called after every optimizer step."""


def _union(fields: list[Fields]) -> Fields:
    total = Fields()
    for entry in fields:
        total |= entry
    return total
