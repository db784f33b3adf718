"""Tests a trained network once, at the end: metrics, closeness to its teacher, size and speed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torchmetrics import MetricCollection

from kdlab.config.schema import RunConfig
from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Batch
from kdlab.data.dataset import Data
from kdlab.networks.cost import cost
from kdlab.networks.observer import logits_of
from kdlab.networks.weights import StateDict
from kdlab.run.builder import example_batch
from kdlab.tasks.task import Task
from kdlab.training.callbacks import KeepBest
from kdlab.training.loss_buffer import DivergedError
from kdlab.training.setup import Parts


@dataclass
class Measured:
    """The measurements of a run.

    rows: per student, its part of a result.json. weights: per student, of the `last` and the `best` epoch.
    teacher, targets: the teacher's logits [N, C] on the test part, where there is one, and its targets [N].
    """

    rows: dict[str, dict[str, Any]]
    weights: dict[str, dict[str, StateDict]]
    teacher: Tensor | None
    targets: Tensor


def measure(config: RunConfig, data: Data, parts: Parts, keep: KeepBest | None, device: torch.device) -> Measured:
    """Tests the last and the best epoch of every student, once each, and measures the students' cost.

    Raises:
        DivergedError: where a logit is NaN or infinite.
    """
    loader = data.eval_loader("test", 256, rank=0, world=1, device=device)
    reference = cast("Callable[[Tensor], Tensor]", parts.mode.reference)
    teacher = predict(reference, loader)[0] if parts.mode.teachers else None
    measured = Measured({}, {}, teacher, torch.empty(0))
    students = parts.mode.validated()
    for name, student in students.items():
        student.to(device).float()
        weights = {"last": {key: value.detach().clone() for key, value in student.state_dict().items()}}
        if keep is not None and keep.file(name).is_file():
            weights["best"] = _best(keep.file(name))
        test = {}
        for which, state in weights.items():
            student.load_state_dict(state)
            logits, measured.targets = predict(student_of(student), loader)
            if not logits.isfinite().all():
                raise DivergedError(f"logits of {name} became NaN or infinite, {which} epoch")
            test[which] = score(parts.task, logits, measured.targets, teacher)
        student.load_state_dict(weights["last"])
        seen = None if keep is None else keep.of[name]
        measured.weights[name] = weights
        measured.rows[name] = {
            "test": test,
            "validation": None
            if seen is None
            else {"metric": parts.task.primary, "best": seen.best, "best_epoch": seen.epoch, "last": seen.last},
            "bytes": len(save({key: value.cpu().contiguous() for key, value in weights["last"].items()})),
            "network": parts.networks[name],
        }
    parts.close()
    one = example_batch(config.data)["input"]
    for name, student in students.items():
        measured.rows[name] |= cost(student, one)
    return measured


def _best(file: Path) -> StateDict:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{file} is damaged; delete {file.parent / 'checkpoints'} to train from the start") from error


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
    """A network in eval mode, as a function from input to logits."""
    network.eval()
    return lambda input: logits_of(network(input))


def score(task: Task, logits: Tensor, targets: Tensor, teacher: Tensor | None = None) -> dict[str, float]:
    """The task's metrics of predictions and, where a teacher's logits are given, of closeness to it.

    One that is NaN or infinite, as a metric of a class without samples may be, is left out.

    Raises:
        DivergedError: where that is the primary one.
    """
    found = _computed(task.metrics(), logits, targets)
    if task.primary not in found:
        raise DivergedError(f"test {task.primary} became NaN or infinite")
    return found if teacher is None else found | _computed(task.comparisons(), logits, teacher)


def _computed(metrics: MetricCollection, logits: Tensor, others: Tensor) -> dict[str, float]:
    for metric in metrics.values():
        metric.distributed_available_fn = lambda: False  # one rank tests the whole set
    metrics.update(logits, others)
    return {name: float(value) for name, value in metrics.compute().items() if value.isfinite()}
