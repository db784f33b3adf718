"""Tests a trained network, once and at the end: metrics, closeness to its teacher, size and speed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from kdlab.core.knowledge import Batch
from kdlab.networks.observer import logits_of
from kdlab.tasks.task import Task


def predict(ask: Callable[[Tensor], Tensor], batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """(logits [N, C], targets [N]) of every batch in turn, on the CPU.

    Args:
        ask: from input [B, ...] to logits.
        batches: of one part of the data.
    """
    logits, targets = [], []
    with torch.no_grad():
        for batch in batches:
            logits.append(ask(batch["input"]).float().cpu())
            targets.append(batch["target"].cpu())
    return torch.cat(logits), torch.cat(targets)


def student_of(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """A network in eval mode, as something that can be asked for logits."""
    network.eval()
    return lambda input: logits_of(network(input))


def score(task: Task, logits: Tensor, targets: Tensor, teacher: Tensor | None = None) -> dict[str, float]:
    """The task's metrics of predictions, and where a teacher's logits are given, those of closeness to it."""
    found = _computed(task.metrics(), logits, targets)
    return found if teacher is None else found | _computed(task.comparisons(), logits, teacher)


def _computed(metrics: MetricCollection, logits: Tensor, others: Tensor) -> dict[str, float]:
    for metric in metrics.values():
        metric.distributed_available_fn = lambda: False  # one rank tests the whole set, alone
    metrics.update(logits, others)
    return {name: float(value) for name, value in metrics.compute().items()}
