"""offline: frozen teachers teach one student.

Hinton, Vinyals, Dean. Distilling the Knowledge in a Neural Network. 2015.
"""

from __future__ import annotations

from kdlab.knowledge import Batch, Lesson, Progress
from kdlab.modes.mode import Cast, Edge, Mode
from kdlab.teacher import Observed, Teacher


class Offline(Mode):
    """One student; each teacher is an edge of its own."""

    def __init__(self, cast: Cast) -> None:
        super().__init__(cast.learners())
        self._teachers = cast.teachers

    @property
    def teachers(self) -> tuple[Teacher, ...]:
        return self._teachers

    @property
    def edges(self) -> tuple[Edge, ...]:
        return tuple(Edge(0, place, f"student-{place}") for place in range(len(self._teachers)))

    def source(self, edge: Edge) -> Observed:
        return self._teachers[edge.teacher]

    def lessons(self, batch: Batch, progress: Progress) -> list[Lesson]:
        said = tuple(teacher(batch["input"]) for teacher in self._teachers)
        return [Lesson(self.observed[0](batch["input"]), said, batch["target"], batch["index"])]
