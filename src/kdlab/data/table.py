"""A data set: pictures with labels, in up to three parts."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import cast

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset

Images = Tensor | Dataset[Tensor]
"""uint8 [n, C, H, W], or a data set that decodes one picture [C, H, W] on access."""


@dataclass(frozen=True, eq=False)
class Table:
    """The pictures of one part, and their labels [n] int64, -1 where unlabelled.

    shape: (C, H, W) of every picture; a tensor has its own.
    """

    images: Images
    labels: Tensor
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.images, Tensor):
            object.__setattr__(self, "shape", tuple(self.images.shape[1:]))
        assert len(self.shape) == 3, "pictures that are still encoded do not tell their shape"

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def bytes(self) -> int:
        """The size of all pictures, decoded."""
        return len(self) * prod(self.shape)

    def take(self, rows: Tensor) -> Table:
        """The given rows [m] int64, in that order."""
        if isinstance(self.images, Tensor):
            return Table(self.images[rows], self.labels[rows])
        return Table(Subset(self.images, rows.tolist()), self.labels[rows], self.shape)

    def join(self, other: Table) -> Table:
        """These rows, then those of the other table."""
        labels = torch.cat([self.labels, other.labels])
        if isinstance(self.images, Tensor) and isinstance(other.images, Tensor):
            return Table(torch.cat([self.images, other.images]), labels)
        # A tensor has the two methods of a Dataset that are used here.
        both = cast("tuple[Dataset[Tensor], Dataset[Tensor]]", (self.images, other.images))
        return Table(ConcatDataset(both), labels, self.shape)


@dataclass(frozen=True, eq=False)
class Source:
    """A data set from its source.

    classes: their names, by label.
    channels: 1 (grey) or 3 (RGB).
    size: height and width in pixels.
    fingerprint: SHA-256 of its content, the same on any machine.
    """

    train: Table
    validation: Table | None
    test: Table | None
    classes: tuple[str, ...]
    channels: int
    size: int
    fingerprint: str
