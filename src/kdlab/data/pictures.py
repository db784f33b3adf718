"""Pictures as data: uint8, augmented and normalised on the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdlab.core.knowledge import Batch
from kdlab.data.augment import Augment
from kdlab.data.check import DataError
from kdlab.data.data import Settings, needed
from kdlab.data.table import Source, Table


@dataclass(frozen=True, eq=False)
class PictureSource(Source):
    """Tables of pictures [C, H, W] uint8 with classes.

    channels: 1 (grey) or 3 (RGB).
    size: height and width in pixels.
    """

    train: Table
    validation: Table | None
    test: Table | None
    classes: tuple[str, ...]
    channels: int
    size: int
    fingerprint: str

    @classmethod
    def example(cls, settings: Settings, samples: int = 2) -> Batch:
        generator = torch.Generator().manual_seed(0)
        channels, side = (needed(settings, key) for key in ("channels", "size"))
        input = torch.randn(samples, channels, side, side, generator=generator)
        place = torch.arange(samples)
        return {"input": input, "target": place % cls.outputs(settings), "index": place,
                "view": torch.zeros_like(place)}  # fmt: skip

    @classmethod
    def outputs(cls, settings: Settings) -> int:
        return needed(settings, "classes")

    def check(self, settings: Settings) -> None:
        for key, has in (("classes", len(self.classes)), ("channels", self.channels), ("size", self.size)):
            if settings.get(key) not in (None, has):
                raise DataError(f"data.{key}={settings[key]}, but the data set has {has}; type data.{key}={has}")

    def transform(self, settings: Settings, changes: Mapping[str, Any] | None) -> Augment:
        mean, std = tuple(settings["mean"]), tuple(settings["std"])
        augment = {} if changes is None else {**(settings.get("augment") or {}), **changes}
        return Augment(mean, std, len(self.classes), **augment)

    def described(self, settings: Settings, folder: Path) -> dict[str, Any]:
        return {"channels": self.channels, "size": self.size, "mean": list(settings["mean"]),
                "std": list(settings["std"])}  # fmt: skip
