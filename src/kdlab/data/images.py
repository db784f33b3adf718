"""Pictures decoded on access, and the conversion of a picture to pixels."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from kdlab.data.check import DataError

KNOWN = ("PNG", "JPEG", "BMP", "DIB", "GIF", "PPM", "TIFF", "WEBP", "JPEG2000", "AVIF", "QOI", "TGA", "PCX", "ICO")
"""Of pictures. Pillow knows others whose files are programs, EPS, which it would have Ghostscript run."""


def pixels(image: Image.Image, size: int, channels: int) -> Tensor:
    """A picture as uint8 [channels, size, size], grey (1) or RGB (3).

    A picture of another size is cut to its central square and resized, bilinearly: the same as resizing
    its shorter side and cutting the centre. Orientation tags of cameras are applied. Of 16 bits,
    as scanners and microscopes write, the upper 8 count.

    Raises:
        DataError: where the white level of a picture is unknown.
    """
    # Pillow opens the 16 bits of a PGM, and before version 10.3 those of a PNG, as 32, with white at 65535.
    wide = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if image.mode in ("I", "F") and not wide:
        raise DataError(f"32 bits a pixel, mode {image.mode}, with an unknown white level; save it with 8 or 16")
    ImageOps.exif_transpose(image, in_place=True)
    if wide:
        image = Image.fromarray((np.array(image) >> 8).astype(np.uint8))
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    values = torch.from_numpy(np.array(image))
    return values[None] if channels == 1 else values.permute(2, 0, 1)


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in KNOWN if name in Image.OPEN)


class Pictures(Dataset[Tensor]):
    """Encoded pictures; `pictures[row]` is one of them, uint8 [channels, size, size]."""

    def __init__(self, size: int, channels: int) -> None:
        self.size = size
        self.channels = channels

    def __len__(self) -> int:
        raise NotImplementedError

    def locate(self, row: int) -> tuple[str, Any]:
        """The name of a picture for messages, and a path or an open file to read it from."""
        raise NotImplementedError

    def __getitem__(self, row: int) -> Tensor:
        """Raises DataError, naming the picture, where it cannot be decoded."""
        name, file = self.locate(row)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(file, formats=_formats()) as image:
                    return pixels(image, self.size, self.channels)
        except Exception as error:  # decoders raise many types for damaged files
            reason = (
                "not a picture" if isinstance(error, UnidentifiedImageError) else str(error) or type(error).__name__
            )
            raise DataError(f"{name} cannot be decoded ({' '.join(reason.split())})") from error


class Files(Pictures):
    """Pictures in separate files."""

    def __init__(self, paths: Sequence[str], size: int, channels: int) -> None:
        super().__init__(size, channels)
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def locate(self, row: int) -> tuple[str, Any]:
        return self.paths[row], self.paths[row]


class Column(Pictures):
    """Pictures in a column of a table of the `datasets` library, as bytes, or as paths of files below `folder`."""

    def __init__(self, rows: Any, column: str, part: str, size: int, channels: int, folder: Path | None = None) -> None:
        super().__init__(size, channels)
        self.folder = folder
        self.rows = rows
        self.column = column
        self.part = part

    def __len__(self) -> int:
        return len(self.rows)

    def locate(self, row: int) -> tuple[str, Any]:
        cell = self.rows[row][self.column] or {}
        name = f"row {row} of {self.part}, column {self.column}"
        if cell.get("bytes"):
            return name, BytesIO(cell["bytes"])
        # A table from elsewhere may name any file of this machine, or a pipe that would never end.
        path = Path(cell.get("path") or "").resolve()
        if self.folder is None or not path.is_relative_to(self.folder.resolve()) or not path.is_file():
            raise DataError(f"{name} cannot be decoded (it holds no picture, nor the path of one below data.path)")
        return name, str(path)
