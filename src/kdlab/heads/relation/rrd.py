"""rrd: the student finds a sample similar to the same remembered samples as the teacher does.

Giakoumoglou, Stathaki. Relational Representation Distillation. arXiv 2407.12073, 2024.

    p(f; τ) = softmax(f Mᵀ / τ) over a memory M of teacher embeddings
    L = KL(p(f_t; τ_t) ‖ p(f_s; τ_s)), averaged over rows

Both embeddings pass a linear layer to `dim` numbers and are ℓ2-normalised. The teacher's layer is a fixed
random projection: in the authors' code, too, no gradient reaches it. The memory is a queue, which the batch
enters before it is compared; the authors report the cross-entropy, higher than L by the teacher's entropy, with
the same gradient. Their queue starts with random rows; here unfilled rows do not count.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div

from kdlab.core.knowledge import Context, Example, Fields, Knowledge, Lesson, Needs, Progress, raised
from kdlab.heads.head import Head
from kdlab.heads.relation._rows import gathered, unit

# Its exponential is 0, and unlike that of −∞ so is its product with 0.
_NEVER = -1e9


def rrd_loss(
    student: Tensor,
    teacher: Tensor,
    memory: Tensor,
    filled: Tensor | int,
    student_temperature: float,
    teacher_temperature: float,
) -> Tensor:
    """KL of the similarity distributions of embeddings [N, d] over a memory [K, d]. A scalar.

    Args:
        student: rows of unit length.
        teacher: likewise, of the same samples.
        memory: likewise; only the first `filled` rows count.
        filled: at least 1.
        student_temperature: τ_s > 0.
        teacher_temperature: τ_t > 0.
    """
    empty = torch.arange(len(memory), device=memory.device) >= filled

    def distribution(rows: Tensor, temperature: float) -> Tensor:
        return (raised(rows) @ raised(memory).T / temperature).masked_fill(empty, _NEVER).log_softmax(dim=1)

    ours, theirs = distribution(student, student_temperature), distribution(teacher, teacher_temperature)
    return kl_div(ours, theirs, reduction="batchmean", log_target=True)


class RRD(Head):
    """Similarities to a queue of teacher embeddings."""

    kind = "relation"
    paper = "Giakoumoglou, Stathaki: Relational Representation Distillation, 2024"
    link = "https://arxiv.org/abs/2407.12073"
    compares = "similarities to remembered teacher embeddings"

    queue: Tensor
    entered: Tensor

    def __init__(self, dim: int, memory: int, student_temperature: float, teacher_temperature: float) -> None:
        super().__init__()
        self.dim = dim
        self.memory = memory
        self.student_temperature = student_temperature
        self.teacher_temperature = teacher_temperature

    def needs(self) -> Needs:
        return Needs(learner=Fields(embedding=True), teacher=Fields(embedding=True))

    def build(self, learner: Example, teacher: Example, context: Context) -> None:
        self.learner_projection = nn.Linear(learner.knowledge.vector().shape[1], self.dim)
        self.teacher_projection = nn.Linear(teacher.knowledge.vector().shape[1], self.dim).requires_grad_(False)
        self.register_buffer("queue", torch.zeros(self.memory, self.dim))
        # The number of rows ever entered, which gives how far the queue is filled and where the next one goes.
        self.register_buffer("entered", torch.tensor(0))

    def forward(self, learner: Knowledge, teacher: Knowledge, lesson: Lesson, progress: Progress) -> Tensor:
        ours = unit(raised(self.learner_projection(learner.vector())))
        theirs = unit(raised(self.teacher_projection(teacher.vector())))
        if self.training:
            self._enter(gathered(theirs)[-self.memory :])
        # A clone, so that a later batch may enter before this one's backward pass.
        memory = self.queue.clone()
        return rrd_loss(ours, theirs, memory, self.entered, self.student_temperature, self.teacher_temperature)

    @torch.no_grad()
    def _enter(self, rows: Tensor) -> None:
        places = (self.entered + torch.arange(len(rows), device=rows.device)) % self.memory
        self.queue[places] = rows.to(self.queue.dtype)
        self.entered += len(rows)
