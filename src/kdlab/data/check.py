"""Checks a data config without reading a picture: its settings and folders.

It runs before torch is imported, so it uses only the standard library.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdlab.config.ranges import AUGMENT, TEXT_AUGMENT, expected
from kdlab.core.errors import UsageError, nearest

SETTINGS = (
    "classes", "mean", "std", "validation", "split_seed", "subset", "unlabelled", "resident", "workers", "augment",
    "views", "drop_last",
)  # fmt: skip
"""The keys of a data config that `prepare` reads. All others are arguments of its source."""

REAL = ("kdlab.data.torch_dataset.TorchDataset",)
"""Sources whose targets may be real values, of which one is enough."""

AGAIN = "again"
"""The view that every data set has: another draw of `data.augment`, unless `data.views` redefines it."""

PARTS: Mapping[str, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
"""The names of the parts of a data set, in folders and on the hub."""

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")

LONGEST = 200
"""Characters of a class's name."""


class DataError(UsageError):
    """Data that cannot be used, in one line: what was given, what is wrong with it, what to type instead."""


def check(config: Mapping[str, Any]) -> None:
    """Refuses a data config whose settings or folder are wrong; well under a second, whatever the folder holds.

    Raises:
        DataError: naming key, value and what to type.
    """
    check_settings(config)
    checks = {
        "kdlab.data.source.Folder": _check_folder, "kdlab.data.source.Hub": _check_hub,
        **dict.fromkeys(("kdlab.data.text.Text", "kdlab.data.corpus.Corpus"), _check_texts),
    }  # fmt: skip
    if found := checks.get(str(config.get("_target_"))):
        found(config)


def source_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a data config that describes its source, `_target_` included."""
    return {key: value for key, value in config.items() if key not in (*SETTINGS, "proposes")}


def check_settings(config: Mapping[str, Any]) -> None:
    """Refuses settings that fit no data set.

    Raises:
        DataError: naming key, value and what to type.
    """
    channels = config.get("channels")
    if channels not in (None, 1, 3):
        raise DataError(f"data.channels={channels}: expected 1 (grey) or 3 (colour)")
    real = config.get("_target_") in REAL
    if (classes := config.get("classes")) is not None and classes < 2 and not real:
        raise DataError(f"data.classes={classes}: expected 2 or more")
    if (resident := config.get("resident", "auto")) not in ("auto", True, False):
        raise DataError(f"data.resident={resident}: expected auto, true or false")
    if not isinstance(drop_last := config.get("drop_last", False), bool):
        raise DataError(f"data.drop_last={drop_last}: expected true or false")
    check_normalisation("data", config)
    known = TEXT_AUGMENT if "vocabulary" in config else AUGMENT
    _check_augment("data.augment", config.get("augment") or {}, known, config.get("size"))
    for name, changes in (config.get("views") or {}).items():
        _check_augment(f"data.views.{name}", changes or {}, known, config.get("size"))


def check_normalisation(where: str, config: Mapping[str, Any], channels: int | None = None) -> None:
    """Refuses a `mean` or `std` that is not one number for each channel.

    Raises:
        DataError: naming key, value and what to type.
    """
    channels = channels or config.get("channels")
    for key in ("mean", "std"):
        if (values := config.get(key)) is None:
            continue
        numbers = isinstance(values, list | tuple) and all(isinstance(value, int | float) for value in values)
        if not numbers or len(values) not in (1, channels or len(values)):
            raise DataError(
                f"{where}.{key}={values}: expected one number, or one for each of {channels} channels, in a list"
            )
        if key == "std" and min(values) <= 0:
            raise DataError(f"{where}.std={values}: expected numbers above 0")


def folder_parts(path: Path) -> dict[str, Path]:
    """The folders that hold the parts: `train`, `validation` and `test`, or the folder itself as `train`.

    Raises:
        DataError: where there are parts, but none to train on.
    """
    names = {name: part for part, known in PARTS.items() for name in known}
    found = {names[folder]: path / folder for folder in subfolders(path) if folder in names}
    if found and "train" not in found:
        raise DataError(f"data.path={path} holds {', '.join(sorted(found))} but no train folder; add one")
    return found or {"train": path}


def subfolders(path: Path) -> list[str]:
    """The names of the folders in a folder, hidden ones left out, in order."""
    return sorted(
        entry.name for entry in _entries(path) if _is(os.DirEntry.is_dir, entry) and not entry.name.startswith(".")
    )


def class_folders(path: Path) -> list[str]:
    """The names of the class folders of one part.

    Raises:
        DataError: where there are fewer than two, or one holds no picture.
    """
    names = subfolders(path)
    if len(names) < 2:
        what = f"only one class folder, {names[0]}" if names else "no class folders"
        raise DataError(f"data.path: {path} holds {what}; expected one folder of pictures for each class")
    for name in names:
        if next(pictures(path / name), None) is None:
            raise DataError(f"data.path: {path / name} holds no picture ({', '.join(PICTURES)}); fill or remove it")
    return names


def check_names(classes: Sequence[Any]) -> None:
    """Refuses names of classes that no table and no page could show.

    Raises:
        DataError: with the first of them.
    """
    for name in classes:
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= LONGEST:
            raise DataError(
                f"data: the name of a class is {str(name)[:LONGEST]!r}; expected a text of 1 to {LONGEST} printable "
                "characters"
            )


def pictures(folder: Path) -> Iterator[os.DirEntry[str]]:
    """The picture files in a folder and those below it, in order.

    Raises:
        DataError: at a link that leads back, a folder that cannot be read, or what looks like a picture but is no file:
            reading a pipe would never end.
    """
    seen = {_identity(above) for above in (*folder.absolute().parents, *folder.resolve().parents)}
    waiting: list[os.DirEntry[str] | Path] = [folder]
    while waiting:
        entry = waiting.pop()
        if isinstance(entry, os.DirEntry) and not _is(os.DirEntry.is_dir, entry):
            if entry.name.lower().endswith(PICTURES):
                if not _is(os.DirEntry.is_file, entry):
                    raise DataError(
                        f"data: {entry.path} is not a file but a pipe, a device or a broken link; remove it"
                    )
                yield entry
            continue
        place = Path(entry)
        if (identity := _identity(place)) in seen:
            raise DataError(f"data: {place} is a link to a folder that is read anyway; remove it")
        seen.add(identity)
        within = sorted(_entries(place), key=lambda found: found.name, reverse=True)
        waiting += (found for found in within if not found.name.startswith("."))


def parquet_files(folder: Path) -> list[Path]:
    """The parquet files in a folder and those below it, in order.

    Raises:
        DataError: where one is no file: reading a pipe would never end.
    """
    found = sorted(folder.rglob("*.parquet"))
    for file in found:
        if not file.is_file():
            raise DataError(f"data.path: {file} is not a file but a folder, a pipe or a broken link; remove it")
    return found


def _is(kind: Callable[[os.DirEntry[str]], bool], entry: os.DirEntry[str]) -> bool:
    try:
        return kind(entry)
    except OSError:  # a link to itself
        return False


def _identity(folder: Path) -> tuple[int, int]:
    try:
        status = folder.stat()
    except OSError as error:
        raise DataError(f"data: {folder} cannot be read ({error.strerror})") from error
    return status.st_dev, status.st_ino


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise DataError(f"data: {folder} cannot be read ({error.strerror})") from error


def existing(path: object, expected: str) -> Path:
    """The folder that `data.path` names.

    Raises:
        DataError: where it is not set, or there is no such folder.
    """
    if not path:
        raise DataError(f"data.path is not set: type data.path=DIR, {expected}")
    folder = Path(str(path)).expanduser()
    if not folder.is_dir():
        what = "is a file" if folder.is_file() else "does not exist"
        raise DataError(f"data.path={path} {what}; expected {expected}")
    return folder


def _check_augment(key: str, settings: Any, known: Iterable[str], size: int | None) -> None:
    if not isinstance(settings, Mapping):
        raise DataError(f"{key}={settings}: expected a group of keys, such as {{crop: 4}}")
    for name, value in settings.items():
        if name not in known:
            raise DataError(f"{key}.{name}: there is no such key{nearest(str(name), known)}")
        if (words := expected(name, value)) is not None:
            raise DataError(f"{key}.{name}={value}: expected {words}")
    if size is not None and 2 * settings.get("crop", 0) > size:
        raise DataError(
            f"{key}.crop={settings['crop']} can blank more than half of a picture of data.size={size}; "
            f"expected {size // 2} at most, {size // 8} is usual"
        )


def _check_folder(config: Mapping[str, Any]) -> None:
    path = existing(config.get("path"), "a folder with one folder of pictures for each class")
    classes = class_folders(folder_parts(path)["train"])
    if config.get("classes") != len(classes):
        raise DataError(
            f"data.classes={config.get('classes')}, but {path} holds {len(classes)}; type data.classes={len(classes)}"
        )


def _check_texts(config: Mapping[str, Any]) -> None:
    if config.get("path") is not None or not config.get("name"):
        existing(config.get("path"), "a folder with parquet, csv, tsv, jsonl or txt files")
    if not config.get("text"):
        raise DataError("data.text is not set; type data.text=COLUMN")


def _check_hub(config: Mapping[str, Any]) -> None:
    if config.get("path") is None and config.get("name"):
        return
    path = existing(config.get("path"), "a copy of the hub's repository")
    if not parquet_files(path):
        raise DataError(f"data.path={path} holds no .parquet file; expected a copy of the hub's repository")
