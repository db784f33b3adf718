"""Where pictures come from: scikit-learn's digits, the Hugging Face hub or a copy of it, a folder.

A data set of up to 4 GiB is decoded once and mapped into memory by every later run; a larger one stays
encoded, for the streaming loader. Libraries for reading are imported only when needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from kdlab.data.check import (
    PARTS,
    DataError,
    check_names,
    class_folders,
    existing,
    folder_parts,
    parquet_files,
    pictures,
    subfolders,
)
from kdlab.data.data import Settings
from kdlab.data.decode_cache import LIMIT, Tables, digest_of, fingerprint, keep, kept
from kdlab.data.images import Files, pixels
from kdlab.data.pictures import PictureSource
from kdlab.data.split import with_test
from kdlab.data.table import Table


class Pictures(PictureSource):
    """Pictures to whose training part those of a folder can be added without labels."""

    def with_unlabelled(self, path: str, settings: Settings) -> PictureSource:
        folder = Path(path).expanduser()
        found = [Path(file.path) for file in pictures(folder)] if folder.is_dir() else []
        if not found:
            raise DataError(f"data.unlabelled={path}: expected a folder with pictures in it, or a number of samples")
        size, channels, on_corrupt = self.size, self.channels, settings.get("on_corrupt", "stop")
        files = [_stamp(file, folder) for file in found]

        def encoded() -> Tables:
            shape = (channels, size, size)
            table = Table(Files([str(file) for file in found], size, channels), torch.full((len(found),), -1), shape)
            identity = digest_of([size, channels, [(name, length) for name, length, _ in files]])
            return Tables({"train": table}, (), identity)

        origin = {"unlabelled": str(folder.resolve()), "files": files, "size": size, "channels": channels}
        tables = kept(origin) or keep(origin, encoded(), skip=on_corrupt == "skip")
        return PictureSource(
            self.train.join(tables.parts["train"]), self.validation, self.test, self.classes, channels, size,
            digest_of([self.fingerprint, tables.fingerprint]),
        )  # fmt: skip


class Digits(Pictures):
    """1797 handwritten digits of 8×8 pixels, from scikit-learn: 1400 to train on, 397 to test; no download.

    Alpaydin, Kaynak. Cascading Classifiers. Kybernetika 1998 (the test part of UCI's optdigits).
    """

    def __init__(self, size: int = 8, channels: int = 1) -> None:
        from PIL import Image
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]

        digits = load_digits()
        grey = (digits.images * (255 / 16)).round().astype("uint8")  # the source counts ink from 0 to 16
        images = torch.stack([pixels(Image.fromarray(image), size, channels) for image in grey])
        table = Table(images, torch.from_numpy(digits.target).long())
        parts = _with_test(table, 397)
        classes = tuple(str(name) for name in digits.target_names)
        super().__init__(**_fields(Tables(parts, classes, fingerprint(parts, classes)), size, channels))


class Hub(Pictures):
    """A data set of the Hugging Face hub, by its name there or from a copy of its repository.

    One decoded before is read without contacting the hub.

    Args:
        name: on the hub.
        path: a folder with a copy of the repository's parquet files; None: download them.
        image: the column of pictures.
        label: the column of classes, numbers or names; empty or -1 where unlabelled.
        size: height and width to bring the pictures to.
        channels: 1 (grey) or 3 (RGB).
        on_corrupt: `stop`, or `skip` pictures that cannot be decoded.
    """

    def __init__(
        self, name: str, path: str | None, image: str, label: str, size: int, channels: int, on_corrupt: str = "stop"
    ) -> None:
        origin: dict[str, Any] = {"name": name, "image": image, "label": label}
        folder = None if path is None else existing(path, "a copy of the hub's repository")
        if folder is not None:
            origin |= {
                "path": str(folder.resolve()),
                "files": [_stamp(f, folder) for f in parquet_files(folder)],
            }

        def encoded() -> Tables:
            from kdlab.data.hub import read

            return read(name, folder, image, label, size, channels)

        super().__init__(**_decoded(origin, encoded, size, channels, on_corrupt))


class Folder(Pictures):
    """A folder with one folder of pictures for each class, or with such folders under train, validation and test.

    Args:
        path: the folder.
        size: height and width to bring the pictures to.
        channels: 1 (grey) or 3 (RGB).
        on_corrupt: `stop`, or `skip` pictures that cannot be decoded.
    """

    def __init__(self, path: str, size: int, channels: int, on_corrupt: str = "stop") -> None:
        folder = existing(path, "a folder with one folder of pictures for each class")
        parts = folder_parts(folder)
        classes = tuple(class_folders(parts["train"]))
        for place in parts.values():
            if unknown := sorted(set(subfolders(place)) - {*classes}):
                raise DataError(f"data.path: {place / unknown[0]} is a class that {parts['train']} does not have")
        found = {
            part: [
                (Path(file.path), label)
                for label, name in enumerate(classes)
                if (place / name).is_dir()
                for file in pictures(place / name)
            ]
            for part, place in parts.items()
        }
        files = [_stamp(file, folder) for part in found.values() for file, _ in part]

        def encoded() -> Tables:
            tables = {
                part: Table(
                    Files([str(file) for file, _ in rows], size, channels),
                    torch.tensor([label for _, label in rows]),
                    (channels, size, size),
                )
                for part, rows in found.items()
                if rows
            }
            identity = digest_of([classes, size, channels, [(name, length) for name, length, _ in files]])
            return Tables(tables, classes, identity)

        origin = {"path": str(folder.resolve()), "files": files}
        super().__init__(**_decoded(origin, encoded, size, channels, on_corrupt))


def _decoded(
    origin: Mapping[str, Any], encoded: Callable[[], Tables], size: int, channels: int, on_corrupt: str
) -> dict[str, Any]:
    """The fields of a source with encoded pictures: decoded, unless there are too many."""
    origin = {**origin, "size": size, "channels": channels, "on_corrupt": on_corrupt}
    tables = kept(origin)
    if tables is None:
        tables = encoded()
        if sum(part.bytes for part in tables.parts.values()) <= LIMIT:
            tables = keep(origin, tables, skip=on_corrupt == "skip")
    return _fields(tables, size, channels)


def _fields(tables: Tables, size: int, channels: int) -> dict[str, Any]:
    check_names(tables.classes)
    parts = dict(tables.parts)
    if "test" not in parts:
        parts |= _with_test(parts["train"])
    return {
        **{part: parts.get(part) for part in PARTS},
        "classes": tables.classes,
        "channels": channels,
        "size": size,
        "fingerprint": tables.fingerprint,
    }


def _with_test(table: Table, count: int | None = None) -> dict[str, Table]:
    train, test = with_test(table, count)
    return {"train": train, "test": test}


def _stamp(file: Path, folder: Path) -> tuple[str, int, int]:
    status = file.stat()
    return str(file.relative_to(folder)), status.st_size, status.st_mtime_ns
