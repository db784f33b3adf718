"""A mode: who teaches whom. It owns the learners, declares its edges, and turns a batch into lessons."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from kdlab.core.knowledge import Batch, Context, Example, Fields, Lesson, Progress
from kdlab.networks.teacher import Observed, Teacher


class Edge(NamedTuple):
    """One learner and one of its teachers, by their places in the lessons.

    kinds: of the heads that compare across it.
    """

    learner: int
    teacher: int
    name: str
    kinds: tuple[str, ...] = ("response", "feature", "relation")


class Learners(Protocol):
    """Builds a network to be trained. `place` 0 is the student; others are peers, with their own seeds.

    A peer is the network that the run names for its place, else one like the student.
    """

    def __call__(self, place: int = 0) -> Observed: ...


@dataclass(frozen=True)
class Cast:
    """What a mode is built from.

    batch: an example, for parts that are built from shapes.
    peers: how many networks the run trains with the student.
    """

    learners: Learners
    teachers: tuple[Teacher, ...]
    context: Context
    batch: Batch
    peers: int = 0


class Mode(nn.Module):
    """Who teaches whom.

    A subclass makes its learners in `__init__(self, cast, **options)`, declares its `edges`, and writes
    `lessons`. Its memories are registered buffers, equal on every rank: each rank writes the samples of all.

    Class attributes: `wants_teacher`: it uses a network of the store; `wants_peers`: it trains networks with
    the student; `wants_heads`: it uses distillation losses; `wants_labels`: it reads hard class labels;
    `needs_heads`: without any it is refused, as then nothing would distil;
    `wants_row_per_sample`: it keeps or mixes one prediction for each sample;
    `wants_text`: it continues texts, for language models;
    `views`: the further views of a sample that it provides.
    `kept`, which the run sets, names the student to be kept: one of `students`, or `best`, by validation, of
    those built like the first.
    """

    wants_teacher: ClassVar[bool] = True
    wants_peers: ClassVar[bool] = False
    wants_heads: ClassVar[bool] = True
    needs_heads: ClassVar[bool] = True
    wants_labels: ClassVar[bool] = False
    wants_row_per_sample: ClassVar[bool] = False
    wants_text: ClassVar[bool] = False
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
        """The further views of a sample, of `data.views`, that this mode itself reads."""
        return ()

    @property
    def teachers(self) -> tuple[Teacher, ...]:
        """The frozen networks that this mode runs; none is part of the module tree."""
        return ()

    @property
    def sources(self) -> tuple[Observed, ...]:
        """Every network that runs: learners, teachers, and copies that the mode keeps of a learner."""
        return (*self.observed, *self.teachers)

    def learner(self, edge: Edge) -> Observed:
        """The network that an edge teaches."""
        return self.observed[edge.learner]

    def source(self, edge: Edge) -> Observed | None:
        """The network of an edge's teacher; None where there are only logits."""
        return None

    def known(self, edge: Edge) -> Tensor | None:
        """The learner's classes that the teacher of an edge knows, in its order; None: all of them."""
        source = self.source(edge)
        return source.known if isinstance(source, Teacher) else None

    def offers(self, edge: Edge) -> tuple[Fields, Fields]:
        """What the learner and the teacher of an edge can provide."""
        source = self.source(edge)
        return self.learner(edge).offers, Fields() if source is None else source.offers

    def listen(self, asked: Mapping[Edge, tuple[Fields, Fields]]) -> None:
        """Hooks in every network only what the heads on its edges request."""
        for network in self.sources:
            ours = [ours for edge, (ours, _) in asked.items() if self.learner(edge) is network]
            theirs = [theirs for edge, (_, theirs) in asked.items() if self.source(edge) is network]
            network.listen(union((*ours, *theirs)))

    def close(self) -> None:
        """Removes every hook."""
        for network in self.sources:
            network.close()

    def examples(self, edge: Edge, batch: Batch) -> tuple[Example, Example]:
        """A dry run of both sides of an edge, with the fields hooked by `listen`."""
        source = self.source(edge)
        ours = self.learner(edge).example(batch)
        theirs = source.example(batch) if source is not None else Example(ours.knowledge.only(Fields()))
        return ours, theirs

    def begin(self, training: Callable[[], Iterable[Batch]]) -> None:
        """Called on every rank before the first batch, with all networks on their devices.

        Args:
            training: walks the whole training part in its order, not augmented.
        """

    def drawn(self, batch: Batch, progress: Progress) -> Batch:
        """This rank's samples of a step, counted and split as they are returned: the loader's, or the mode's own.

        They must be the same for a resumed run: drawn by their place (`kdlab.data.counter_rng`) or by torch's random
        state. Where rows have no label, their target is -1.
        """
        return batch

    def lessons(self, batch: Batch, progress: Progress) -> list[Lesson]:
        """One lesson per learner, for one view of a batch."""
        raise NotImplementedError

    def forward(self, batch: Batch, progress: Progress) -> list[Lesson]:
        """One lesson per learner, with those of the batch's further views."""
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
        """The lessons for a loss that reads only the teachers, as in a phase that prepares heads.

        By default every learner runs; a mode may skip it, then its lesson has neither rows nor target.
        """
        lessons: list[Lesson] = self(batch, progress)
        return lessons

    def reference(self, batch: Batch) -> Tensor | None:
        """The teachers' combined prediction, logits [N, C]; None where no frozen network teaches."""
        each = [teacher(batch).logits for teacher in self.teachers]
        if len(each) < 2:
            return each[0] if each else None
        return torch.stack([logits.log_softmax(1) for logits in each]).logsumexp(0)

    def students(self) -> dict[str, nn.Module]:
        """The networks that can be kept, by name: the learners, and networks derived from them."""
        return {learner.name: learner.network for learner in self.observed}

    def validated(self) -> dict[str, nn.Module]:
        """The `students`; the named one to be kept comes first."""
        students = self.students()
        return students if self.kept == "best" else {self.kept: students[self.kept], **students}

    def describe(self, student: str, networks: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        """The plain config that rebuilds one of the `students`, from those of the learners."""
        return networks[student]

    def move(self, device: torch.device, dtype: torch.dtype | None = None) -> None:
        """Moves and casts what is outside the module tree."""
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
