"""Cuts a data set into the parts that a run trains on, selects by, and reports.

Every slice is stratified: it is a prefix of one seeded permutation in which the classes are spread evenly, so
that a slice of any size holds each class in its share of the whole, and a smaller slice lies inside a larger.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from kdlab.data.check import DataError
from kdlab.data.counter import SPLIT, order
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


def split(source: Source, validation: int | float, split_seed: int, subset: int | None = None) -> Parts:
    """The parts of a run.

    Args:
        source: where it has a validation part of its own, that one serves, whatever its size.
        validation: how many training samples to hold out, or which share of them; 0 trains on everything,
            the source's own validation part included.
        split_seed: chooses the samples that are held out, and those of `subset`.
        subset: train on this many samples alone; None: on all.

    Raises:
        DataError: where so many samples cannot be taken.
    """
    train, held_out = source.train, source.validation
    if not validation and held_out is not None:
        train, held_out = train.join(held_out), None
    rows, chosen = torch.arange(len(train)), torch.arange(0)
    if validation and held_out is None:
        chosen = _held_out(train.labels, validation, split_seed)
        rows = rows[~torch.isin(rows, chosen)]
    if subset is not None:
        if not 1 <= subset <= len(rows):
            raise DataError(f"data.subset={subset}: expected null or 1 to {len(rows)}, the samples there are")
        rows = rows[stratified(train.labels[rows], split_seed)[:subset]].sort().values
    digest = hashlib.sha256(source.fingerprint.encode())
    for part in (rows, chosen):
        digest.update(len(part).to_bytes(8) + part.numpy().tobytes())
    return Parts(
        train if len(rows) == len(train) else train.take(rows),
        train.take(chosen) if held_out is None else held_out,
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


def _held_out(labels: Tensor, validation: int | float, seed: int) -> Tensor:
    labelled = (labels >= 0).nonzero()[:, 0]
    count = validation if isinstance(validation, int) else round(validation * len(labels))
    if not 1 <= count < len(labelled):
        raise DataError(
            f"data.validation={validation}: expected 0, a count below {len(labelled)}, the labelled training "
            "samples there are, or a share of them between 0 and 1"
        )
    return labelled[stratified(labels[labelled], seed)[:count]].sort().values
