"""cotrain: teacher and student are trained from scratch together; the teacher learns only from the labels.

The online scheme of Gou, Yu, Maybank, Tao. Knowledge Distillation: A Survey. IJCV 2021, section 3.2, with one
direction: the teacher's outputs of each step are the student's soft targets of that step.
"""

from __future__ import annotations

from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Batch, Lesson, Progress
from kdlab.modes.mode import Cast, Edge, Mode
from kdlab.networks.teacher import Observed


class CoTrain(Mode):
    """A student and one peer, its teacher."""

    wants_teacher = False
    wants_peers = True

    def __init__(self, cast: Cast) -> None:
        if cast.peers != 1:
            raise UsageError(
                f"mode.peers: expected 1, as cotrain trains one network with the student, not {cast.peers}"
            )
        super().__init__(cast.learners(), cast.learners(1))

    @property
    def edges(self) -> tuple[Edge, ...]:
        return (Edge(0, 0, f"student-{self.observed[1].name}"),)

    def source(self, edge: Edge) -> Observed:
        return self.observed[1]

    def lessons(self, batch: Batch, progress: Progress) -> list[Lesson]:
        student, teacher = (learner(batch) for learner in self.observed)
        return [
            Lesson(student, (teacher.detach(),), batch["target"], batch["index"]),
            Lesson(teacher, (), batch["target"], batch["index"]),
        ]
