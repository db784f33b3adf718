"""The workload of the benchmarks: two pairs of networks, random images, and their training by kdlab."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from kdlab.bench.interleave import Throttle
from kdlab.config.schema import RunConfig
from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Batch
from kdlab.data.dataset import TableData, prepare
from kdlab.data.loader import Loader
from kdlab.data.pictures import PictureSource
from kdlab.data.table import Table
from kdlab.run.builder import outputs_of
from kdlab.run.derive import compose_run
from kdlab.run.fit import Trained, fit
from kdlab.run.result import provenance

PRECISIONS = ("32-true", "64-true", "bf16-mixed")
"""Those that the hand-written loop supports too."""


@dataclass(frozen=True)
class Pair:
    """A teacher and a student. target: the most that a step may cost, relative to a hand-written loop."""

    title: str
    overrides: tuple[str, ...]
    target: float


PAIRS = {
    "standard": Pair(
        "resnet32x4 → resnet8x4, 32×32", ("data=cifar100", "teacher=resnet32x4", "model=resnet8x4"), target=1.03
    ),
    "small": Pair(
        "vgg8 → vgg8, 1/16 wide, 8×8",
        ("data=digits", "teacher=vgg8", "teacher.model.width=0.0625", "model=vgg8", "model.width=0.0625"),
        target=1.25,
    ),
}


@dataclass(frozen=True)
class Workload:
    """How a benchmark runs.

    blocks, steps: how many blocks are timed, of how many steps.
    samples: of the data set; as many as CIFAR-100 has, so that memories of samples have their usual size.
    """

    pair: Pair
    blocks: int
    steps: int
    batch_size: int = 64
    samples: int = 50_000
    precision: str = "32-true"
    channels_last: bool = False

    def __post_init__(self) -> None:
        if self.blocks < 2 or self.steps < 1:
            raise UsageError(
                f"--blocks {self.blocks} --steps {self.steps}: expected 2 or more blocks of 1 step or more"
            )
        if self.total > self.samples // self.batch_size:
            raise UsageError(
                f"--blocks {self.blocks} --steps {self.steps}: {self.total} steps, with a warm-up block; "
                f"expected at most {self.samples // self.batch_size}, an epoch of --samples {self.samples}"
            )

    @property
    def total(self) -> int:
        """All steps, warm-up included."""
        return (self.blocks + 1) * self.steps

    @property
    def device(self) -> torch.device:
        """Where everything runs: a GPU if there is one."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def config(self, *overrides: str) -> RunConfig:
        """A run of one epoch over the pair."""
        return compose_run(
            [*self.pair.overrides, "logger=csv", "trainer.progress=false",
             "trainer.max_epochs=1", f"trainer.batch_size={self.batch_size}",
             f"trainer.precision={self.precision}", f"trainer.channels_last={str(self.channels_last).lower()}",
             f"trainer.accelerator={self.device.type}", *overrides]
        )  # fmt: skip

    def data(self, config: RunConfig) -> TableData:
        """Random images with random labels, in the shape of the config's data set."""
        channels, size, classes = config.data.channels or 1, config.data.size or 32, outputs_of(config)
        generator = torch.Generator().manual_seed(0)

        def table(rows: int) -> Table:
            shape = (rows, channels, size, size)
            images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
            return Table(images, torch.randint(classes, (rows,), generator=generator))

        names = tuple(map(str, range(classes)))
        parts = table(self.samples), table(2), table(2)
        return prepare(PictureSource(*parts, names, channels, size, "noise"), config.data.plain())


@dataclass(frozen=True, eq=False)
class ThrottledData(TableData):
    """Data whose training batches pass through a throttle."""

    throttle: Throttle = field(kw_only=True)

    def train_loader(self, *args: Any, **kwargs: Any) -> Any:
        return _ThrottledLoader(super().train_loader(*args, **kwargs), self.throttle)


class _ThrottledLoader:
    def __init__(self, loader: Loader, throttle: Throttle) -> None:
        self._loader, self._throttle = loader, throttle

    def __iter__(self) -> Iterator[Batch]:
        return self._throttle(self._loader)

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def platform_loop(config: RunConfig, data: TableData, folder: Path) -> Callable[[Throttle], Trained]:
    """A run as kdlab trains it, Lightning, log and checkpoints included."""
    known = {each.name: getattr(data, each.name) for each in fields(data)}

    def loop(throttle: Throttle) -> Trained:
        trained = fit(config, ThrottledData(**known, throttle=throttle), folder, job="bench", one_device=True)
        assert trained is not None
        return trained

    return loop


def hardware() -> str:
    """The machine and the versions, in one line."""
    found = provenance()
    machine, versions = found["hardware"], found["versions"]
    where = machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads"
    return f"{where}; torch {versions['torch']}, lightning {versions['lightning']}, Python {platform.python_version()}"
