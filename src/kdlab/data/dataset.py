"""The data of most runs: the tables of a source, cut into parts, with the transform of their samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from kdlab.config.instantiate import build
from kdlab.core.errors import nearest
from kdlab.data.check import AGAIN, DataError, check_settings, source_arguments
from kdlab.data.data import Data, Part, Settings, target_of
from kdlab.data.loader import Loader, last_batch, make_loader
from kdlab.data.split import Parts, split
from kdlab.data.table import Source, Transform

__all__ = ["Data", "TableData", "load", "prepare"]


@dataclass(frozen=True, eq=False)
class TableData(Data):
    """The data of a run, from tables.

    source: of the tables.
    settings: the data config.
    parts: what it trains on, selects by and reports.
    transform: of the training samples; its `pure` says whether a teacher's answers can be cached.
    further: the transforms of the further views that heads and modes may request, including `again`.
    chosen: the rows of the training part that are trained on [m] int64; None: all.
    """

    source: Source
    settings: Settings
    parts: Parts
    transform: Transform
    further: Mapping[str, Transform]
    chosen: Tensor | None = None

    @property
    def fingerprint(self) -> str:
        return self.parts.fingerprint

    @property
    def sizes(self) -> Mapping[Part, int]:
        return {"train": len(self.parts.train), "validation": len(self.parts.validation), "test": len(self.parts.test)}

    @property
    def classes(self) -> tuple[str, ...]:
        return self.source.classes

    @property
    def labels(self) -> Tensor | None:
        labels = self.parts.train.labels
        return (labels if self.chosen is None else labels[self.chosen]) if self.classes else None

    @property
    def views(self) -> tuple[str, ...]:
        return tuple(self.further)

    def part(self, select: Mapping[str, Sequence[int]]) -> TableData:
        train = self.parts.train
        kept = torch.ones(len(train), dtype=torch.bool)
        for name, values in select.items():
            column = train.labels if name == "label" and self.classes else train.beside.get(name)
            if column is None:
                known = [*(["label"] if self.classes else []), *train.beside]
                raise DataError(f"phases: part.{name}: these data have no such column{nearest(name, known)}")
            kept &= torch.isin(column, torch.tensor(values))
        if kept.sum() < 2:
            raise DataError(
                f"phases: part={dict(select)} leaves {int(kept.sum())} training samples; expected 2 or more"
            )
        return replace(self, chosen=kept.nonzero()[:, 0])

    def steps_per_epoch(self, batch_size: int, shares: int = 1) -> int:
        """How many global batches a training epoch has, the last, smaller one included where it can be shared."""
        samples = self._count
        whole = samples // batch_size
        return whole + bool(last_batch(samples, batch_size, shares, drop=self._drop_last)) if whole else 1

    def left_out(self, batch_size: int, shares: int = 1) -> int:
        """How many samples an epoch leaves out although `drop_last` is off: their batch cannot be shared."""
        samples = self._count
        rest = samples % batch_size
        return 0 if self._drop_last or samples < batch_size else rest - last_batch(rest, batch_size, shares)

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
        for name in views:
            if name not in self.further:
                raise DataError(
                    f"data.views has no {name}; for a second draw of data.augment type +data.views.{name}={{}}"
                )
        return make_loader(
            self.parts.train, batch_size, self.transform, seed,
            train=True, rank=rank, world=world, device=device, views={name: self.further[name] for name in views},
            accumulate=accumulate, drop_last=self._drop_last, chosen=self.chosen, **self._fetched(),
        )  # fmt: skip

    def eval_loader(
        self, part: Part, batch_size: int, rank: int = 0, world: int = 1, device: torch.device | str = "cpu"
    ) -> Loader:
        """All samples of a part, in order, without augmentation."""
        table = getattr(self.parts, part)
        if not len(table):
            raise DataError(f"there is no {part} part" + "; type data.validation=COUNT" * (part == "validation"))
        return make_loader(
            table, batch_size, self.source.transform(self.settings, None), seed=0,
            train=False, rank=rank, world=world, device=device, **self._fetched(),
        )  # fmt: skip

    def described(self, folder: Path) -> dict[str, Any]:
        return self.source.described(self.settings, folder)

    @property
    def _count(self) -> int:
        return len(self.parts.train if self.chosen is None else self.chosen)

    @property
    def _drop_last(self) -> bool:
        return bool(self.settings.get("drop_last", False))

    def _fetched(self) -> dict[str, Any]:
        resident: bool | Literal["auto"] = self.settings.get("resident", "auto")
        return {"resident": resident, "workers": self.settings.get("workers", 0),
                "on_corrupt": self.settings.get("on_corrupt", "stop")}  # fmt: skip


def load(settings: Settings, allow: Sequence[str] = ()) -> Data:
    """The data of a run, from a data config.

    Raises:
        UsageError: where its class is not allowed, it cannot be read, or does not fit the settings.
    """
    if issubclass(target_of(settings, allow), Source):
        return prepare(build(source_arguments(settings), Source, "data", allow=allow), settings)  # type: ignore[type-abstract]  # mypy #4717
    return build(settings, Data, "data", allow=allow)  # type: ignore[type-abstract]


def prepare(source: Source, settings: Settings) -> TableData:
    """The data of a run, from a source and the settings of a data config (`kdlab.data.check.SETTINGS`).

    Raises:
        DataError: where the settings are wrong, or do not fit the source.
    """
    check_settings(settings)
    source.check(settings)
    transform = source.transform(settings, {})
    views = {
        name: source.transform(settings, changes or {})
        for name, changes in {AGAIN: {}, **(settings.get("views") or {})}.items()
    }
    unlabelled = settings.get("unlabelled") or 0
    if isinstance(unlabelled, str):
        source, unlabelled = source.with_unlabelled(unlabelled, settings), 0
    parts = split(source, settings["validation"], settings["split_seed"], settings.get("subset"), unlabelled)
    if transform.soft or any(view.soft for view in views.values()):
        unlabelled = int((parts.train.labels < 0).sum())
        if unlabelled:
            raise DataError(
                f"data.augment: mixup, cutmix and label_smoothing need labels, and {unlabelled} training samples "
                "have none; set them to 0"
            )
    return TableData(source, settings, parts, transform, views)
