"""Labels for heads that treat the true class of a row separately."""

from __future__ import annotations

import torch
from torch import Tensor

from kdlab.core.knowledge import Lesson


def hard_labels(lesson: Lesson) -> Tensor:
    """The class of each row [N], −1 where it has none; of soft labels [N, C], as mixup makes, the largest.

    Raises:
        ValueError: where the target is neither.
    """
    target = lesson.target
    if target is not None and target.ndim == 2:
        return target.argmax(dim=1)
    if target is None or target.ndim != 1 or target.is_floating_point():
        given = "no target" if target is None else f"{target.dtype} {tuple(target.shape)}"
        raise ValueError(
            f"expected classes [N] or soft labels [N, C], got {given}; choose a loss without labels, as kd"
        )
    return target


def others(values: Tensor, label: Tensor) -> Tensor:
    """Each row of values [N, C] without the column that its label [N] names: [N, C − 1]."""
    column = torch.arange(values.shape[1] - 1, device=values.device)
    return values.gather(1, column + (column >= label[:, None]).long())


def binary(values: Tensor, label: Tensor) -> Tensor:
    """Log-probabilities [N, C] as those of the class that a label [N] names and of all others together: [N, 2]."""
    return torch.stack((values.gather(1, label[:, None])[:, 0], others(values, label).logsumexp(dim=1)), dim=1)
