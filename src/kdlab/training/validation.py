"""Validation: the metrics of every student of a run over the whole validation part, over all ranks."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torchmetrics import MetricCollection

from kdlab.core.knowledge import Batch
from kdlab.core.reading import ask
from kdlab.modes.mode import Mode
from kdlab.tasks.task import Task


class Validation(nn.Module):
    """One set of metrics for each student.

    Args:
        task: whose metrics they are.
        students: by name, those of all modes of a run.
    """

    def __init__(self, task: Task, students: Iterable[str]) -> None:
        super().__init__()
        self.task = task
        self.metrics = nn.ModuleDict({name: task.metrics() for name in sorted(students)})

    def update(self, mode: Mode, batch: Batch) -> None:
        """Runs only the students of a mode, in eval mode; no teacher."""
        targets, beside = self.task.targets(batch), self.task.beside(batch)
        for name, network in mode.validated().items():
            logits, _ = self.task.read(ask(network, batch["input"]), batch)
            self._of(name).update(logits.detach(), targets, **beside)

    def compute(self, mode: Mode) -> dict[str, float]:
        """`validation/accuracy` and so on, over all ranks; then resets."""
        row: dict[str, float] = {}
        for name, prefix in prefixes(mode).items():
            row |= {f"{prefix}/{key}": float(value) for key, value in self._of(name).compute().items()}
            self._of(name).reset()
        return row

    def _of(self, name: str) -> MetricCollection:
        metrics = self.metrics[name]
        assert isinstance(metrics, MetricCollection)
        return metrics


def prefixes(mode: Mode) -> dict[str, str]:
    """The prefix of each student's metrics: `validation` for the first, `validation/peer1` for another."""
    return {name: f"validation/{name}" if place else "validation" for place, name in enumerate(mode.validated())}
