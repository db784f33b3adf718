"""tf_kd: a virtual teacher that is always right and slightly unsure.

Yuan et al. Revisiting Knowledge Distillation via Label Smoothing Regularization. CVPR 2020, equations 8 and 9
(Tf-KD_reg).

    p(k) = a for the class of the label, (1 − a) / (C − 1) for every other;   teacher = softmax(p / T)
    L = (1 − α) CE + α KL(teacher ‖ student)

The softmax is over the probabilities p themselves, in the paper and in the authors' code, so at T = 20 the
teacher is close to uniform. Only the teacher is softened: the student's temperature is 1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Batch, Knowledge, Lesson, Progress
from kdlab.modes.mode import Cast, Edge, Mode


def virtual_logits(target: Tensor, classes: int, correct: float, temperature: float) -> Tensor:
    """p / T of classes [N]: [N, C]. Rows of a class below zero are meaningless."""
    wrong = (1 - correct) / (classes - 1)
    known = one_hot(target.clamp(min=0), classes).to(torch.get_default_dtype())
    return (wrong + (correct - wrong) * known) / temperature


class TfKD(Mode):
    """One student, without a teacher network.

    Args:
        cast: the networks of the run.
        correct: a, the probability of the right class.
        temperature: T, of the teacher alone.
    """

    wants_teacher = False
    wants_labels = True

    def __init__(self, cast: Cast, correct: float, temperature: float) -> None:
        if not 0 < correct < 1:
            raise UsageError(f"mode.correct={correct}: expected a number between 0 and 1, such as 0.99")
        super().__init__(cast.learners())
        self._correct, self._temperature = correct, temperature
        self._classes = cast.context.classes

    @property
    def edges(self) -> tuple[Edge, ...]:
        return (Edge(0, 0, "student-virtual"),)

    def lessons(self, batch: Batch, progress: Progress) -> list[Lesson]:
        target = batch["target"]
        hard = target if target.ndim == 1 else target.argmax(1)
        learner = self.observed[0](batch)
        virtual = virtual_logits(hard, self._classes, self._correct, self._temperature)
        weight = (hard >= 0).to(virtual.dtype)[None]
        return [Lesson(learner, (Knowledge(virtual, rows=learner.rows),), target, batch["index"], weight)]
