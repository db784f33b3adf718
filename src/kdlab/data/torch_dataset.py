"""Any torch Dataset of (input, target) samples as a source of kdlab's data.

    data=dataset data.train._target_=mypackage.Letters allow=[mypackage]

An input is a tensor, or a mapping of named ones; a target a class (-1: unlabelled), or real values for
`task=regression`. Samples are read when they are needed, in every epoch anew, by `data.workers` processes. Random
numbers that the data set itself draws are its own: they do not follow kdlab's counter rule, and a stopped run does not
repeat them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from kdlab.core.knowledge import Batch, Input
from kdlab.core.reading import collated
from kdlab.core.rng import random_state, seed_all, set_random_state
from kdlab.data.check import DataError
from kdlab.data.data import Settings, needed
from kdlab.data.split import with_test
from kdlab.data.table import Source, Table, Transform

LOOKED_AT = 64
"""Samples whose content enters the fingerprint, besides every target."""


class TorchDataset(Source):
    """The samples of up to three torch data sets.

    Args:
        train: yields (input, target), by places from 0 to its length.
        validation_set, test: likewise; None: samples of the training set are held out, a tenth as the test part.
        names: of the classes; None: numbers.
        channels, size: of pictures, for models whose config reads them; not used here.
    """

    def __init__(
        self,
        train: Dataset[Any],
        validation_set: Dataset[Any] | None = None,
        test: Dataset[Any] | None = None,
        names: tuple[str, ...] | None = None,
        channels: int | None = None,
        size: int | None = None,
    ) -> None:
        given = {"train": train, "validation_set": validation_set, "test": test}
        for name, samples in given.items():
            if samples is not None and not (isinstance(samples, Dataset) and isinstance(samples, Sized)):
                raise DataError(f"data.{name}: expected a torch Dataset with a length, got {type(samples).__name__}")
        tables = {name: None if samples is None else _table(samples, name) for name, samples in given.items()}
        assert tables["train"] is not None
        self.train, self.validation, self.test = tables["train"], tables["validation_set"], tables["test"]
        if self.test is None:
            self.train, self.test = with_test(self.train)
        count = 0 if self.train.targets is not None else int(self.train.labels.max()) + 1
        self.classes = tuple(names or map(str, range(count)))
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for name, samples in given.items():
            if samples is not None:
                digest.update(_digest(samples, tables[name]).encode())
        self.fingerprint = digest.hexdigest()

    @classmethod
    def example(cls, settings: Settings, samples: int = 2) -> Batch:
        """The first samples themselves: only they tell their shapes."""
        train = settings.get("train")
        if not isinstance(train, Dataset):
            raise DataError("data.train is not set; type data.train._target_=PACKAGE.CLASS allow=[PACKAGE]")
        with _Seeded():
            pairs = [_sample(train, place % len(train), "train") for place in range(samples)]  # type: ignore[arg-type]
        place = torch.arange(samples)
        return {"input": collated([input for input, _ in pairs]),
                "target": torch.stack([target for _, target in pairs]), "index": place,
                "view": torch.zeros_like(place)}  # fmt: skip

    @classmethod
    def outputs(cls, settings: Settings) -> int:
        return needed(settings, "classes")

    def check(self, settings: Settings) -> None:
        targets = self.train.targets
        if targets is not None and settings.get("classes") not in (None, width := targets.shape[1]):
            raise DataError(f"data.classes={settings['classes']}, but a target has {width} values; type "
                            f"data.classes={width}")  # fmt: skip
        if self.classes and settings.get("classes") not in (None, len(self.classes)):
            raise DataError(
                f"data.classes={settings['classes']}, but the training targets go up to {len(self.classes) - 1}; "
                f"type data.classes={len(self.classes)}"
            )

    def transform(self, settings: Settings, changes: Mapping[str, Any] | None) -> Transform:
        return AsTheyAre()


class AsTheyAre:
    """The transform of inputs that need none. Not pure: the data set may draw random numbers of its own."""

    pure = False
    soft = False

    def draw(self, seed: int, index: Tensor, view: Tensor) -> Tensor:
        return torch.empty(len(index), 0, device=index.device)

    def __call__(self, inputs: Input, targets: Tensor, draws: Tensor) -> tuple[Input, Tensor]:
        return inputs, targets

    def to(self, device: torch.device | str) -> AsTheyAre:
        return self


class Inputs(Dataset[Any]):
    """The inputs of a data set of (input, target), by place."""

    def __init__(self, samples: Dataset[Any]) -> None:
        self.samples = samples

    def __getitem__(self, place: int) -> Any:
        return self.samples[place][0]


def _table(samples: Dataset[Any], name: str) -> Table:
    """A part, whose targets are read once: from `targets` or `labels` of the data set where it has such."""
    count = len(samples)  # type: ignore[arg-type]  # it is Sized
    if not count:
        raise DataError(f"data.{name}: {type(samples).__name__} has no samples")
    with _Seeded():
        targets = _listed(samples, name, count)
        if targets is None:
            targets = torch.stack([_sample(samples, place, name)[1] for place in range(count)])
    if not targets.is_floating_point():
        if targets.ndim > 1:
            raise DataError(f"data.{name}: targets {list(targets.shape)}; expected one class for each sample")
        return Table(Inputs(samples), targets.long())
    targets = targets[:, None] if targets.ndim == 1 else targets
    labels = torch.where(targets.flatten(1).isnan().any(1), -1, 0)
    return Table(Inputs(samples), labels, targets=targets.float())


def _listed(samples: Dataset[Any], name: str, count: int) -> Tensor | None:
    """The targets that a data set lists, `targets` or `labels`; None where they are not those of its samples."""
    given = getattr(samples, "targets", getattr(samples, "labels", None))
    try:
        listed = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        return None
    if listed.ndim < 1 or len(listed) != count:
        return None
    # A data set may change a target as it yields it, as torchvision's do with a target_transform.
    alike = all(torch.equal(_sample(samples, place, name)[1], listed[place]) for place in _looked_at(count))
    return listed if alike else None


def _looked_at(count: int) -> list[int]:
    places: list[int] = torch.linspace(0, count - 1, min(LOOKED_AT, count)).long().tolist()
    return places


def _sample(samples: Dataset[Any], place: int, name: str) -> tuple[Any, Tensor]:
    """(input, target) of one sample.

    Raises:
        DataError: where it is neither.
    """
    sample = samples[place]
    if not isinstance(sample, tuple | list) or len(sample) != 2:
        what = f"a {type(sample).__name__}" + (f" of {len(sample)}" if isinstance(sample, tuple | list) else "")
        raise DataError(f"data.{name}: sample {place} is {what}; expected (input, target)")
    input, target = sample
    tensors = input.values() if isinstance(input, Mapping) else [input]
    if not all(isinstance(value, Tensor) for value in tensors):
        raise DataError(
            f"data.{name}: the input of sample {place} is a {type(input).__name__}; expected a tensor, or a mapping of "
            "tensors, which a transform of the data set such as ToTensor() makes"
        )
    return input, torch.as_tensor(target)


def _digest(samples: Dataset[Any], table: Table | None) -> str:
    """SHA-256 of a part: its own `fingerprint` where it has one, else its targets and a few inputs."""
    assert table is not None
    if (own := getattr(samples, "fingerprint", None)) is not None:
        return hashlib.sha256(str(own).encode()).hexdigest()
    digest = hashlib.sha256(f"{type(samples).__module__}.{type(samples).__qualname__}".encode())
    digest.update(table.supervision.contiguous().numpy().data)
    with _Seeded():
        for place in _looked_at(len(table)):
            input = samples[place][0]
            for key, value in sorted(input.items()) if isinstance(input, Mapping) else [("", input)]:
                digest.update(f"{key} {value.dtype} {list(value.shape)}".encode())
                digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


class _Seeded:
    """Random numbers that a data set draws here are the same each time, and leave the run's as they were."""

    def __enter__(self) -> None:
        self._state = random_state()
        seed_all(0)

    def __exit__(self, *error: object) -> None:
        set_random_state(self._state)
