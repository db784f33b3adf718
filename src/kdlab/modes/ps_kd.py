"""ps_kd: the student is taught by its own predictions of the last epoch, with rising weight.

Kim, Ji, Yoon, Hwang. Self-Knowledge Distillation with Progressive Refinement of Targets. ICCV 2021, equations 4 to 6.

    L = CE((1 − α_t) y + α_t p_{t−1}, p_t),   α_t = α_T · t / T in epoch t of T

CE with the mixture is (1 − α_t) CE(y) + α_t KL(p_{t−1} ‖ p_t) plus a constant: so α_t weights the teacher, row by
row, and 1 − α_t the labels. A sample not yet seen has the labels alone.

The memory is one row of logits per training sample: samples · classes · 4 bytes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdlab.core.distributed import gathered
from kdlab.core.knowledge import Batch, Knowledge, Lesson, Progress
from kdlab.modes.mode import Cast, Edge, Mode


class PSKD(Mode):
    """One student, and the memory of its logits of every sample.

    Args:
        cast: the networks of the run.
        last_alpha: α_T, the teacher's weight in the last epoch.
    """

    wants_teacher = False
    wants_row_per_sample = True
    memory: Tensor
    filled: Tensor

    def __init__(self, cast: Cast, last_alpha: float) -> None:
        super().__init__(cast.learners())
        self._last_alpha = last_alpha
        self.register_buffer("memory", torch.zeros(cast.context.samples, cast.context.classes))
        self.register_buffer("filled", torch.zeros(cast.context.samples, dtype=torch.bool))

    @property
    def edges(self) -> tuple[Edge, ...]:
        return (Edge(0, 0, "student-past"),)

    def alpha(self, progress: Progress) -> float:
        """α_t of the current epoch."""
        return self._last_alpha * (progress.epoch + 1) / progress.epochs

    def lessons(self, batch: Batch, progress: Progress) -> list[Lesson]:
        index = batch["index"]
        learner = self.observed[0](batch)
        past = Knowledge(self.memory[index], rows=learner.rows)
        alpha = self.alpha(progress) * self.filled[index].to(past.logits.dtype)
        return [Lesson(learner, (past,), batch["target"], index, alpha[None], 1 - alpha)]

    def forward(self, batch: Batch, progress: Progress) -> list[Lesson]:
        lessons = super().forward(batch, progress)
        logits, index = gathered(lessons[0].learner.logits.detach()), gathered(batch["index"])
        self.memory[index] = logits.to(self.memory.dtype)
        self.filled[index] = True
        return lessons
