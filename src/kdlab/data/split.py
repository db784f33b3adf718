"""Cuts a data set into the parts that a run trains on, selects by, and reports.

Every slice is stratified: it is a prefix of one seeded permutation in which the classes are spread evenly, so
that a slice of any size has the class proportions of the whole, and a larger slice contains a smaller one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kdlab.data.check import DataError
from kdlab.data.counter_rng import SPLIT, order
from kdlab.data.table import Source, Table


@dataclass(frozen=True, eq=False)
class Parts:
    """What a run trains on, selects by (empty: it selects nothing) and reports (empty: it reports nothing).

    fingerprint: SHA-256 of the data set and of which of its rows lie in which part.
    """

    train: Table
    validation: Table
    test: Table
    fingerprint: str


def split(
    source: Source, validation: int | float, split_seed: int, subset: int | None = None, unlabelled: int | float = 0
) -> Parts:
    """The parts of a run.

    Args:
        source: where it has a validation part, that one is used, whatever its size.
        validation: how many training samples to hold out, or which share of them; 0 trains on everything,
            the source's own validation part included.
        split_seed: chooses the samples that are held out, and those of `subset`.
        subset: train on this many samples alone; None: on all.
        unlabelled: how many of the training samples, or which share, lose their label.

    Raises:
        DataError: where there are not that many samples.
    """
    train, own = source.train, source.validation
    if not validation and own is not None:
        train, own = train.join(own), None
    chosen = torch.arange(0)
    if validation and own is None:
        chosen = held_out(train.labels, _count(validation, train.labels), split_seed)
    rows = without(chosen, len(train))
    if subset is not None:
        if not 1 <= subset <= len(rows):
            raise DataError(f"data.subset={subset}: expected null or 1 to {len(rows)}, the number of samples")
        rows = rows[stratified(train.labels[rows], split_seed)[:subset]].sort().values
    taken = train if len(rows) == len(train) else train.take(rows)
    labels = _withheld(taken.labels, unlabelled, split_seed)
    digest = hashlib.sha256(source.fingerprint.encode())
    for part in (rows, chosen, *([labels] if unlabelled else [])):
        digest.update(len(part).to_bytes(8) + part.numpy().tobytes())
    return Parts(
        _relabelled(taken, labels) if unlabelled else taken,
        train.take(chosen) if own is None else own,
        train.take(chosen[:0]) if source.test is None else source.test,
        digest.hexdigest(),
    )


def stratified(labels: Tensor, seed: int) -> Tensor:
    """A seeded permutation [n] of rows with these labels [n], in which every class is spread evenly."""
    shuffled = order(len(labels), seed, 0, SPLIT)
    _, classes, counts = torch.unique(labels[shuffled], return_inverse=True, return_counts=True)
    by_class = classes.argsort(stable=True)
    before = counts.cumsum(0) - counts
    place = torch.arange(len(labels)) - before[classes[by_class]]
    spread = torch.empty(len(labels), dtype=torch.float64)
    spread[by_class] = (place + 0.5).double() / counts[classes[by_class]]
    return shuffled[spread.argsort(stable=True)]


def held_out(labels: Tensor, count: int, seed: int) -> Tensor:
    """The rows [count], in order, of a stratified slice of the labelled samples among these labels [n]."""
    labelled = (labels >= 0).nonzero()[:, 0]
    return labelled[stratified(labels[labelled], seed)[:count]].sort().values


TEST_SHARE = 0.1
"""Where a source has no test part, this share of its labelled training samples becomes one, the same in every run."""


def with_test(table: Table, count: int | None = None) -> tuple[Table, Table]:
    """A table cut into training and test part; `count`: samples of the latter, None: a tenth."""
    count = max(1, round(TEST_SHARE * int((table.labels >= 0).sum()))) if count is None else count
    rows = held_out(table.labels, count, seed=0)
    return table.take(without(rows, len(table))), table.take(rows)


def without(rows: Tensor, count: int) -> Tensor:
    """All of `count` rows but these, in order."""
    kept = torch.ones(count, dtype=torch.bool)
    kept[rows] = False
    return kept.nonzero()[:, 0]


def _withheld(labels: Tensor, unlabelled: int | float, seed: int) -> Tensor:
    count = unlabelled if isinstance(unlabelled, int) else round(unlabelled * len(labels))
    if not 0 <= count < len(labels):
        raise DataError(
            f"data.unlabelled={unlabelled}: expected a count below {len(labels)}, the number of training samples, "
            "a share of them between 0 and 1, or a folder of pictures"
        )
    kept = stratified(labels, seed)[: len(labels) - count]
    return torch.full_like(labels, -1).index_copy(0, kept, labels[kept])


def _relabelled(table: Table, labels: Tensor) -> Table:
    """A table with some labels taken away, and the targets of those samples: -1, or NaN where they are real."""
    targets = table.targets
    if targets is not None:
        targets = targets.clone()
        targets[labels < 0] = float("nan") if targets.is_floating_point() else -1
    return replace(table, labels=labels, targets=targets)


def _count(validation: int | float, labels: Tensor) -> int:
    count = validation if isinstance(validation, int) else round(validation * len(labels))
    labelled = int((labels >= 0).sum())
    if 0 < validation < 1 and not count:
        raise DataError(f"data.validation={validation}: a share of {len(labels)} training samples that rounds to none")
    if not 1 <= count < labelled:
        raise DataError(
            f"data.validation={validation}: expected 0, a count below {labelled}, the number of labelled training "
            "samples, or a share of them between 0 and 1"
        )
    return count
