"""Batches of a data set: resident on the device, or streamed through worker processes; the same batches.

A training epoch is a permutation of (seed, epoch), cut into global batches; each rank takes its share of each.
The last one is smaller where the samples do not divide (see `last_batch`). Evaluation goes through all samples in
order; the ranks share them without overlap and without padding.

The whole state of a loader is `drawn`, the number of global batches yielded since the start.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kdlab.core.knowledge import Batch
from kdlab.core.reading import collated, moved
from kdlab.core.rng import seed_of
from kdlab.data.check import DataError
from kdlab.data.counter_rng import order
from kdlab.data.decode_cache import LIMIT, decode
from kdlab.data.table import Column, Table, Transform


def last_batch(samples: int, batch_size: int, shares: int = 1, *, drop: bool = False) -> int:
    """The size of the smaller last batch of an epoch: 0 where there is none, or it is left out.

    Published loops train on it: 50 000 pictures in batches of 64 are 782 steps. It is left out where it does not divide
    evenly over the ranks and their accumulated parts, whose rows are gathered and counted alike, or where it would
    leave a share of one sample, which batch normalisation refuses.

    Args:
        shares: ranks · accumulated parts.
        drop: leave it out in any case.
    """
    rest = samples % batch_size
    return 0 if drop or rest % shares or rest < 2 * shares else rest


@dataclass(eq=False, repr=False)
class Loader:
    """Yields one rank's batches, an epoch for each `iter`; subclasses fetch the inputs.

    part: what to load.
    batch_size: samples in a global batch, over all ranks.
    transform: of their rows into a batch.
    seed: of the order and of the transform.
    train: shuffle; else all samples, in order, every time.
    rank, world: the index of this rank's share of each batch, and the number of ranks.
    accumulate: parts that a rank splits its share of a training batch into.
    drop_last: leave out a last training batch that is smaller.
    views: further views of the same samples, by name, each with its transform.
    chosen: the rows to walk [m] int64; None: all.
    device: of the batches.
    indexed: whether `index` names the same sample in every epoch.
    drawn: how many global batches were yielded since the start.

    Raises:
        DataError: where a training batch does not divide evenly.
    """

    indexed: ClassVar[bool] = True

    part: Table
    batch_size: int
    transform: Transform
    seed: int
    _: KW_ONLY
    train: bool
    rank: int = 0
    world: int = 1
    accumulate: int = 1
    drop_last: bool = False
    views: Mapping[str, Transform] = field(default_factory=dict)
    chosen: Tensor | None = None
    device: torch.device | str = "cpu"
    drawn: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.train and self.batch_size % self.world:
            fits = max(self.batch_size // self.world, 1) * self.world
            raise DataError(f"batch_size={self.batch_size} does not divide over {self.world} devices; {fits} does")
        if self.train and self.count < self.world:
            raise DataError(f"{self.count} training samples are too few for {self.world} devices; use fewer")
        if self.train:
            self.batch_size = min(self.batch_size, self.count // self.world * self.world)
        self._targets = self.part.supervision.to(self.device)
        self._beside = {name: values.to(self.device) for name, values in self.part.beside.items()}
        # Copied, because another loader may use the same transform on another device.
        self._transforms = [deepcopy(each).to(self.device) for each in (self.transform, *self.views.values())]

    @property
    def count(self) -> int:
        """How many samples an epoch walks."""
        return len(self.part if self.chosen is None else self.chosen)

    def __len__(self) -> int:
        """How many batches of an epoch hold samples for this rank."""
        whole, rest = divmod(self.count, self.batch_size)
        if self.train:
            shares = self.world * self.accumulate
            return whole + bool(last_batch(self.count, self.batch_size, shares, drop=self.drop_last))
        return whole * (self.batch_size > self.rank) + (rest > self.rank)

    def __iter__(self) -> Iterator[Batch]:
        epoch, done = divmod(self.drawn, len(self)) if self.train else (0, 0)
        for batch in self._batches(self._plan(epoch)[done:], epoch):
            self.drawn += self.train
            yield batch

    def set_epoch(self, epoch: int) -> None:
        """Goes to the start of an epoch, unless a resumed run is somewhere in it already."""
        if self.train and self.drawn // len(self) != epoch:
            self.drawn = epoch * len(self)

    def state_dict(self) -> dict[str, int]:
        """The position of the loader; the same on every rank."""
        return {"drawn": self.drawn}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continues with the next batch."""
        self.drawn = state["drawn"]

    def close(self) -> None:
        """Ends the worker processes, if any; another `iter` starts new ones."""

    def _plan(self, epoch: int) -> list[Tensor]:
        # The rows of each of our batches.
        rows = torch.arange(self.count)
        if self.train:
            rows = order(self.count, self.seed, epoch)[: len(self) * self.batch_size]
        if self.chosen is not None:
            rows = self.chosen[rows]
        ours = [batch.tensor_split(self.world)[self.rank] for batch in torch.split(rows, self.batch_size)]
        return [rows for rows in ours if len(rows)]

    def _batches(self, plan: Sequence[Tensor], epoch: int) -> Iterator[Batch]:
        raise NotImplementedError

    def _draws(self, index: Tensor, epoch: int) -> list[Tensor]:
        return [
            transform.draw(self.seed, index, torch.full_like(index, self._view(epoch, k)))
            for k, transform in enumerate(self._transforms)
        ]

    def _batch(self, inputs: Any, index: Tensor, draws: Sequence[Tensor], epoch: int) -> Batch:
        targets = self._targets[index]
        beside = {name: values[index] for name, values in self._beside.items()}
        seen: list[Batch] = []
        for k, (transform, numbers) in enumerate(zip(self._transforms, draws, strict=True)):
            input, target = transform(inputs, targets, numbers)
            view = torch.full_like(index, self._view(epoch, k))
            seen.append({"input": input, "target": target, "index": index, "view": view, **beside})
        batch, *others = seen
        return {**batch, "views": dict(zip(self.views, others, strict=True))} if others else batch

    def _view(self, epoch: int, k: int) -> int:
        return epoch * len(self._transforms) + k


@dataclass(eq=False, repr=False)
class Resident(Loader):
    """Holds the whole part on the device, pictures as uint8; gathers and transforms there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        inputs, errors = decode(self.part)
        if errors:
            raise DataError(f"{next(iter(errors.values()))}, of {len(errors)} such; repair or remove them")
        self._inputs = inputs.to(self.device)

    def _batches(self, plan: Sequence[Tensor], epoch: int) -> Iterator[Batch]:
        # Rows and random numbers of the whole epoch at once: a batch then costs a few slices.
        sizes = [len(rows) for rows in plan]
        index = torch.cat([torch.arange(0), *plan]).to(self.device)  # a rank may have no batch
        draws = [torch.split(numbers, sizes) for numbers in self._draws(index, epoch)]
        several = torch.split(index, sizes)
        # How wide a batch of sequences is, the CPU knows; asking the device would wait for it.
        places = several if isinstance(self._inputs, Tensor) else plan
        for place, rows, *numbers in zip(places, several, *draws, strict=True):
            yield self._batch(self._inputs[place], rows, numbers, epoch)


@dataclass(eq=False, repr=False)
class Streaming(Loader):
    """Decodes pictures in worker processes, for sets too large for a device; transforms on the device.

    workers: how many processes; 0 decodes in this one.
    on_corrupt: `stop` at a picture that cannot be decoded, or `skip` it: its batch is smaller by one.
    """

    _: KW_ONLY
    workers: int = 0
    on_corrupt: str = "stop"

    def __post_init__(self) -> None:
        super().__post_init__()
        workers = min(self.workers, os.cpu_count() or 1)
        self._coming: list[Tensor] = []
        self._fetch: DataLoader[_Fetched] = DataLoader(
            _Decoder(self.part.inputs),
            sampler=self._coming,
            batch_size=None,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.device(self.device).type == "cuda",
            # Else each epoch would advance the global one; seeded for data sets that draw random numbers of their own.
            generator=torch.Generator().manual_seed(seed_of(self.seed, "workers", str(self.rank))),
        )

    def close(self) -> None:
        # Leaving workers to the garbage collector, as part of a cycle, would wait five seconds for each.
        if (workers := self._fetch._iterator) is not None:
            self._fetch._iterator = None
            workers._shutdown_workers()  # type: ignore[attr-defined]  # torch has no public way

    def _batches(self, plan: Sequence[Tensor], epoch: int) -> Iterator[Batch]:
        self._coming[:] = plan
        for inputs, rows, errors in self._fetch:
            for error in errors:
                if self.on_corrupt != "skip" or not len(rows):
                    raise DataError(f"{error}; repair or remove it, or type data.on_corrupt=skip")
                warnings.warn(f"{error} and is left out", stacklevel=2)
            index = rows.to(self.device, non_blocking=True)
            yield self._batch(moved(inputs, self.device), index, self._draws(index, epoch), epoch)


_Fetched = tuple[Any, Tensor, list[str]]


class _Decoder(Dataset[_Fetched]):
    # Runs in the worker processes. Errors are sent as text: an exception would arrive with a traceback in it.
    def __init__(self, inputs: Column) -> None:
        self.inputs = inputs

    def __getitem__(self, rows: Tensor) -> _Fetched:
        if not isinstance(self.inputs, Dataset):
            return self.inputs[rows], rows, []
        pictures, errors = dict[int, Any](), list[str]()
        for row in rows.tolist():
            try:
                pictures[row] = self.inputs[row]
            except DataError as error:
                errors.append(str(error))
        inputs = collated([*pictures.values()]) if pictures else torch.empty(0)
        return inputs, torch.tensor([*pictures], dtype=torch.long), errors


def make_loader(
    part: Table,
    batch_size: int,
    transform: Transform,
    seed: int,
    *,
    resident: bool | Literal["auto"],
    workers: int,
    on_corrupt: str,
    train: bool,
    rank: int = 0,
    world: int = 1,
    accumulate: int = 1,
    drop_last: bool = False,
    views: Mapping[str, Transform] | None = None,
    chosen: Tensor | None = None,
    device: torch.device | str = "cpu",
) -> Loader:
    """A resident loader if requested, or if `auto` and the part takes at most 4 GiB in memory; else a streaming one."""
    held = part.bytes <= LIMIT if resident == "auto" else resident
    make = Resident if held else partial(Streaming, workers=workers, on_corrupt=on_corrupt)
    return make(
        part, batch_size, transform, seed,
        train=train, rank=rank, world=world, accumulate=accumulate, drop_last=drop_last, views=views or {},
        chosen=chosen, device=device,
    )  # fmt: skip
