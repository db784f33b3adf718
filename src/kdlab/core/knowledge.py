"""What networks compute for a batch, and what a head may read of it.

The ground floor of kdlab: every other file may import this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from kdlab.core.attention import Attention as Attention
from kdlab.core.deferred import Deferred, Logits, unread
from kdlab.core.fields import Fields as Fields
from kdlab.core.fields import Needs as Needs
from kdlab.core.fields import Offer as Offer
from kdlab.core.fields import Positions as Positions
from kdlab.core.fields import positions as positions

V = TypeVar("V")

Input = Tensor | Mapping[str, Tensor]
"""What a network receives: a tensor [B, ...], or its keyword arguments, each [B, ...]."""

Batch = dict[str, Any]
"""`input` (see Input), `target`, `index` [B], `view` [B]; further views under `views`: name -> Batch."""

Kind = Literal["categorical", "real"]
"""Of a network's outputs: logits of a distribution over classes, or real values."""


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What one network computes for one batch of B samples, N predictions and C outputs.

    logits: [N, C], one row per prediction; where they are `Deferred`, computed when they are first read.
    embedding: [N, D], what the classifier reads; None where not requested.
    stages: shallow to deep, [B, D, H, W] or [B, L, D]; positions are fixed, None where not requested.
    preactivations: the same maps before their last activation.
    rows: [N], the sample that each prediction belongs to.
    members: the logits of each member, where this is an ensemble.
    final_map: [B, D, H, W] or [B, L, D], the map before pooling, whose mean over positions is the embedding.
    stem: the map that the stages start from, [B, D, H, W]; None where not requested, or there is none.
    valid: [B, L] bool, the positions of a sequence that hold tokens; None where all do.
    blocks: what the first transformer block reads and what every block returns, [B, L, D]; None where not requested.
    attention: what each attention compared, in the order in which they ran; None where not requested.
    """

    logits: Logits = Logits()  # noqa: RUF009  # a descriptor, no default
    embedding: Tensor | None = None
    stages: tuple[Tensor | None, ...] = ()
    preactivations: tuple[Tensor | None, ...] = ()
    rows: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    members: tuple[Tensor, ...] = ()
    final_map: Tensor | None = None
    stem: Tensor | None = None
    valid: Tensor | None = None
    blocks: tuple[Tensor | None, ...] = ()
    attention: tuple[Attention | None, ...] = ()

    @property
    def count(self) -> int:
        """N, known before the logits are."""
        return len(unread(self))

    def stage(self, position: int) -> Tensor:
        """One stage's map, which its head declared in `needs`."""
        return _present(self.stages[position])

    def preactivation(self, position: int) -> Tensor:
        """One stage's map before its last activation, which its head declared in `needs`."""
        return _present(self.preactivations[position])

    def vector(self) -> Tensor:
        """The embedding [N, D], which its head declared in `needs`."""
        return _present(self.embedding)

    def before_pooling(self) -> Tensor:
        """The final map, which its head declared in `needs`."""
        return _present(self.final_map)

    def block(self, position: int) -> Tensor:
        """One block's output [B, L, D], or the first one's input, which its head declared in `needs`."""
        return _present(self.blocks[position])

    def attended(self, position: int) -> Attention:
        """What one attention compared, which its head declared in `needs`."""
        return _present(self.attention[position])

    def detach(self) -> Knowledge:
        """The same knowledge, detached from its graph."""
        return self._map(Tensor.detach)

    def raised(self) -> Knowledge:
        """The same knowledge with half types raised to float32; float64 stays float64."""
        return self._map(raised)

    def part(self, start: int, stop: int) -> Knowledge:
        """The knowledge of the samples from `start` up to `stop`; each must have one row."""
        whole = replace(self, logits=self.logits)
        return replace(whole._map(lambda value: value[start:stop]), rows=self.rows[: stop - start])

    def between(self, start: int, stop: int) -> Knowledge:
        """The predictions alone of the rows from `start` up to `stop`."""
        members = tuple(member[start:stop] for member in self.members)
        return Knowledge(unread(self)[start:stop], rows=self.rows[start:stop], members=members)

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Knowledge:
        """The same knowledge with a function of each row's logits in their place, deferred where they are."""
        return replace(self, logits=self._said(function))

    def only(self, fields: Fields) -> Knowledge:
        """Only what `fields` asks for, so that a head cannot read what it did not declare."""
        return replace(
            self,
            logits=unread(self),
            embedding=self.embedding if fields.embedding else None,
            stages=_chosen(self.stages, fields.stages),
            preactivations=_chosen(self.preactivations, fields.preactivations),
            final_map=self.final_map if fields.final_map else None,
            stem=self.stem if fields.stem else None,
            blocks=_chosen(self.blocks, fields.blocks),
            attention=_chosen(self.attention, fields.attention),
        )

    def _said(self, function: Callable[[Tensor], Tensor]) -> Tensor | Deferred:
        given = unread(self)
        return given.map(function) if isinstance(given, Deferred) else function(given)

    def _map(self, function: Any) -> Knowledge:
        def one(value: Tensor | None) -> Tensor | None:
            return None if value is None else function(value)

        return replace(
            self,
            logits=self._said(function),
            embedding=one(self.embedding),
            stages=tuple(map(one, self.stages)),
            preactivations=tuple(map(one, self.preactivations)),
            members=tuple(function(member) for member in self.members),
            final_map=one(self.final_map),
            stem=one(self.stem),
            valid=one(self.valid),
            blocks=tuple(map(one, self.blocks)),
            attention=tuple(None if seen is None else seen.map(function) for seen in self.attention),
        )


@dataclass(frozen=True, eq=False)
class Lesson:
    """One learner's knowledge of a batch, that of the teachers it listens to, and the targets.

    teachers: detached; empty where this learner has only the labels.
    target: [N] classes (-1: unlabelled), [N, C] soft labels, or whatever the task supervises.
    index: [B], the samples' places in the training set.
    weight: [K, N], one factor per teacher and row; 0 masks the row. A scalar head counts by a teacher's mean.
    task: the factor of the supervised loss, one for all rows or [N]; 0: it does not apply.
    among: [C] bool, the classes that the supervised loss chooses from; None: all.
    whole: the targets that the supervised loss is averaged over, where they are not this step's batch.
    views: further views of the same samples, where the mode or a head requested them.
    """

    learner: Knowledge
    teachers: tuple[Knowledge, ...]
    target: Tensor | None
    index: Tensor
    weight: Tensor | None = None
    task: float | Tensor = 1.0
    among: Tensor | None = None
    whole: Tensor | None = None
    views: Mapping[str, Lesson] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Example:
    """One network's knowledge of a small batch, with its modules that a head may read.

    classifier: the linear layer that turns the embedding into logits; None where there is none.
    normalisations: per stage, the last normalisation before its last activation, or None.
    layers: per stage, the name of the layer it was tapped at.
    final_layer: that of the final map.
    input: the small batch itself.
    """

    knowledge: Knowledge
    classifier: nn.Linear | None = None
    normalisations: tuple[nn.Module | None, ...] = ()
    layers: tuple[str, ...] = ()
    name: str = "network"
    final_layer: str | None = None
    input: Input | None = None


@dataclass(frozen=True, eq=False)
class Context:
    """What a head may know of the training set: counts of classes and samples and, where requested, labels
    [samples]."""

    classes: int
    samples: int
    labels: Tensor | None = None


class Progress(NamedTuple):
    """Where training stands: epochs and steps done, and how many there will be in this phase."""

    epoch: int = 0
    step: int = 0
    epochs: int = 1
    steps: int = 1


def raised(value: Tensor) -> Tensor:
    """Half types as float32; every other type as it is."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def _present(value: V | None) -> V:
    assert value is not None, "a head read what its `needs` do not declare"
    return value


def _chosen(values: tuple[V | None, ...], asked: Positions) -> tuple[V | None, ...]:
    if asked == "all":
        return values
    kept = positions(asked, len(values))
    return tuple(value if place in kept else None for place, value in enumerate(values))


def shares(batch: Batch, count: int) -> Iterator[Batch]:
    """A batch in `count` parts of equal size, or nearly so, its further views too."""
    if count == 1:
        yield batch
        return
    edges = [round(place * len(batch["index"]) / count) for place in range(count + 1)]
    yield from (samples_of(batch, start, stop) for start, stop in pairwise(edges))


def samples_of(batch: Mapping[str, Any], start: int, stop: int) -> Batch:
    """The samples of a batch from `start` up to `stop`; an entry that is of no sample, a number, stays as it is."""

    def part(value: Any) -> Any:
        if isinstance(value, Mapping):
            return samples_of(value, start, stop)
        return value[start:stop] if isinstance(value, list) or (isinstance(value, Tensor) and value.ndim) else value

    return {key: part(value) for key, value in batch.items()}
