"""A run's data: a source cut into parts, with its augmentation, ready to be loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from kdlab.config.instantiate import build
from kdlab.data.augment import Augment
from kdlab.data.check import AGAIN, DataError, check_settings, source_arguments
from kdlab.data.loader import Loader, last_batch, make_loader
from kdlab.data.source import with_unlabelled
from kdlab.data.split import Parts, split
from kdlab.data.table import Source


@dataclass(frozen=True, eq=False)
class Data:
    """The data of a run.

    parts: what it trains on, selects by and reports.
    augment: of the training samples; its `pure` says whether a teacher's answers can be cached.
    views: the augmentations of the further views that heads and modes may request, including `again`.
    mean, std: of pixels from 0 to 1, per channel or one for all.
    classes: their names, by label.
    resident, workers, on_corrupt: how the parts are loaded; see `make_loader`.
    drop_last: leave out the last training batch of an epoch where it is smaller than the others.
    """

    parts: Parts
    augment: Augment
    views: Mapping[str, Augment]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    channels: int
    size: int
    resident: bool | Literal["auto"] = "auto"
    workers: int = 0
    on_corrupt: str = "stop"
    drop_last: bool = False

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the data set and of which of its samples lie in which part."""
        return self.parts.fingerprint

    @property
    def labels(self) -> Tensor:
        """The labels of the training samples [n] int64, -1 where unlabelled."""
        return self.parts.train.labels

    def steps_per_epoch(self, batch_size: int, shares: int = 1) -> int:
        """How many global batches a training epoch has, the last, smaller one included where it can be shared.

        Args:
            batch_size: samples over all ranks.
            shares: ranks · parts that each splits its share into.
        """
        whole = len(self.labels) // batch_size
        return whole + bool(last_batch(len(self.labels), batch_size, shares, drop=self.drop_last)) if whole else 1

    def left_out(self, batch_size: int, shares: int = 1) -> int:
        """How many samples an epoch leaves out although `drop_last` is off: their batch cannot be shared."""
        rest = len(self.labels) % batch_size
        return 0 if self.drop_last or len(self.labels) < batch_size else rest - last_batch(rest, batch_size, shares)

    def train_loader(
        self,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        views: Sequence[str] = (),
        accumulate: int = 1,
    ) -> Loader:
        """Shuffled and augmented batches of the training part.

        Args:
            batch_size: samples over all ranks.
            seed: of order and augmentation.
            views: names from `data.views`, further views of the same samples.
            accumulate: parts that each rank splits its share of a batch into.

        Raises:
            DataError: where there is no such view, or the batch does not divide evenly.
        """
        for name in views:
            if name not in self.views:
                raise DataError(
                    f"data.views has no {name}; for a second draw of data.augment type +data.views.{name}={{}}"
                )
        return make_loader(
            self.parts.train, batch_size, self.augment, seed,
            train=True, rank=rank, world=world, device=device, views={name: self.views[name] for name in views},
            resident=self.resident, workers=self.workers, on_corrupt=self.on_corrupt,
            accumulate=accumulate, drop_last=self.drop_last,
        )  # fmt: skip

    def eval_loader(
        self,
        part: Literal["train", "validation", "test"],
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
    ) -> Loader:
        """All samples of a part, in order, normalised and otherwise unchanged.

        Raises:
            DataError: where the part is empty.
        """
        table = getattr(self.parts, part)
        if not len(table):
            raise DataError(f"there is no {part} part" + "; type data.validation=COUNT" * (part == "validation"))
        plain = Augment(self.mean, self.std, len(self.classes))
        return make_loader(
            table, batch_size, plain, seed=0,
            train=False, rank=rank, world=world, device=device,
            resident=self.resident, workers=self.workers, on_corrupt=self.on_corrupt,
        )  # fmt: skip


def load(config: Mapping[str, Any], allow: Sequence[str] = ()) -> Data:
    """The data of a run, from a data config.

    Raises:
        UsageError: where its source is not allowed, cannot be read, or does not fit the settings.
    """
    return prepare(build(source_arguments(config), Source, "data", allow=allow), config)


def prepare(source: Source, config: Mapping[str, Any]) -> Data:
    """The data of a run, from a source and the settings of a data config (`kdlab.data.check.SETTINGS`).

    Raises:
        DataError: where the settings are wrong, or do not fit the source.
    """
    check_settings(config)
    for key, has in (("classes", len(source.classes)), ("channels", source.channels), ("size", source.size)):
        if config.get(key) not in (None, has):
            raise DataError(f"data.{key}={config[key]}, but the data set has {has}; type data.{key}={has}")
    mean, std = tuple(config["mean"]), tuple(config["std"])
    settings = dict(config.get("augment") or {})
    augment = Augment(mean, std, len(source.classes), **settings)
    views = {
        name: Augment(mean, std, len(source.classes), **{**settings, **(changes or {})})
        for name, changes in {AGAIN: {}, **(config.get("views") or {})}.items()
    }
    unlabelled = config.get("unlabelled") or 0
    if isinstance(unlabelled, str):
        source, unlabelled = with_unlabelled(source, unlabelled, config.get("on_corrupt", "stop")), 0
    parts = split(source, config["validation"], config["split_seed"], config.get("subset"), unlabelled)
    if augment.soft or any(view.soft for view in views.values()):
        unlabelled = int((parts.train.labels < 0).sum())
        if unlabelled:
            raise DataError(
                f"data.augment: mixup, cutmix and label_smoothing need labels, and {unlabelled} training samples "
                "have none; set them to 0"
            )
    return Data(
        parts, augment, views, mean, std, source.classes, source.channels, source.size,
        resident=config.get("resident", "auto"), workers=config.get("workers", 0),
        on_corrupt=config.get("on_corrupt", "stop"), drop_last=config.get("drop_last", False),
    )  # fmt: skip
