"""A source of data: up to three tables of samples, and the transform that turns rows into a batch."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset

from kdlab.core.knowledge import Input
from kdlab.data.check import DataError
from kdlab.data.data import DataTarget, Settings


class Ragged(Protocol):
    """A column held in memory that is no tensor: sequences of several lengths, several tensors by name."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Tensor) -> Any:
        """What a transform receives of the given rows [m] int64 (on the CPU): tensors on the column's device."""

    def take(self, rows: Tensor) -> Ragged:
        """The given rows [m] int64 as a column."""

    def join(self, other: Any) -> Ragged:
        """These rows, then those of another column of the same class."""

    def to(self, device: torch.device | str) -> Ragged:
        """The same column on a device."""

    @property
    def bytes(self) -> int:
        """Its size in memory."""


Column = Tensor | Ragged | Dataset[Tensor]
"""[n, ...], or a column of another kind, or a data set that decodes one picture [C, H, W] on access."""


@dataclass(frozen=True, eq=False)
class Table:
    """The samples of one part.

    inputs: what networks see of each, before the transform.
    labels: [n] int64, the class of each sample, -1 where it has no target. Parts are cut evenly by them; where samples
        have no classes they are all 0.
    targets: [n, ...], where they are not the labels.
    beside: further values of each sample [n, ...], by the key under which a batch has them.
    shape: of one picture that is still to be decoded, (C, H, W), and can be held decoded; other inputs tell theirs.
    """

    inputs: Column
    labels: Tensor
    shape: tuple[int, ...] = ()
    targets: Tensor | None = None
    beside: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.inputs, Tensor):
            object.__setattr__(self, "shape", tuple(self.inputs.shape[1:]))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def bytes(self) -> int:
        """The size of all inputs in memory, decoded."""
        if isinstance(self.inputs, Dataset):  # of a size that cannot be told: never held in memory
            return len(self) * prod(self.shape) if self.shape else sys.maxsize
        return self.inputs.nbytes if isinstance(self.inputs, Tensor) else self.inputs.bytes

    @property
    def supervision(self) -> Tensor:
        """The targets [n, ...]: the labels, unless there are others."""
        return self.labels if self.targets is None else self.targets

    def take(self, rows: Tensor) -> Table:
        """The given rows [m] int64, in that order."""
        inputs: Column
        if isinstance(self.inputs, Tensor):
            inputs = self.inputs[rows]
        elif isinstance(self.inputs, Dataset):
            inputs = Subset(self.inputs, rows.tolist())
        else:
            inputs = self.inputs.take(rows)
        targets = None if self.targets is None else self.targets[rows]
        beside = {name: values[rows] for name, values in self.beside.items()}
        return Table(inputs, self.labels[rows], self.shape, targets, beside)

    def join(self, other: Table) -> Table:
        """These rows, then those of the other table."""
        one, two = self.inputs, other.inputs
        inputs: Column
        if isinstance(one, Tensor) and isinstance(two, Tensor):
            inputs = torch.cat([one, two])
        elif isinstance(one, Tensor | Dataset):
            # A tensor has the two methods of a Dataset that are used here.
            inputs = ConcatDataset(cast("tuple[Dataset[Tensor], Dataset[Tensor]]", (one, two)))
        else:
            inputs = one.join(two)
        both = None if self.targets is None or other.targets is None else torch.cat([self.targets, other.targets])
        beside = {name: torch.cat([values, other.beside[name]]) for name, values in self.beside.items()}
        return Table(inputs, torch.cat([self.labels, other.labels]), self.shape, both, beside)


class Transform(Protocol):
    """Turns rows of a table into a batch's input and targets, at the device."""

    @property
    def pure(self) -> bool:
        """Whether a sample's result depends on (seed, index, view) alone, so that a teacher's answer can be kept."""

    @property
    def soft(self) -> bool:
        """Whether targets are shares of classes, so that every sample needs a label."""

    def draw(self, seed: int, index: Tensor, view: Tensor) -> Tensor:
        """The random numbers [B, k] of the samples `index` [B] in their `view` [B], from `kdlab.data.counter_rng`."""

    def __call__(self, inputs: Any, targets: Tensor, draws: Tensor) -> tuple[Input, Tensor]:
        """The input and the targets of a batch, from rows of the table and what `draw` returned for them."""

    def to(self, device: torch.device | str) -> Any:
        """The same transform on a device."""


class Source(DataTarget):
    """Where samples come from. A class of your own is built with the keys of the data config that `prepare` does not
    read (`kdlab.data.check.SETTINGS`), and sets the fields below.

    train, validation, test: what the source itself tells apart; `kdlab.data.split` cuts what is None from `train`.
    classes: their names, by label; empty where samples have none.
    fingerprint: SHA-256 of the content, the same on any machine.
    """

    train: Table
    validation: Table | None
    test: Table | None
    classes: tuple[str, ...]
    fingerprint: str

    def check(self, settings: Settings) -> None:
        """Refuses settings that do not fit what was read.

        Raises:
            DataError: naming the key and what to type.
        """

    def with_unlabelled(self, path: str, settings: Settings) -> Source:
        """The same source with the samples of a folder, which have no labels, added to the training part.

        Raises:
            DataError: where it cannot have such.
        """
        raise DataError(f"data.unlabelled={path}: expected a number of samples, or a share of them")

    @abstractmethod
    def transform(self, settings: Settings, changes: Mapping[str, Any] | None) -> Transform:
        """The transform of training samples, with changes to `data.augment`; None: that of evaluation."""

    def described(self, settings: Settings, folder: Path) -> dict[str, Any]:
        """See `kdlab.data.data.Data.described`."""
        return {}
