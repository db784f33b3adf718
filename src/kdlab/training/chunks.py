"""The losses of a vocabulary in parts: its logits, and what losses make of them, are never whole in memory.

A response loss holds about five tensors of rows · classes beside the logits of both networks. Where its value for a
row depends on that row alone, rows are compared in parts of `trainer.chunk_rows`; a part's tensors are dropped and
computed again in the backward pass (Chen et al. Training Deep Nets with Sublinear Memory Cost. 2016), from the
embeddings where the networks let their logits be deferred (`kdlab.networks.withheld`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kdlab.core.knowledge import Lesson
from kdlab.training.terms import Placed

ENTRIES = 2**25
"""Of a tensor that is still computed whole where the setting is `auto`: 128 MiB in float32."""

ChunkRows = int | Literal["auto"] | None


def rows_at_once(setting: ChunkRows, rows: int, classes: int) -> int | None:
    """How many rows a part has; None where all are computed at once.

    Args:
        setting: `trainer.chunk_rows`; auto: parts of `ENTRIES` where there are more; None: never in parts.
        rows: how many there are.
        classes: outputs of a row.
    """
    size = max(1, ENTRIES // classes) if setting == "auto" else setting
    return None if size is None or rows <= size else size


def by_row(
    lessons: Sequence[Lesson],
    placed: Sequence[Placed],
    size: int,
    task: Callable[[Lesson], Tensor],
    compare: Callable[[Placed, Lesson], Tensor],
) -> dict[Lesson | Placed, Tensor]:
    """The values [N] of rows, of the task by lesson and of heads by instance, of all that can be compared in parts.

    Args:
        lessons: one per learner.
        placed: the heads that take part.
        size: how many rows a part has; fewer are left to be compared at once.
        task: the supervised loss of each row of a lesson.
        compare: what a head says of a lesson.
    """
    found: dict[Lesson | Placed, Tensor] = {}
    for place, lesson in enumerate(lessons):
        count = lesson.learner.count
        own = [each for each in placed if each.edge.learner == place and each.rowwise]
        # Networks of different tokenizers have different rows.
        own = [each for each in own if lesson.teachers[each.edge.teacher].count == count]
        asked: list[Lesson | Placed] = [*own] if lesson.target is None else [lesson, *own]
        if asked and count > size:
            compute = partial(_part, lesson, own, task, compare)
            found |= dict(zip(asked, in_chunks(compute, count, size), strict=True))
    return found


def _part(
    lesson: Lesson, placed: Sequence[Placed], task: Callable[[Lesson], Tensor],
    compare: Callable[[Placed, Lesson], Tensor], start: int, stop: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    part = rows_of(lesson, start, stop)
    logits = part.learner.logits
    supervised = () if part.target is None else (task(part),)
    with torch.autocast(logits.device.type, enabled=False):
        return (*supervised, *(compare(each, part) for each in placed))


def in_chunks(compute: Callable[[int, int], tuple[Tensor, ...]], count: int, size: int) -> list[Tensor]:
    """Values [count] of rows, computed in parts and once more in the backward pass.

    Args:
        compute: from (start, stop) to several values of each of these rows, [stop − start].
        count: how many rows there are.
        size: how many a part has.
    """
    edges = range(0, count, size)
    again = partial(checkpoint, compute, use_reentrant=False, preserve_rng_state=False)  # nothing is drawn at random
    parts = [again(start, min(start + size, count)) for start in edges]
    return [torch.cat(values) for values in zip(*parts, strict=True)]


def rows_of(lesson: Lesson, start: int, stop: int) -> Lesson:
    """The rows of a lesson from `start` up to `stop`: predictions, targets and weights alone."""
    count = lesson.learner.count
    return replace(
        lesson,
        learner=lesson.learner.between(start, stop),
        teachers=tuple(each.between(start, stop) if each.count == count else each for each in lesson.teachers),
        target=None if lesson.target is None else lesson.target[start:stop],
        weight=None if lesson.weight is None else lesson.weight[:, start:stop],
        views={},
    )
