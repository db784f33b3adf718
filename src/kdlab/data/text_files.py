"""Reads texts and their labels: a repository of the hub or a copy of it, or parquet, csv, tsv, jsonl and txt files.

A file belongs to the part that its path names, `train.csv` or `data/test-00000-of-00002.parquet`; where no path names
one, all are to train on. A txt file is one document, without a label.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdlab.data.check import PARTS, DataError
from kdlab.data.hub import numbered, parts_of, quiet, splits
from kdlab.data.parquet_check import check_tables
from kdlab.data.tokenizer import Text

# What pandas takes for missing, such as NA or null, are words as well; only an empty field is none.
_FIELDS = {"keep_default_na": False, "na_values": [""]}

READERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    ".parquet": ("parquet", {}),
    ".csv": ("csv", _FIELDS),
    ".tsv": ("csv", {**_FIELDS, "sep": "\t", "quoting": csv.QUOTE_NONE}),
    ".jsonl": ("json", {}),
    ".json": ("json", {}),
    ".txt": ("text", {"sample_by": "document"}),
}
"""By the end of a file's name, what reads it in the `datasets` library, and its settings."""

EXPECTED = "a folder with parquet, csv, tsv, jsonl or txt files"


@dataclass(frozen=True, eq=False)
class Texts:
    """The texts of one part, and their labels, -1 where unlabelled."""

    texts: Sequence[Text]
    labels: Sequence[int]

    @property
    def bytes(self) -> int:
        """How long all texts are in UTF-8."""
        each = (one for text in self.texts for one in ((text,) if isinstance(text, str) else text))
        return sum(len(text.encode()) for text in each)


def read_texts(
    name: str | None, folder: Path | None, columns: Sequence[str], label: str | None
) -> tuple[dict[str, Texts], tuple[str, ...]]:
    """The parts of a data set by name, and the names of its classes.

    Args:
        name: on the hub, read where there is no folder.
        folder: with files.
        columns: one column of texts, or two whose texts are pairs.
        label: the column of classes, numbers or names; None: there are none.

    Raises:
        DataError: where it cannot be read, or has other columns.
    """
    where = f"data.name={name}" if folder is None else f"data.path={folder}"
    parts = parts_of(splits(name or "", None), where) if folder is None else _read(folder)
    for key, column in [*(("text", column) for column in columns), *([("label", label)] if label else [])]:
        for rows in parts.values():
            if column not in (known := rows.column_names):
                raise DataError(f"data.{key}={column}: {where} has no such column; it has {', '.join(known[:30])}")
    for part, rows in parts.items():
        if not len(rows):
            raise DataError(f"{where}: the {part} split is empty; fill or remove it")
    for column in columns:
        if (kind := getattr(parts["train"].features[column], "dtype", "")) not in ("string", "large_string"):
            raise DataError(f"data.text={column}: {where} has no text in this column, but {kind or 'nested values'}")
    labels: dict[str, list[int]] = {part: [-1] * len(rows) for part, rows in parts.items()}
    classes: tuple[str, ...] = ()
    if label:
        given = {part: list(rows.select_columns([label])[:][label]) for part, rows in parts.items()}
        labels, classes = numbered(given, getattr(parts["train"].features[label], "names", None), label)
    found = {
        part: Texts(_column(rows, columns, where), labels[part])
        for part, rows in parts.items()
        # A part without labels measures nothing.
        if part == "train" or not label or max(labels[part]) >= 0
    }
    return found, classes


def text_files(folder: Path) -> dict[str, list[Path]]:
    """The files of each part, in order, all of one kind.

    Raises:
        DataError: where there are none to train on, or files of several kinds.
    """
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in READERS and _visible(file, folder))
    if not files:
        raise DataError(f"data.path={folder} holds no such file; expected {EXPECTED}")
    for file in files:
        if not file.is_file():
            raise DataError(f"data.path: {file} is not a file but a folder, a pipe or a broken link; remove it")
    if len(kinds := sorted({file.suffix.lower() for file in files})) > 1:
        raise DataError(f"data.path={folder} holds {' and '.join(kinds)} files; expected files of one kind")
    found: dict[str, list[Path]] = {}
    for file in files:
        words = set(re.split(r"[^a-z]+", str(file.relative_to(folder)).lower()))
        for part in [part for part, names in PARTS.items() if words & {*names}][:1]:
            found.setdefault(part, []).append(file)
    if found and "train" not in found:
        raise DataError(f"data.path={folder} holds {', '.join(found)} but no train file; add one, such as train.csv")
    return found or {"train": files}


def _read(folder: Path) -> dict[str, Any]:
    import datasets  # type: ignore[import-untyped]

    files = text_files(folder)
    every = [file for several in files.values() for file in several]
    suffix = every[0].suffix.lower()
    if suffix == ".parquet":
        check_tables(every)
    else:
        for file in every:
            _check_utf8(file)
    reader, settings = READERS[suffix]
    found = {}
    for part, several in files.items():
        try:
            with quiet():
                found[part] = datasets.load_dataset(
                    reader, data_files=[str(file) for file in several], split="train", **settings
                )
        except Exception as error:
            said = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
            if "corresponds to no data" in said:
                raise DataError(f"data.path={folder}: the {part} split is empty; fill or remove it") from error
            raise DataError(f"data.path={folder} cannot be read: {said}") from error
    return found


def _column(rows: Any, columns: Sequence[str], where: str) -> list[Text]:
    try:
        several = [[text or "" for text in rows.select_columns([column])[:][column]] for column in columns]
    except UnicodeDecodeError as error:
        raise DataError(f"data.text={columns[0]}: {where} is not UTF-8 in this column ({error})") from error
    return several[0] if len(several) == 1 else list(zip(*several, strict=True))


def _check_utf8(file: Path) -> None:
    import codecs

    decode: Callable[..., str] = codecs.getincrementaldecoder("utf-8")().decode
    place = 0
    with file.open("rb") as opened:
        try:
            while chunk := opened.read(2**20):
                decode(chunk)
                place += len(chunk)
            decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise DataError(
                f"data.path: {file} is not UTF-8 (near byte {place + error.start}); write it again as UTF-8"
            ) from error


def _visible(file: Path, folder: Path) -> bool:
    return not any(part.startswith(".") for part in file.relative_to(folder).parts)
