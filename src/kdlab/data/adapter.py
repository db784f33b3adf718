"""Any DataLoader, or any iterable of batches, as a kdlab loader."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

import torch

from kdlab.core.knowledge import Batch
from kdlab.core.reading import first_of
from kdlab.data.check import DataError


class Foreign:
    """Yields the batches of another loader, with `index` a running number and `view` the epoch.

    The order is the other loader's, so a resumed epoch repeats the one that was interrupted only if that
    loader does; the batches already drawn are skipped. Where it shuffles, an index names another sample in
    every epoch, and heads that remember samples are refused.

    Args:
        batches: yields (input, target) pairs, or dicts with `input`, `target` and possibly `index`; an input may be a
            mapping of tensors, the network's keyword arguments.
        indexed: the batches come in the same order in every epoch, or bring an `index`.
    """

    def __init__(self, batches: Iterable[Any], *, indexed: bool = False) -> None:
        self.batches = batches
        self.indexed = indexed
        self.drawn = 0
        self._skip = 0

    def __len__(self) -> int:
        """Raises TypeError where the other loader has no length."""
        return len(self.batches)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Batch]:
        epoch = -(-(self.drawn - self._skip) // len(self))  # an interrupted epoch is not continued
        skip, self._skip = self._skip, 0
        self.drawn = epoch * len(self) + skip
        samples = 0
        for place, given in enumerate(self.batches):
            batch = as_batch(given, samples, epoch)
            samples += len(batch["index"])
            if place >= skip:
                self.drawn += 1
                yield batch

    def set_epoch(self, epoch: int) -> None:
        """Goes to the start of an epoch, unless a resumed run is already within it."""
        if self.drawn // len(self) != epoch:
            self.drawn, self._skip = epoch * len(self), 0
        sampler: Any = getattr(self.batches, "sampler", None)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)

    def state_dict(self) -> dict[str, int]:
        """The position of the loader."""
        return {"drawn": self.drawn}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continues with the next batch, if the other loader repeats its order."""
        self.drawn = state["drawn"]
        self._skip = self.drawn % len(self)


def smallest(batches: Iterable[Any], first: int) -> int:
    """How many samples the smallest batch has, as far as can be told without drawing batches.

    Args:
        batches: a DataLoader, a list of batches, or any iterable.
        first: how many samples its first batch has.
    """
    if isinstance(batches, Sequence):
        return min(len(as_batch(given, 0, 0)["index"]) for given in batches)
    size, data = getattr(batches, "batch_size", None), getattr(batches, "dataset", None)
    if size and isinstance(data, Sized) and isinstance(getattr(batches, "sampler", None), Sized):
        samples = len(batches.sampler)  # type: ignore[attr-defined]  # looked at above
        return first if batches.drop_last else min(first, samples % size or first)  # type: ignore[attr-defined]
    return first


def as_batch(given: Any, first: int, epoch: int) -> Batch:
    """A batch of another loader as a kdlab batch.

    Args:
        given: an (input, target) pair, or a dict.
        first: the number of its first sample.
        epoch: becomes its `view`.

    Raises:
        DataError: where it is neither.
    """
    if isinstance(given, Mapping):
        if not {"input", "target"} <= given.keys():
            raise DataError(f"a batch has the keys {', '.join(map(str, given))}; expected input and target")
        batch = dict(given)
    elif isinstance(given, (tuple, list)) and len(given) == 2:
        batch = dict(zip(("input", "target"), given, strict=True))
    else:
        many = f" of {len(given)}" if isinstance(given, (tuple, list)) else ""
        raise DataError(f"a batch is a {type(given).__name__}{many}; expected a pair (input, target) or a dict of them")
    place = torch.arange(first, first + len(batch["target"]), device=first_of(batch["input"]).device)
    batch.setdefault("index", place)
    return {**batch, "view": torch.full_like(batch["index"], epoch)}
