from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdlab.data.table import Table


@pytest.fixture(autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDLAB_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture
def table() -> Table:
    """103 random pictures of 3×6×6 pixels with labels of 4 classes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (103, 3, 6, 6), dtype=torch.uint8, generator=generator)
    return Table(images, torch.randint(0, 4, (103,), generator=generator))


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder of random PNGs: `folder(cat=3, dog=4)`, below `under` where asked."""

    def make(under: str = "", size: tuple[int, int] = (8, 8), **classes: int) -> Path:
        random = np.random.default_rng(0)
        for name, count in classes.items():
            place = tmp_path / "pictures" / under / name
            place.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
        return tmp_path / "pictures"

    return make
