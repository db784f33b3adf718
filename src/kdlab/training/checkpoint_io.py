"""Checkpoints that no interruption loses: the last one and the one before it, each with its own digest.

A checkpoint is a zip archive, as torch writes it, whose comment is the SHA-256 of all that precedes the comment: a file
is good or bad by itself, whatever is beside it, and `torch.load` reads it. (The archive's own checksums leave out the
headers, where one flipped bit can exchange a tensor for another.)

It is written beside its place, on the same file system, flushed, and renamed. So at every instant one of the two files
is whole, and the newer one that is whole is where training continues.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO

from kdlab.core.files import flush, replacing

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"

END = struct.pack("<H", 0)
"""How an archive without a comment ends: with the comment's length."""

MARK = b"sha256:"
SEAL = len(END) + len(MARK) + 64


class DamagedError(ValueError):
    """A checkpoint that is not what was written, or carries code."""


class CheckpointFiles(CheckpointIO):
    """Lightning's way to read and write checkpoints.

    Args:
        recipe: of the network that is trained, stored with it: see `kdlab.run.recipe`.
    """

    def __init__(self, recipe: Mapping[str, Any] | None = None) -> None:
        self._recipe = json.dumps(recipe)
        self._good: set[Path] = set()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes a checkpoint; the one that it replaces is kept as `previous.ckpt`."""
        file = Path(path).resolve()
        file.parent.mkdir(parents=True, exist_ok=True)
        archive = io.BytesIO()  # in memory, because torch does not pass on why it could not write
        torch.save({**checkpoint, "recipe": self._recipe}, archive)
        body = archive.getbuffer()[: -len(END)]
        with replacing(file) as aside:
            with aside.open("wb") as stream:
                stream.write(body)
                stream.write(_seal(body))
            flush(aside)
            if file in self._good:  # a damaged one must not take the place of the good one before it
                file.replace(file.with_name(PREVIOUS))
        self._good.add(file)

    def load_checkpoint(self, path: str | Path, map_location: Any = "cpu", weights_only: Any = True) -> dict[str, Any]:
        """A checkpoint, on the CPU, after checking its digest."""
        checkpoint = read(Path(path))
        self._good.add(Path(path).resolve())
        return checkpoint

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes a checkpoint."""
        Path(path).unlink(missing_ok=True)


def read(file: Path) -> dict[str, Any]:
    """A checkpoint, on the CPU, loaded without executing code.

    Raises:
        DamagedError: where it is not what was written, or carries code.
    """
    content = memoryview(file.read_bytes())
    if content[-SEAL:] != _seal(content[:-SEAL]):
        raise DamagedError(f"{file} is damaged, or was written by another version of kdlab")
    try:
        checkpoint: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        int(checkpoint["kdlab"]["steps"])
    except Exception as error:  # unpickling a hostile file can raise anything
        raise DamagedError(f"{file} carries code, or is not a checkpoint of kdlab") from error
    return checkpoint


def _seal(body: memoryview) -> bytes:
    return struct.pack("<H", SEAL - len(END)) + MARK + hashlib.sha256(body).hexdigest().encode()
