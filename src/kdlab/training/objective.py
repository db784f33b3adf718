"""The loss of a step, from lessons: of every learner with its targets and its teachers.

    loss = Σ learners ( task_weight · task + Σ heads weight · mean over its teachers of head )

The sum over learners is that of deep mutual learning (Zhang et al., CVPR 2018). The task term is the sum
over labelled rows divided by their number in the whole batch, over every rank and accumulated part; a
response head's rows are reduced likewise; a scalar counts by its part's share of the samples. Where a
head asks for it (`Needs.supervised`), the task term of a further view of the batch is added.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Batch, Context, Fields, Knowledge, Lesson, Needs, Offer, Progress
from kdlab.core.rng import seed_of
from kdlab.modes.mode import Edge, Mode
from kdlab.tasks.task import Task
from kdlab.training.chunks import by_row
from kdlab.training.terms import Counts as Counts
from kdlab.training.terms import Placed as Placed
from kdlab.training.terms import Term as Term
from kdlab.training.terms import among_classes


class Objective(nn.Module):
    """All heads of a run, one instance per edge, and the weighted sum of their losses."""

    def __init__(self, mode: Mode, task: Task, terms: Sequence[Term], task_weight: float, context: Context) -> None:
        super().__init__()
        self.task = task
        self.terms = tuple(terms)
        self.task_weight = task_weight
        self.context = context
        self.edges = mode.edges
        self._known: dict[Edge, int] = {}
        for place, edge in enumerate(self.edges):
            if (known := mode.known(edge)) is not None:
                self._known[edge] = place
                self.register_buffer(f"known{place}", known, persistent=False)
        self.heads = nn.ModuleDict()
        self._placed: dict[str, tuple[Placed, ...]] = {}
        for term in terms:
            first = term.make()
            edges = [edge for edge in self.edges if first.kind in edge.kinds]
            if self.edges and not edges:
                raise UsageError(f"loss={term.name} is a {first.kind} loss, which no edge of this mode allows")
            heads = [first, *(term.make() for _ in edges[1:])]
            self.heads[term.name] = nn.ModuleList(heads[: len(edges)])
            shares = Counter(edge.learner for edge in edges)
            self._placed[term.name] = tuple(
                Placed(edge, head, head.needs(), 1.0 / shares[edge.learner])
                for edge, head in zip(edges, heads, strict=False)
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The terms, in the order in which `forward` returns them."""
        return ("task", *(term.name for term in self.terms))

    def placed(self, name: str) -> tuple[Placed, ...]:
        """Every instance of a head, with its edge."""
        return self._placed[name]

    def views(self) -> tuple[str, ...]:
        """The further views of a sample that the heads read."""
        return tuple(sorted({view for placed in self._every() for view in placed.needs.views}))

    def refuse_impossible(self, mode: Mode, *, index: bool = True, views: Sequence[str] = ()) -> None:
        """Refuses a head whose needs this mode, these networks or this data do not meet.

        Raises:
            UsageError: naming the head and all that is missing.
        """
        if mode.wants_labels and not self.task.has_labels:
            raise UsageError(
                f"mode {type(mode).__name__} reads class labels, which {type(self.task).__name__} does not have"
            )
        if mode.wants_row_per_sample and not self.task.row_per_sample:
            raise UsageError(
                f"mode {type(mode).__name__} keeps or mixes one prediction for each sample, where "
                f"{type(self.task).__name__} has several"
            )
        for view in mode.shows:
            if view not in views:
                raise UsageError(
                    f"the mode shows the view {view!r}, which data.views does not have; "
                    f"for a second draw of data.augment type +data.views.{view}={{}}"
                )
        for name, several in self._placed.items():
            for placed in several:
                if self.task.kind not in placed.head.outputs:
                    raise UsageError(
                        f"loss={name} compares probabilities, and the outputs of {type(self.task).__name__} are real "
                        "values; type loss=logit_mse, or a loss on features"
                    )
                learner, teacher = mode.offers(placed.edge)
                offer = Offer(
                    learner, teacher, self.task.has_labels, index, (*mode.views, *views), self.task.row_per_sample
                )
                if unmet := placed.needs.unmet(offer):
                    raise UsageError(f"loss={name} needs {' and '.join(unmet)}, which this run does not provide")

    def build(self, mode: Mode, batch: Batch, seed: int) -> None:
        """Hooks what the heads need and builds the parts of each from a dry run.

        Each edge has its own random state, derived from its name, so that no head changes another's initial weights.
        """
        self.listen(mode)
        for edge in self.edges:
            learner, teacher = mode.examples(edge, batch)
            for name, several in self._placed.items():
                for placed in several:
                    if placed.edge != edge:
                        continue
                    needs = placed.needs
                    with torch.random.fork_rng():
                        torch.manual_seed(seed_of(seed, edge.name, name))
                        placed.head.build(
                            replace(learner, knowledge=self._visible(learner.knowledge, edge, needs)),
                            replace(teacher, knowledge=teacher.knowledge.only(needs.teacher)),
                            self.context if needs.labels else replace(self.context, labels=None),
                        )

    def listen(self, mode: Mode) -> None:
        """Hooks what the heads need of each network, in place of what was hooked before."""
        asked: dict[Edge, tuple[Fields, Fields]] = {}
        for placed in self._every():
            ours, theirs = asked.get(placed.edge, (Fields(), Fields()))
            asked[placed.edge] = ours | placed.needs.learner, theirs | placed.needs.teacher
        mode.listen(asked)

    def _every(self) -> Iterator[Placed]:
        for several in self._placed.values():
            yield from several

    def forward(
        self,
        lessons: Sequence[Lesson],
        counts: Counts,
        progress: Progress,
        *,
        heads: Sequence[str] | None = None,
        task_weight: float | None = None,
        prepare: bool = False,
        chunk: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The loss, and the terms it was made of, unweighted and detached, in the order of `names`.

        Args:
            lessons: one per learner.
            counts: of the whole batch.
            progress: where training stands.
            heads: those that take part; None: all.
            task_weight: instead of the run's.
            prepare: the heads are fitted to the teacher alone.
            chunk: rows that are compared at once, where they can be compared in parts; None: all.
        """
        task_weight = self.task_weight if task_weight is None else task_weight
        active = [term.name for term in self.terms if heads is None or term.name in heads]
        rows: Mapping[Lesson | Placed, Tensor] = {}
        if chunk is not None:
            placed = [] if prepare else [placed for name in active for placed in self._placed[name]]
            rows = by_row(lessons, placed, chunk, self._supervised_rows, partial(self._compared, progress))
        values = [self._task(lessons, counts, self._supervised(active), rows)]
        weights = [task_weight]
        device = values[0].device.type
        with torch.autocast(device, enabled=False):
            for term in self.terms:
                if term.name not in active:
                    values.append(values[0].new_zeros(()))
                    weights.append(0.0)
                else:
                    values.append(self._term(term.name, lessons, counts, progress, prepare, rows))
                    weights.append(1.0 if prepare else term.weight_at(progress.epoch, progress.epochs))
        parts = [weight * value for weight, value in zip(weights, values, strict=True) if weight]
        loss = sum(parts[1:], parts[0]) if parts else values[0] * 0.0
        return loss, torch.stack([value.detach() for value in values])

    def _supervised(self, active: Sequence[str]) -> tuple[str, ...]:
        """The further views whose labels count, by the heads that take part."""
        asked = {view for name in active for placed in self._placed[name] for view in placed.needs.supervised}
        return tuple(sorted(asked))

    def _supervised_rows(self, lesson: Lesson) -> Tensor:
        """The supervised loss of each row [N] of a lesson with targets."""
        assert lesson.target is not None
        return self.task.loss(among_classes(lesson.learner.logits, lesson.among), lesson.target)

    def _task(
        self, lessons: Sequence[Lesson], counts: Counts, views: Sequence[str], ready: Mapping[Lesson | Placed, Tensor]
    ) -> Tensor:
        values = []
        for lesson in (*lessons, *(lesson.views[view] for lesson in lessons for view in views)):
            if lesson.target is not None:
                rows = ready.get(lesson)
                if rows is None:
                    rows = self._supervised_rows(lesson)
                labelled = counts.labelled
                if lesson.whole is not None:
                    labelled = self.task.labelled(lesson.whole).sum().clamp(min=1)
                values.append(_scaled(rows, lesson.task).sum() / labelled)
        return _sum(values, lessons)

    def _term(
        self,
        name: str,
        lessons: Sequence[Lesson],
        counts: Counts,
        progress: Progress,
        prepare: bool,
        ready: Mapping[Lesson | Placed, Tensor],
    ) -> Tensor:
        values = []
        for placed in self._placed[name]:
            edge = placed.edge
            lesson = lessons[edge.learner]
            weight = None if lesson.weight is None else lesson.weight[edge.teacher]
            if prepare:
                value = placed.head.prepare(lesson.teachers[edge.teacher].only(placed.needs.teacher).raised())
            else:
                value = ready[placed] if placed in ready else self._compared(progress, placed, lesson)
            if value.ndim:
                value = (value if weight is None else value * weight).sum() / counts.rows
            else:
                value = _scaled(value if weight is None else value * weight.mean(), counts.share)
            values.append(_scaled(value, placed.share))
        return _sum(values, lessons)

    def _compared(self, progress: Progress, placed: Placed, lesson: Lesson) -> Tensor:
        """What a head says of a lesson."""
        edge, needs = placed.edge, placed.needs
        teacher = lesson.teachers[edge.teacher].only(needs.teacher).raised()
        learner = self._visible(lesson.learner, edge, needs)
        narrowed = self._narrowed(lesson, learner, teacher, edge, needs)
        value: Tensor = placed.head(learner, teacher, narrowed, progress)
        return value

    def _narrowed(self, lesson: Lesson, learner: Knowledge, teacher: Knowledge, edge: Edge, needs: Needs) -> Lesson:
        """The lesson as one head on one edge may see it: one teacher, and otherwise what it declared."""
        target = lesson.target
        views = {
            name: self._narrowed(
                view, self._visible(view.learner, edge, needs),
                view.teachers[edge.teacher].only(needs.teacher).raised(), edge, needs)
            for name, view in lesson.views.items() if name in needs.views
        }  # fmt: skip
        return Lesson(
            learner,
            (teacher,),
            self._labels(target, edge) if needs.labels and target is not None else None,
            lesson.index,
            None if lesson.weight is None else lesson.weight[edge.teacher : edge.teacher + 1],
            lesson.task,
            views=views,
        )

    def _visible(self, learner: Knowledge, edge: Edge, needs: Needs) -> Knowledge:
        """A learner's knowledge as a head on this edge may see it, in the classes that the teacher knows."""
        learner = learner.only(needs.learner).raised()
        if edge not in self._known:
            return learner
        known = self.get_buffer(f"known{self._known[edge]}")
        return learner.mapped(lambda logits: logits[:, known])

    def _labels(self, target: Tensor, edge: Edge) -> Tensor:
        """Hard labels [N], counted in the classes that the teacher knows; -1 for any other."""
        labels = self.task.labels(target)
        if edge not in self._known:
            return labels
        same = labels[:, None] == self.get_buffer(f"known{self._known[edge]}")
        return torch.where(same.any(1), same.int().argmax(1), -1)


def _sum(values: Sequence[Tensor], lessons: Sequence[Lesson]) -> Tensor:
    if not values:
        return lessons[0].learner.logits.new_zeros((), dtype=torch.float32)
    return sum(values[1:], values[0])


def _scaled(value: Tensor, factor: float | Tensor) -> Tensor:
    # Most factors are 1, and each multiplication would cost a step two kernels.
    return value if isinstance(factor, float) and factor == 1.0 else value * factor
