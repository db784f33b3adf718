"""A column of token ids, whose rows have lengths of their own: one flat tensor, and where each row starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MULTIPLE = 8
"""Widths are rounded up to a multiple of this, which tensor cores want; fewer widths also compile fewer kernels."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """Row r is `ids[offsets[r] : offsets[r + 1]]`.

    ids: [T] int32, on any device.
    offsets: [n + 1] int64, rising from 0 to T, always on the CPU: widths are known without asking the device.
    padding: the id that fills what a row leaves empty.
    limit: the most positions of a batch; None: any number.
    """

    ids: Tensor
    offsets: Tensor
    padding: int = 0
    limit: int | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def bytes(self) -> int:
        """The size of all ids."""
        return self.ids.numel() * self.ids.element_size()

    @property
    def lengths(self) -> Tensor:
        """How many tokens each row has: [n] int64, on the CPU."""
        return self.offsets.diff()

    def to(self, device: torch.device | str) -> Tokens:
        """The same column with its ids on a device."""
        return Tokens(self.ids.to(device), self.offsets, self.padding, self.limit)

    def take(self, rows: Tensor) -> Tokens:
        """The given rows [m] int64, in that order."""
        lengths = self.lengths[rows]
        within, offsets = _within(lengths)
        places = self.offsets[rows].repeat_interleave(lengths) + within
        return Tokens(self.ids[places.to(self.ids.device)], offsets, self.padding, self.limit)

    def join(self, other: Tokens) -> Tokens:
        """These rows, then those of the other column."""
        offsets = torch.cat([self.offsets, other.offsets[1:] + self.offsets[-1]])
        return Tokens(torch.cat([self.ids, other.ids.to(self.ids.device)]), offsets, self.padding, self.limit)

    def __getitem__(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self.padded(rows)

    def padded(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Ids [B, L] int64 of the given rows [B], and their mask [B, L] int64: 1 a token, 0 padding, on the right.

        L is the longest of these rows, rounded up, at most `limit`; what is longer is cut.

        Args:
            rows: int64, on the CPU, so that nothing waits for the device.
        """
        longest = int((self.offsets[rows + 1] - self.offsets[rows]).max())
        width = max(1, -(-longest // MULTIPLE)) * MULTIPLE
        width = width if self.limit is None else min(width, self.limit)
        bounds = torch.stack([self.offsets[rows], self.offsets[rows + 1]], 1).to(self.ids.device, non_blocking=True)
        at = bounds[:, :1] + torch.arange(width, device=self.ids.device)
        mask = at < bounds[:, 1:]
        # Beyond the end of a row stand the next row's ids, beyond that of the last one nothing.
        ids = self.ids if len(self.ids) else self.ids.new_zeros(1)
        return torch.where(mask, ids[at.clamp_(max=len(ids) - 1)].long(), self.padding), mask.long()


def tokens(rows: Sequence[Sequence[int]], padding: int = 0, limit: int | None = None) -> Tokens:
    """A column of the given rows of ids."""
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
    _, offsets = _within(lengths)
    flat = [number for row in rows for number in row]
    return Tokens(torch.tensor(flat, dtype=torch.int32), offsets, padding, limit)


def _within(lengths: Tensor) -> tuple[Tensor, Tensor]:
    # The place of each token within its row, and the offsets of the rows.
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    return torch.arange(int(offsets[-1])) - offsets[:-1].repeat_interleave(lengths), offsets
