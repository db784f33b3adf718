"""Tests trained networks once, at the end: metrics, closeness to the teacher, size and speed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torchmetrics import MetricCollection

from kdlab.config.schema import RunConfig
from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Batch
from kdlab.core.reading import ask
from kdlab.data.data import Data
from kdlab.networks.cost import costs
from kdlab.networks.weights import StateDict, cloned, load_weights, packed
from kdlab.run.builder import example_batch, outputs_of
from kdlab.tasks.task import Task
from kdlab.training.callbacks import KeepBest
from kdlab.training.loss_buffer import DivergedError
from kdlab.training.setup import Parts

Predict = Callable[[Batch], Tensor | None]
"""From a batch to logits by row [N, C]; None where there are none."""

TEACHER = "teacher"

LOGITS = 2**25
"""Of one network for one batch, 128 MiB."""


@dataclass
class Measured:
    """The measurements of a run.

    rows: per student, its part of a result.json. weights: per student, of the `last` and the `best` epoch.
    teacher: test metrics of the teachers together; None where none teaches. teachers: the cost of each.
    beside: per network that was tested with the students, its test metrics and its cost.
    """

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    weights: dict[str, dict[str, StateDict]] = field(default_factory=dict)
    teacher: dict[str, float] | None = None
    teachers: list[dict[str, Any]] = field(default_factory=list)
    beside: dict[str, dict[str, Any]] = field(default_factory=dict)


def measure(
    config: RunConfig, data: Data, parts: Parts, keep: KeepBest | None, device: torch.device,
    beside: Mapping[str, nn.Module] | None = None,
) -> Measured:  # fmt: skip
    """Tests, in one pass, the last and the best epoch of every student and whatever stands beside them, and measures
    what they cost.

    Args:
        beside: further networks for the same table, by name.

    Raises:
        DivergedError: where a logit is NaN or infinite.
    """
    beside, measured = beside or {}, Measured()
    students = parts.mode.validated()
    judged: dict[tuple[str, str], nn.Module] = {(name, ""): network.to(device) for name, network in beside.items()}
    for name, student in students.items():
        student.to(device).float()
        weights = {"last": cloned(student.state_dict())}
        if keep is not None and keep.file(name).is_file():
            weights["best"] = _best(keep.file(name))
        measured.weights[name] = weights
        for which, state in weights.items():
            judged[name, which] = _copied(student, state)
    predicts = {" ".join(key).strip(): prediction_of(network, parts.task) for key, network in judged.items()}
    batches = data.eval_loader("test", _samples(config, parts.task), rank=0, world=1, device=device)
    scores = judge(parts.task, predicts, batches,
                   parts.mode.reference if parts.mode.teachers else None)  # fmt: skip
    measured.teacher = scores.pop(TEACHER, None)
    parts.close()
    example = example_batch(config)
    teachers = parts.mode.teachers
    for teacher in teachers:
        teacher.to(torch.device("cpu"))
    spent = costs(
        {("student", name): (network, example["input"]) for name, network in students.items()}
        | {("beside", name): (network, example["input"]) for name, network in beside.items()}
        | {(TEACHER, str(place)): (teacher.network, teacher.prepared(example["input"])) for place, teacher in
           enumerate(teachers)}
    )  # fmt: skip
    measured.teachers = [spent[TEACHER, str(place)] for place in range(len(teachers))]
    measured.beside = {name: {"test": scores[name], **spent["beside", name]} for name in beside}
    for name in students:
        seen = None if keep is None else keep.of[name]
        measured.rows[name] = {
            "test": {which: scores[f"{name} {which}"] for which in measured.weights[name]},
            "validation": None
            if seen is None
            else {"metric": parts.task.primary, "best": seen.best, "best_epoch": seen.epoch, "last": seen.last},
            "bytes": len(packed(measured.weights[name]["last"])),
            "network": parts.networks[name],
            **spent["student", name],
        }
    return measured


def _samples(config: RunConfig, task: Task) -> int:
    """How many samples are tested at a time: 256, or as many as have `LOGITS` logits."""
    example = example_batch(config, samples=2)
    rows = len(task.targets(example)) / 2
    return max(1, min(256, int(LOGITS / (rows * outputs_of(config)))))


def judge(
    task: Task, networks: Mapping[str, Predict], batches: Iterable[Batch], reference: Predict | None = None
) -> dict[str, dict[str, float]]:
    """The task's metrics of each network and, with a teacher, those of closeness to it, in one pass over the batches.

    A metric that is NaN or infinite, as one of a class without samples may be, is left out.

    Args:
        networks: by name, as `prediction_of` makes them.
        reference: the teacher, whose own metrics are returned as `teacher`.

    Raises:
        DivergedError: where a logit of a network, or its primary metric, is NaN or infinite.
    """
    every = {**networks, TEACHER: reference} if reference is not None else dict(networks)
    own = {name: _collected(task.metrics()) for name in every}
    close = {name: _collected(task.comparisons()) for name in networks} if reference is not None else {}
    with torch.no_grad():
        for batch in batches:
            targets, beside = task.targets(batch).cpu(), task.beside(batch)
            # The teacher first, so that the others can be compared with it.
            taught = _logits(reference, batch, TEACHER)
            for name, predict in every.items():
                logits = taught if name == TEACHER else _logits(predict, batch, name)
                if logits is None:
                    continue
                own[name].update(logits, targets, **beside)
                if name in close and taught is not None:
                    close[name].update(logits, taught)
    found = {name: _finite(metrics) | (_finite(close[name]) if name in close else {}) for name, metrics in own.items()}
    for name, metrics in found.items():
        if task.primary not in metrics:
            raise DivergedError(f"test {task.primary} of {name} became NaN or infinite")
    return found


def prediction_of(network: nn.Module, task: Task) -> Predict:
    """A network in eval mode, as a function from a batch to logits by row [N, C]."""
    network.eval()
    return lambda batch: task.read(ask(network, batch["input"]), batch)[0]


def _logits(predict: Predict | None, batch: Batch, name: str) -> Tensor | None:
    if predict is None or (logits := predict(batch)) is None:
        return None
    logits = logits.float().cpu()
    if not logits.isfinite().all():
        raise DivergedError(f"logits of {name} became NaN or infinite")
    return logits


def _collected(metrics: MetricCollection) -> MetricCollection:
    for metric in metrics.values():
        metric.distributed_available_fn = lambda: False  # one rank tests the whole set
    return metrics


def _finite(metrics: MetricCollection) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.compute().items() if value.isfinite()}


def _copied(student: nn.Module, state: StateDict) -> nn.Module:
    copy = deepcopy(student)
    copy.load_state_dict(state)
    return copy


def _best(file: Path) -> StateDict:
    try:
        return load_weights(file)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{file} is damaged; delete {file.parent / 'checkpoints'} to train from the start") from error
