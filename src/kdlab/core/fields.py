"""What a head asks of two networks, and what modes, networks and data provide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Positions = tuple[int, ...] | Literal["all"]
"""Stages, blocks or attentions, counted from shallow to deep; negative numbers count from the deepest."""


@dataclass(frozen=True)
class Fields:
    """What is read from one network besides its logits, or what it can provide.

    `stages="all"` asks for every stage the network has, and at least one; `preactivations="all"` for those
    that its stages have, if any; `stem` for the stem, where there is one. `classifier` and `normalisations` are
    modules, passed once, in the Example. Of `blocks`, 0 is what the first one reads, and m what block m returns.
    """

    embedding: bool = False
    stages: Positions = ()
    preactivations: Positions = ()
    classifier: bool = False
    normalisations: bool = False
    final_map: bool = False
    stem: bool = False
    blocks: Positions = ()
    attention: Positions = ()

    def __or__(self, other: Fields) -> Fields:
        return Fields(
            self.embedding or other.embedding,
            _union(self.stages, other.stages),
            _union(self.preactivations, other.preactivations),
            self.classifier or other.classifier,
            self.normalisations or other.normalisations,
            self.final_map or other.final_map,
            self.stem or other.stem,
            _union(self.blocks, other.blocks),
            _union(self.attention, other.attention),
        )


@dataclass(frozen=True)
class Needs:
    """What a head needs in order to work; alone decides what can be combined with what.

    labels: hard class labels, of the batch (Lesson.target) and of the training set (Context.labels).
    index: a place in the training set that names the same sample in every epoch.
    views: names of further views of each sample, read from Lesson.views.
    supervised: those views that also enter the supervised loss.
    row_per_sample: one prediction for each sample, as a memory by sample has it.
    """

    learner: Fields = Fields()
    teacher: Fields = Fields()
    labels: bool = False
    index: bool = False
    views: tuple[str, ...] = ()
    supervised: tuple[str, ...] = ()
    row_per_sample: bool = False

    def unmet(self, offer: Offer) -> list[str]:
        """What is needed but not offered, in words; empty where the head can work."""
        found = [
            f"{side}'s {_WORDS.get(name, name)}"
            for side, asked, given in (
                ("the learner", self.learner, offer.learner),
                ("the teacher", self.teacher, offer.teacher),
            )
            for name in _REQUIRED
            if getattr(asked, name) and not getattr(given, name)
            if (name, getattr(asked, name)) != _OPTIONAL or not given.stages
        ]
        found += ["one prediction for each sample"] if self.row_per_sample and not offer.row_per_sample else []
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
    row_per_sample: bool = True


_REQUIRED = (
    "embedding", "stages", "preactivations", "classifier", "normalisations", "final_map", "blocks", "attention"
)  # fmt: skip
_OPTIONAL = ("preactivations", "all")
_WORDS = {
    "final_map": "final map (the one whose mean over its positions the classifier reads)",
    "blocks": "transformer blocks",
    "attention": "attention (seen in scaled_dot_product_attention: build it with attn_implementation=sdpa)",
}


def positions(asked: Positions, count: int) -> tuple[int, ...]:
    """The places meant by `asked` in a network that has `count`, ascending and not negative.

    Raises:
        IndexError: where a position lies outside the network.
    """
    if asked == "all":
        return tuple(range(count))
    for position in asked:
        if not -count <= position < count:
            raise IndexError(f"stage {position} was requested, but the network has {count} stages")
    return tuple(sorted({position % count for position in asked}))


def _union(one: Positions, other: Positions) -> Positions:
    if one == "all" or other == "all":
        return "all"
    return tuple(sorted({*one, *other}))
