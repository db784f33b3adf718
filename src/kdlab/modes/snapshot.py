"""snapshot: the learning rate falls in cycles; the student at the end of each teaches the next.

Yang, Xie, Su, Yuille. Snapshot Distillation: Teacher-Student Optimization in One Generation. CVPR 2019, section 3.

    L = λ_S CE(p, y) + λ_T KL(softmax(z_teacher / T) ‖ p)

The teacher is the last snapshot, and only its output is softened: the temperature is the mode's. The first
cycle has the labels alone.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil

from kdlab.core.knowledge import Batch, Lesson, Progress
from kdlab.modes._own_copy import OwnCopy
from kdlab.modes.mode import Cast


class Snapshot(OwnCopy):
    """One student, and a copy of it from the end of the last cycle.

    Args:
        cast: the networks of the run.
        cycles: of the learning rate, in the steps of a phase; those of `mode.scheduler`.
        temperature: T, of the teacher alone.
    """

    def __init__(self, cast: Cast, cycles: int, temperature: float) -> None:
        super().__init__(cast, "snapshot")
        self._cycles, self._temperature = cycles, temperature
        self._filled = False

    def lessons(self, batch: Batch, progress: Progress) -> list[Lesson]:
        taught = self.copied(batch)
        weight = taught.logits.new_full((1, len(taught.logits)), float(self._filled))
        softened = replace(taught, logits=taught.logits / self._temperature)
        return [Lesson(self.observed[0](batch), (softened,), batch["target"], batch["index"], weight)]

    def after_step(self, progress: Progress) -> None:
        """Takes a snapshot where the learning rate is about to rise again."""
        if (progress.step + 1) % ceil(progress.steps / self._cycles) == 0:
            self.copy.load_state_dict(self.learners[0].state_dict())
            self._filled = True

    def get_extra_state(self) -> dict[str, bool]:
        """Whether there is a snapshot yet."""
        return {"filled": self._filled}

    def set_extra_state(self, state: dict[str, bool]) -> None:
        """Restores what `get_extra_state` returned."""
        self._filled = state["filled"]
