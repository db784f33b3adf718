"""supervised: one learner, labels alone. Trains teachers, and students for comparison."""

from __future__ import annotations

from kdlab.core.knowledge import Batch, Lesson, Progress
from kdlab.modes.mode import Cast, Mode


class Supervised(Mode):
    """One learner without a teacher."""

    wants_teacher = False
    wants_heads = False

    def __init__(self, cast: Cast) -> None:
        super().__init__(cast.learners())

    def lessons(self, batch: Batch, progress: Progress) -> list[Lesson]:
        return [Lesson(self.observed[0](batch), (), batch["target"], batch["index"])]
