"""Decodes a data set once, and caches the pixels for later runs.

They are in `data/KEY.safetensors` under kdlab's home, written atomically, and memory-mapped when read. KEY is the hash
of where the pictures come from and how they were decoded: changed files make another key. Their fingerprint is computed
anew at each read, 0.4 s for the 60 000 pictures of CIFAR-100: a file that was changed since is decoded again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from kdlab.core.files import replacing
from kdlab.core.paths import home
from kdlab.data.check import DataError
from kdlab.data.table import Ragged, Table

VERSION = 2
"""Increase it when the same files decode to other pixels."""

LIMIT = 4 * 2**30
"""Data sets of up to this many decoded bytes are decoded at once, kept, and held on the device."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Tables:
    """The cached parts of a data set: by name, with the names of the classes and a fingerprint."""

    parts: Mapping[str, Table]
    classes: tuple[str, ...]
    fingerprint: str


def kept(origin: Mapping[str, Any]) -> Tables | None:
    """The decoded data set of `origin`, if an earlier run cached it and the file is still what that run wrote."""
    if not (file := _file(origin)).is_file():
        return None
    try:
        tables, damaged = _read(file, digest_of(origin))
    except DataError as error:
        print(f"kdlab: {file}: {error}; decoding the pictures again", file=sys.stderr)
        return None
    _report(damaged)
    return tables


def _read(file: Path, origin: str) -> tuple[Tables, list[str]]:
    """The tables of a file, and the errors of the pictures left out; nothing in it is believed.

    Raises:
        DataError: where it is damaged, or its content is not what its fingerprint says.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            about = json.loads(opened.metadata()["kdlab"])
            parts = {
                part: Table(opened.get_tensor(f"{part}.images"), opened.get_tensor(f"{part}.labels"))
                for part in about["parts"]
            }
            tables = Tables(parts, tuple(about["classes"]), about["fingerprint"])
            damaged = [str(line) for line in about["damaged"]]
            whole = about["origin"] == origin and fingerprint(parts, tables.classes) == tables.fingerprint
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AssertionError, RecursionError) as error:
        raise DataError(f"damaged, or kept by another version ({type(error).__name__})") from error
    if not whole:
        raise DataError("its content was changed since it was kept")
    return tables, damaged


def keep(origin: Mapping[str, Any], encoded: Tables, *, skip: bool) -> Tables:
    """Decodes a data set and caches it under its origin.

    Args:
        origin: all that determines the pixels, as plain data.
        encoded: the parts with encoded pictures.
        skip: leave out damaged pictures with a warning, rather than refuse the set.

    Raises:
        DataError: naming the first damaged picture and their number; or where nothing can be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    parts, damaged = {}, list[str]()
    for part, table in encoded.parts.items():
        images, errors = decode(table)
        assert isinstance(images, Tensor)
        good = torch.tensor([row not in errors for row in range(len(table))])
        parts[part] = Table(images, table.labels) if not errors else Table(images[good], table.labels[good])
        damaged += errors.values()
    if damaged and not skip:
        rest = f", as cannot {len(damaged) - 1} more" if len(damaged) > 1 else ""
        raise DataError(f"{damaged[0]}{rest}; repair or remove it, or type data.on_corrupt=skip")
    _report(damaged)
    tables = Tables(parts, encoded.classes, fingerprint(parts, encoded.classes))
    about = {"classes": tables.classes, "fingerprint": tables.fingerprint, "parts": list(parts), "damaged": damaged,
             "origin": digest_of(origin)}  # fmt: skip
    tensors = {
        f"{part}.{name}": value
        for part, table in parts.items()
        for name, value in (("images", table.inputs), ("labels", table.labels))
        if isinstance(value, Tensor)
    }
    file = _file(origin)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as aside:
            save_file(tensors, aside, {"kdlab": json.dumps(about)})
    except (OSError, SafetensorError) as error:
        raise DataError(f"decoded pictures cannot be kept in {file.parent} ({error}); set KDLAB_HOME=DIR") from error
    return tables


def decode(table: Table) -> tuple[Tensor | Ragged, dict[int, str]]:
    """All pictures as uint8 [n, C, H, W], and by row the errors of those that cannot be decoded, left black; other
    inputs as they are."""
    if not isinstance(table.inputs, Dataset):
        return table.inputs, {}
    log.info("decoding %d pictures", len(table))
    decoded = torch.zeros(len(table), *table.shape, dtype=torch.uint8)
    errors = {}
    for row in range(len(table)):
        try:
            decoded[row] = table.inputs[row]
        except DataError as error:
            errors[row] = str(error)
    return decoded, errors


def fingerprint(parts: Mapping[str, Table], classes: tuple[str, ...]) -> str:
    """SHA-256 over the names of the classes and, part by part, shapes, decoded bytes and labels."""
    digest = hashlib.sha256(json.dumps(classes).encode())
    for part, table in sorted(parts.items()):
        assert isinstance(table.inputs, Tensor)
        digest.update(f"{part} {tuple(table.inputs.shape)}".encode())
        digest.update(table.inputs.contiguous().numpy().data)
        digest.update(table.labels.contiguous().numpy().data)
    return digest.hexdigest()


def digest_of(value: Any) -> str:
    """SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _file(origin: Mapping[str, Any]) -> Path:
    return home() / "data" / f"{digest_of([VERSION, origin])}.safetensors"


def _report(damaged: Sequence[str]) -> None:
    if damaged:
        warnings.warn(f"{len(damaged)} damaged pictures are left out, the first: {damaged[0]}", stacklevel=2)
