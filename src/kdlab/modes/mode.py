"""What a mode is: who teaches whom. It owns the learners, declares its edges, and turns a batch into lessons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from kdlab.core.knowledge import Batch, Context, Example, Fields, Lesson, Progress
from kdlab.networks.teacher import Observed, Teacher


class Edge(NamedTuple):
    """One learner and one teacher that it listens to, by their places in the lessons.

    kinds: of the heads that compare across it.
    """

    learner: int
    teacher: int
    name: str
    kinds: tuple[str, ...] = ("response", "feature", "relation")


class Learners(Protocol):
    """Makes a network to be trained. `place` 0 is the student; others are peers, with seeds of their own.

    A peer is the network that the run names for its place, and one like the student where it names none.
    """

    def __call__(self, place: int = 0) -> Observed: ...


@dataclass(frozen=True)
class Cast:
    """Who is there before a mode gives out the parts.

    batch: an example, for parts that are made from shapes.
    peers: how many networks the run wants trained beside the student.
    """

    learners: Learners
    teachers: tuple[Teacher, ...]
    context: Context
    batch: Batch
    peers: int = 0


class Mode(nn.Module):
    """Who teaches whom.

    A subclass makes its learners in `__init__(self, cast, **options)`, says its `edges`, and writes
    `lessons`. What it remembers are buffers of its own, the same on every rank: each writes what all saw.

    Class attributes: `wants_teacher` says whether it listens to a network of the store, `wants_peers` whether
    it trains networks beside the student, `wants_heads` whether distillation losses mean anything in it,
    `wants_labels` whether it reads hard class labels, `views` which further views of a sample it can show.
    `kept`, which the run sets, names the student to be kept: one of `students`, or `best`, by validation, of
    those that are built like the first.
    """

    wants_teacher: ClassVar[bool] = True
    wants_peers: ClassVar[bool] = False
    wants_heads: ClassVar[bool] = True
    wants_labels: ClassVar[bool] = False
    views: ClassVar[tuple[str, ...]] = ()
    kept: str = "student"

    def __init__(self, *learners: Observed) -> None:
        super().__init__()
        self.observed = learners
        self.learners = nn.ModuleList([learner.network for learner in learners])

    @property
    def edges(self) -> tuple[Edge, ...]:
        """Every (learner, teacher) pair, known before training."""
        return ()

    @property
    def shows(self) -> tuple[str, ...]:
        """The further views of a sample, of `data.views`, that this mode itself shows to someone."""
        return ()

    @property
    def teachers(self) -> tuple[Teacher, ...]:
        """The frozen networks that this mode asks; none of them is part of the module tree."""
        return ()

    @property
    def sources(self) -> tuple[Observed, ...]:
        """Every network that answers: learners, teachers, and copies that the mode keeps of a learner."""
        return (*self.observed, *self.teachers)

    def learner(self, edge: Edge) -> Observed:
        """The network that an edge teaches."""
        return self.observed[edge.learner]

    def source(self, edge: Edge) -> Observed | None:
        """The network that answers for an edge's teacher; None where no network does, only logits."""
        return None

    def known(self, edge: Edge) -> Tensor | None:
        """The learner's classes that the teacher of an edge tells apart, in its order; None: all of them."""
        source = self.source(edge)
        return source.known if isinstance(source, Teacher) else None

    def offers(self, edge: Edge) -> tuple[Fields, Fields]:
        """What the learner and the teacher of an edge can be asked for."""
        source = self.source(edge)
        return self.learner(edge).offers, Fields() if source is None else source.offers

    def listen(self, asked: Mapping[Edge, tuple[Fields, Fields]]) -> None:
        """Hooks in every network what the heads on its edges ask, and no more."""
        for network in self.sources:
            ours = [ours for edge, (ours, _) in asked.items() if self.learner(edge) is network]
            theirs = [theirs for edge, (_, theirs) in asked.items() if self.source(edge) is network]
            network.listen(union((*ours, *theirs)))

    def close(self) -> None:
        """Takes every hook away."""
        for network in self.sources:
            network.close()

    def examples(self, edge: Edge, batch: Batch) -> tuple[Example, Example]:
        """A dry run of both sides of an edge, with what was asked of them in `listen`."""
        source = self.source(edge)
        ours = self.learner(edge).example(batch["input"])
        theirs = source.example(batch["input"]) if source is not None else Example(ours.knowledge.only(Fields()))
        return ours, theirs

    def lessons(self, batch: Batch, progress: Progress) -> list[Lesson]:
        """One lesson per learner, of one view of a batch."""
        raise NotImplementedError

    def forward(self, batch: Batch, progress: Progress) -> list[Lesson]:
        """One lesson per learner; with those of the batch's further views, where there are any."""
        lessons = self.lessons(batch, progress)
        views = {name: view for name, view in batch.get("views", {}).items() if name not in self.shows}
        if not views:
            return lessons
        whole = {"views": batch["views"]} if self.shows else {}
        others = {name: self.lessons({**view, **whole}, progress) for name, view in views.items()}
        return [
            replace(lesson, views={name: seen[place] for name, seen in others.items()})
            for place, lesson in enumerate(lessons)
        ]

    def taught(self, batch: Batch, progress: Progress) -> list[Lesson]:
        """The lessons for a loss that reads the teachers alone, as in a phase that prepares heads.

        Every learner is asked, unless a mode knows better: one that is not has neither rows nor target.
        """
        lessons: list[Lesson] = self(batch, progress)
        return lessons

    def reference(self, input: Tensor) -> Tensor | None:
        """What the teachers say together, as one set of logits [N, C]; None where no frozen network teaches."""
        said = [teacher(input).logits for teacher in self.teachers]
        if len(said) < 2:
            return said[0] if said else None
        return torch.stack([logits.log_softmax(1) for logits in said]).logsumexp(0)

    def students(self) -> dict[str, nn.Module]:
        """The networks that can be kept, by name: the learners, and what is made of them."""
        return {learner.name: learner.network for learner in self.observed}

    def validated(self) -> dict[str, nn.Module]:
        """The `students`, the one to be kept first where it was named."""
        students = self.students()
        return students if self.kept == "best" else {self.kept: students[self.kept], **students}

    def describe(self, student: str, networks: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        """The plain config that rebuilds one of the `students`, from those of the learners."""
        return networks[student]

    def move(self, device: torch.device, dtype: torch.dtype | None = None) -> None:
        """Moves and casts what lies outside the module tree."""
        for teacher in self.teachers:
            teacher.to(device, dtype)

    def begin_epoch(self, progress: Progress) -> None:
        """Called before the first batch of every epoch."""

    def after_step(self, progress: Progress) -> None:
        """Called after every optimizer step."""


def union(fields: Iterable[Fields]) -> Fields:
    """All that any of them asks for."""
    total = Fields()
    for entry in fields:
        total |= entry
    return total
