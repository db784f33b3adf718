"""The loss of a step, from lessons: what every learner hears from its targets and from its teachers.

    loss = Σ learners ( task_weight · task + Σ heads weight · mean over its teachers of head )

The sum over learners is that of deep mutual learning (Zhang et al., CVPR 2018). The task term is the sum
over labelled rows divided by their number in the whole batch, over every rank and accumulated part; a
response head's rows are reduced likewise; a scalar counts by its part's share of the samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from kdlab.errors import UsageError
from kdlab.heads.head import Head
from kdlab.knowledge import Batch, Context, Fields, Knowledge, Lesson, Needs, Offer, Progress
from kdlab.modes.mode import Edge, Mode
from kdlab.task import Task


@dataclass(frozen=True)
class Term:
    """One distillation loss of a run: how to make its head, and how much it counts."""

    name: str
    make: Callable[[], Head]
    weight: float
    ramp: int = 0

    def weight_at(self, epoch: int) -> float:
        """The weight in an epoch, counted from 0: with a ramp it rises linearly and is whole after `ramp` epochs."""
        return self.weight * min(1.0, (epoch + 1) / self.ramp) if self.ramp else self.weight


@dataclass(frozen=True)
class Counts:
    """Of the whole batch of an optimizer step, over all ranks and parts.

    rows, labelled: how many there are; share: the part of its samples that is at hand.
    """

    rows: Tensor | float
    labelled: Tensor | float
    share: float = 1.0


class Objective(nn.Module):
    """All heads of a run, one instance per edge, and the sum of what they say."""

    def __init__(self, mode: Mode, task: Task, terms: Sequence[Term], task_weight: float, context: Context) -> None:
        super().__init__()
        self.task = task
        self.terms = tuple(terms)
        self.task_weight = task_weight
        self.context = context
        self.edges = mode.edges
        self.heads = nn.ModuleDict({term.name: nn.ModuleList([term.make() for _ in self.edges]) for term in terms})
        self._needs = {term.name: [self.head(term.name, edge).needs() for edge in self.edges] for term in terms}

    @property
    def names(self) -> tuple[str, ...]:
        """The terms, in the order in which `forward` returns them."""
        return ("task", *(term.name for term in self.terms))

    def head(self, name: str, edge: Edge) -> Head:
        """The instance of a head on an edge."""
        heads = self.heads[name]
        assert isinstance(heads, nn.ModuleList)
        head = heads[self.edges.index(edge)]
        assert isinstance(head, Head)
        return head

    def views(self) -> tuple[str, ...]:
        """The further views of a sample that the heads read."""
        return tuple(sorted({view for needs in self._needs.values() for need in needs for view in need.views}))

    def needs_index(self) -> bool:
        """Whether a head reads a sample's place in the training set."""
        return any(need.index for needs in self._needs.values() for need in needs)

    def refuse_impossible(self, mode: Mode, *, index: bool = True, views: Sequence[str] = ()) -> None:
        """Refuses a head whose needs this mode, these networks or this data do not meet.

        Raises:
            UsageError: naming the head and all that is missing.
        """
        for term in self.terms:
            for edge, needs in zip(self.edges, self._needs[term.name], strict=True):
                learner, teacher = mode.offers(edge)
                offer = Offer(learner, teacher, self.task.has_labels, index, (*mode.views, *views))
                if unmet := needs.unmet(offer):
                    raise UsageError(f"loss={term.name} needs {' and '.join(unmet)}, which are not to be had here")

    def build(self, mode: Mode, batch: Batch, seed: int) -> None:
        """Hooks what the heads need and lets each build its parts from a dry run.

        Each edge has a random state of its own, made of its name, so that no head changes another's start.
        """
        asked: dict[Edge, tuple[Fields, Fields]] = {}
        for place, edge in enumerate(self.edges):
            ours, theirs = Fields(), Fields()
            for each in self._needs.values():
                ours, theirs = ours | each[place].learner, theirs | each[place].teacher
            asked[edge] = ours, theirs
        mode.listen(asked)
        for place, edge in enumerate(self.edges):
            learner, teacher = mode.examples(edge, batch)
            for term in self.terms:
                needs = self._needs[term.name][place]
                with torch.random.fork_rng():
                    torch.manual_seed(seed_of(seed, edge.name, term.name))
                    self.head(term.name, edge).build(
                        replace(learner, knowledge=learner.knowledge.only(needs.learner)),
                        replace(teacher, knowledge=teacher.knowledge.only(needs.teacher)),
                        self.context if needs.labels else replace(self.context, labels=None),
                    )

    def forward(
        self,
        lessons: Sequence[Lesson],
        counts: Counts,
        progress: Progress,
        *,
        heads: Sequence[str] | None = None,
        task_weight: float | None = None,
        prepare: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """The loss, and the terms it was made of, unweighted and detached, in the order of `names`.

        Args:
            lessons: one per learner.
            counts: of the whole batch.
            progress: where training stands.
            heads: which speak; None: all.
            task_weight: in place of the run's own.
            prepare: the heads are fitted to the teacher alone.
        """
        task_weight = self.task_weight if task_weight is None else task_weight
        values = [self._task(lessons, counts)]
        weights = [task_weight]
        device = values[0].device.type
        with torch.autocast(device, enabled=False):
            for term in self.terms:
                if heads is not None and term.name not in heads:
                    values.append(values[0].new_zeros(()))
                    weights.append(0.0)
                else:
                    values.append(self._term(term.name, lessons, counts, progress, prepare))
                    weights.append(term.weight_at(progress.epoch))
        parts = [weight * value for weight, value in zip(weights, values, strict=True) if weight]
        loss = torch.stack(parts).sum() if parts else values[0] * 0.0
        return loss, torch.stack([value.detach() for value in values])

    def _task(self, lessons: Sequence[Lesson], counts: Counts) -> Tensor:
        total = lessons[0].learner.logits.new_zeros((), dtype=torch.float32)
        for lesson in lessons:
            if lesson.task and lesson.target is not None:
                total = total + self.task.loss(lesson.learner.logits, lesson.target).sum() / counts.labelled
        return total

    def _term(self, name: str, lessons: Sequence[Lesson], counts: Counts, progress: Progress, prepare: bool) -> Tensor:
        total = lessons[0].learner.logits.new_zeros((), dtype=torch.float32)
        for place, edge in enumerate(self.edges):
            lesson = lessons[edge.learner]
            needs = self._needs[name][place]
            teacher = lesson.teachers[edge.teacher].raised().only(needs.teacher)
            if prepare:
                total = total + self.head(name, edge).prepare(teacher) * counts.share / len(lesson.teachers)
                continue
            learner = lesson.learner.raised().only(needs.learner)
            value: Tensor = self.head(name, edge)(
                learner, teacher, self._narrowed(lesson, learner, teacher, edge, needs), progress
            )
            if value.ndim:
                if lesson.weight is not None:
                    value = value * lesson.weight[edge.teacher]
                value = value.sum() / counts.rows
            else:
                value = value * counts.share
            total = total + value / len(lesson.teachers)
        return total

    def _narrowed(self, lesson: Lesson, learner: Knowledge, teacher: Knowledge, edge: Edge, needs: Needs) -> Lesson:
        """The lesson as one head on one edge may see it: one teacher, and of the rest what it asked for."""
        target = lesson.target
        views = {
            name: self._narrowed(
                view, view.learner.raised().only(needs.learner),
                view.teachers[edge.teacher].raised().only(needs.teacher), edge, needs)
            for name, view in lesson.views.items() if name in needs.views
        }  # fmt: skip
        return Lesson(
            learner,
            (teacher,),
            self.task.labels(target) if needs.labels and target is not None else None,
            lesson.index,
            None if lesson.weight is None else lesson.weight[edge.teacher : edge.teacher + 1],
            lesson.task,
            views,
        )


def seed_of(seed: int, *names: str) -> int:
    """A seed of 63 bits for one named part of a run, independent of every other part's."""
    digest = hashlib.sha256("/".join((str(seed), *names)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
