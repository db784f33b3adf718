"""How response losses and modes read logits: at a temperature, standardised, and an ensemble's as one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kdlab.core.knowledge import Knowledge, raised


def soft_targets(
    teacher: Knowledge,
    temperature: float | Tensor = 1.0,
    scale: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """A teacher's log-probabilities [N, C] at a temperature: the one way response heads read a teacher.

    An ensemble's probabilities are averaged at this temperature; averaging at T = 1 and tempering the
    mean gives another target. `scale` is applied to each member's logits first.
    """
    scale = scale or (lambda logits: logits)
    if not teacher.members:
        return torch.log_softmax(scale(raised(teacher.logits)) / temperature, dim=1)
    members = [torch.log_softmax(scale(raised(member)) / temperature, dim=1) for member in teacher.members]
    count = torch.tensor(float(len(members)), dtype=members[0].dtype, device=members[0].device)
    return torch.logsumexp(torch.stack(members), dim=0) - count.log()


def soft_logits(teacher: Knowledge) -> Tensor:
    """A teacher's logits [N, C].

    An ensemble's are the logarithm of its members' mean probability, shifted by the members' mean log-sum-exp,
    so that members that agree give their own logits.
    """
    if not teacher.members:
        return raised(teacher.logits)
    levels = [raised(member).logsumexp(1, keepdim=True) for member in teacher.members]
    return soft_targets(teacher) + torch.stack(levels).mean(0)


def standardize(logits: Tensor) -> Tensor:
    """Rows of logits [N, C] with zero mean and unit (unbiased) deviation; Sun et al. 2024, algorithm 1.

    A row that is constant has no deviation to divide by and becomes zero, with a finite gradient.
    """
    logits = raised(logits)
    deviation = logits.std(1, keepdim=True)
    return (logits - logits.mean(1, keepdim=True)) / torch.where(deviation > 0, deviation + 1e-7, 1.0)
