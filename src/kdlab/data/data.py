"""What a run reads: the contract of its data, whatever they are.

`data._target_` names a DataTarget: a Source (`kdlab.data.table`), whose tables kdlab splits, shuffles, transforms and
shares among ranks (`kdlab.data.dataset`), or a class of your own that is both DataTarget and Data, built with all keys
of the data config. Before anything is read, it says what a batch will look like, so that networks and losses can be
tried.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from kdlab.config.instantiate import resolve
from kdlab.core.knowledge import Batch
from kdlab.data.check import DataError

Part = Literal["train", "validation", "test"]

Settings = Mapping[str, Any]
"""A data config, as plain data."""


class DataTarget(ABC):
    """What `data._target_` may name."""

    @classmethod
    @abstractmethod
    def example(cls, settings: Settings, samples: int = 2) -> Batch:
        """A batch of noise with the shapes and types of a data config's batches, the same each time; reads no data.

        Raises:
            UsageError: where a setting is missing.
        """

    @classmethod
    @abstractmethod
    def outputs(cls, settings: Settings) -> int:
        """How many outputs a network needs: one for each class, token or value; likewise from the config alone."""


class Batches(Protocol):
    """One rank's batches of a part, an epoch for each `iter`; its state is how many were drawn since the start."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Batch]: ...
    def set_epoch(self, epoch: int) -> None: ...
    def state_dict(self) -> dict[str, int]: ...
    def load_state_dict(self, state: Mapping[str, int]) -> None: ...
    def close(self) -> None: ...


class Data(ABC):
    """The data of a run: three parts, and loaders that walk them."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 of the content and of which of its samples lie in which part, the same on any machine."""

    @property
    @abstractmethod
    def sizes(self) -> Mapping[Part, int]:
        """How many samples each part has."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; empty where outputs are no classes of samples."""
        return ()

    @property
    def labels(self) -> Tensor | None:
        """The class of each training sample [n] int64, -1 where unlabelled; None where samples have none."""
        return None

    @property
    def views(self) -> tuple[str, ...]:
        """The further views that a loader can show of a training sample."""
        return ()

    def part(self, select: Mapping[str, Sequence[int]]) -> Data:
        """The same data with only some of their training samples, whose places and labels stay what they are.

        Args:
            select: the values that a sample may have, by what they are of: `label`, or a column of the source.

        Raises:
            DataError: where there are none, or these data cannot tell.
        """
        raise DataError(f"phases: {type(self).__name__} has no parts for phases; leave out part")

    @abstractmethod
    def steps_per_epoch(self, batch_size: int, shares: int = 1) -> int:
        """How many global batches a training epoch has.

        Args:
            batch_size: samples over all ranks.
            shares: ranks · parts that each splits its share into.
        """

    def left_out(self, batch_size: int, shares: int = 1) -> int:
        """How many samples an epoch leaves out because their batch cannot be shared."""
        return 0

    @abstractmethod
    def train_loader(
        self,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        views: Sequence[str] = (),
        accumulate: int = 1,
    ) -> Batches:
        """Shuffled batches of the training part, their order a function of seed and epoch.

        Args:
            batch_size: samples over all ranks.
            seed: of order and augmentation.
            views: further views of the same samples, by name.
            accumulate: parts that each rank splits its share of a batch into.

        Raises:
            DataError: where there is no such view, or the batch does not divide evenly.
        """

    @abstractmethod
    def eval_loader(
        self, part: Part, batch_size: int, rank: int = 0, world: int = 1, device: torch.device | str = "cpu"
    ) -> Batches:
        """All samples of a part, in order.

        Raises:
            DataError: where the part is empty.
        """

    def described(self, folder: Path) -> dict[str, Any]:
        """What `student.yaml` says of the input, as plain data; files that it names are written into the folder."""
        return {}


def target_of(settings: Settings, allow: Sequence[str] = ()) -> type[DataTarget]:
    """The class that a data config names.

    Raises:
        UsageError: where it is missing, not allowed, or no DataTarget.
    """
    found: type[DataTarget] = resolve(settings.get("_target_"), DataTarget, "data", allow=allow)
    return found


def needed(settings: Settings, key: str) -> int:
    """A count that a data config must have.

    Raises:
        DataError: where it is not set.
    """
    if not (count := settings.get(key)):
        raise DataError(f"data.{key} is not set; type data.{key}=COUNT")
    return int(count)
