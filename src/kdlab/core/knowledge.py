"""What networks compute for a batch, and what a head may read of it.

The ground floor of kdlab: every other file may import this one, and it imports only torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

Input = Tensor | Mapping[str, Tensor]
"""What a network receives: a tensor [B, ...], or its keyword arguments, each [B, ...]."""

Batch = dict[str, Any]
"""`input` (see Input), `target`, `index` [B], `view` [B]; further views under `views`: name -> Batch."""

Kind = Literal["categorical", "real"]
"""Of a network's outputs: logits of a distribution over classes, or real values."""

Positions = tuple[int, ...] | Literal["all"]
"""Stages, counted from shallow to deep; negative numbers count from the deepest."""


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What one network computes for one batch of B samples, N predictions and C outputs.

    logits: [N, C], one row per prediction.
    embedding: [N, D], what the classifier reads; None where not requested.
    stages: shallow to deep, [B, D, H, W] or [B, L, D]; positions are fixed, None where not requested.
    preactivations: the same maps before their last activation.
    rows: [N], the sample that each prediction belongs to.
    members: the logits of each member, where this is an ensemble.
    final_map: [B, D, H, W] or [B, L, D], the map before pooling, whose mean over positions is the embedding.
    stem: the map that the stages start from, [B, D, H, W]; None where not requested, or there is none.
    """

    logits: Tensor
    embedding: Tensor | None = None
    stages: tuple[Tensor | None, ...] = ()
    preactivations: tuple[Tensor | None, ...] = ()
    rows: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    members: tuple[Tensor, ...] = ()
    final_map: Tensor | None = None
    stem: Tensor | None = None

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

    def detach(self) -> Knowledge:
        """The same knowledge, detached from its graph."""
        return self._map(Tensor.detach)

    def raised(self) -> Knowledge:
        """The same knowledge with half types raised to float32; float64 stays float64."""
        return self._map(raised)

    def part(self, start: int, stop: int) -> Knowledge:
        """The knowledge of the samples from `start` up to `stop`; each must have one row."""
        return replace(self._map(lambda value: value[start:stop]), rows=self.rows[: stop - start])

    def only(self, fields: Fields) -> Knowledge:
        """Only what `fields` asks for, so that a head cannot read what it did not declare."""
        return replace(
            self,
            embedding=self.embedding if fields.embedding else None,
            stages=_chosen(self.stages, fields.stages),
            preactivations=_chosen(self.preactivations, fields.preactivations),
            final_map=self.final_map if fields.final_map else None,
            stem=self.stem if fields.stem else None,
        )

    def _map(self, function: Any) -> Knowledge:
        def several(values: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
            return tuple(None if value is None else function(value) for value in values)

        return replace(
            self,
            logits=function(self.logits),
            embedding=None if self.embedding is None else function(self.embedding),
            stages=several(self.stages),
            preactivations=several(self.preactivations),
            members=tuple(function(member) for member in self.members),
            final_map=None if self.final_map is None else function(self.final_map),
            stem=None if self.stem is None else function(self.stem),
        )


@dataclass(frozen=True, eq=False)
class Lesson:
    """One learner's knowledge of a batch, that of the teachers it listens to, and the targets.

    teachers: detached; empty where this learner has only the labels.
    target: [N] classes (-1: unlabelled), [N, C] soft labels, or whatever the task supervises.
    index: [B], the samples' places in the training set.
    weight: [K, N], one factor per teacher and row; 0 masks the row. A scalar head counts by a teacher's mean.
    task: the factor of the supervised loss, one for all rows or [N]; 0: it does not apply.
    whole: the targets that the supervised loss is averaged over, where they are not this step's batch.
    views: further views of the same samples, where the mode or a head requested them.
    """

    learner: Knowledge
    teachers: tuple[Knowledge, ...]
    target: Tensor | None
    index: Tensor
    weight: Tensor | None = None
    task: float | Tensor = 1.0
    whole: Tensor | None = None
    views: Mapping[str, Lesson] = field(default_factory=dict)


@dataclass(frozen=True)
class Fields:
    """What is read from one network besides its logits, or what it can provide.

    `stages="all"` asks for every stage the network has, and at least one; `preactivations="all"` for those
    that its stages have, if any; `stem` for the stem, where there is one. `classifier` and `normalisations` are
    modules, passed once, in the Example.
    """

    embedding: bool = False
    stages: Positions = ()
    preactivations: Positions = ()
    classifier: bool = False
    normalisations: bool = False
    final_map: bool = False
    stem: bool = False

    def __or__(self, other: Fields) -> Fields:
        return Fields(
            self.embedding or other.embedding,
            _union(self.stages, other.stages),
            _union(self.preactivations, other.preactivations),
            self.classifier or other.classifier,
            self.normalisations or other.normalisations,
            self.final_map or other.final_map,
            self.stem or other.stem,
        )


@dataclass(frozen=True)
class Needs:
    """What a head needs in order to work; alone decides what can be combined with what.

    labels: hard class labels, of the batch (Lesson.target) and of the training set (Context.labels).
    index: a place in the training set that names the same sample in every epoch.
    views: names of further views of each sample, read from Lesson.views.
    supervised: those views that also enter the supervised loss.
    """

    learner: Fields = Fields()
    teacher: Fields = Fields()
    labels: bool = False
    index: bool = False
    views: tuple[str, ...] = ()
    supervised: tuple[str, ...] = ()

    def unmet(self, offer: Offer) -> list[str]:
        """What is needed but not offered, in words; empty where the head can work."""
        found = [
            f"{side}'s {_WORDS.get(name, name)}"
            for side, asked, given in (
                ("the learner", self.learner, offer.learner),
                ("the teacher", self.teacher, offer.teacher),
            )
            for name in ("embedding", "stages", "preactivations", "classifier", "normalisations", "final_map")
            if getattr(asked, name) and not getattr(given, name)
            if (name, getattr(asked, name)) != _OPTIONAL or not given.stages
        ]
        found += ["class labels"] if self.labels and not offer.labels else []
        found += ["fixed places in the training set"] if self.index and not offer.index else []
        return found + [f"the view {view!r}" for view in self.views if view not in offer.views]


@dataclass(frozen=True)
class Offer:
    """What a mode, its networks and the data provide across one edge."""

    learner: Fields = Fields()
    teacher: Fields = Fields()
    labels: bool = True
    index: bool = True
    views: tuple[str, ...] = ()


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


_OPTIONAL = ("preactivations", "all")
_WORDS = {"final_map": "final map (the one whose mean over its positions the classifier reads)"}


def raised(value: Tensor) -> Tensor:
    """Half types as float32; every other type as it is."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def positions(asked: Positions, count: int) -> tuple[int, ...]:
    """The stages meant by `asked` in a network of `count` stages, ascending and not negative.

    Raises:
        IndexError: where a position lies outside the network.
    """
    if asked == "all":
        return tuple(range(count))
    for position in asked:
        if not -count <= position < count:
            raise IndexError(f"stage {position} was requested, but the network has {count} stages")
    return tuple(sorted({position % count for position in asked}))


def _present(value: Tensor | None) -> Tensor:
    assert value is not None, "a head read what its `needs` do not declare"
    return value


def _chosen(values: tuple[Tensor | None, ...], asked: Positions) -> tuple[Tensor | None, ...]:
    if asked == "all":
        return values
    kept = positions(asked, len(values))
    return tuple(value if place in kept else None for place, value in enumerate(values))


def _union(one: Positions, other: Positions) -> Positions:
    if one == "all" or other == "all":
        return "all"
    return tuple(sorted({*one, *other}))


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
