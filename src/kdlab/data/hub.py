"""Reads a table of the `datasets` library: its splits, its column of pictures, its column of classes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isnan
from pathlib import Path
from typing import Any

import torch

from kdlab.data.check import PARTS, DataError, parquet_files
from kdlab.data.decode_cache import Tables, digest_of
from kdlab.data.images import Column
from kdlab.data.parquet_check import check_card, check_tables
from kdlab.data.table import Table

PATIENCE = 5.0
"""Seconds to wait for the hub before giving up."""


def read(name: str, folder: Path | None, image: str, label: str, size: int, channels: int) -> Tables:
    """The parts of a data set, with encoded pictures. Arguments as for `kdlab.data.source.Hub`.

    Raises:
        DataError: where the data set is not available, has no training split, or other columns.
    """
    import datasets  # type: ignore[import-untyped]

    where = f"data.name={name}" if folder is None else f"data.path={folder}"
    parts = parts_of(splits(name, folder), where)
    for key, column in (("image", image), ("label", label)):
        if column not in (columns := parts["train"].column_names):
            raise DataError(f"data.{key}={column}: {where} has no such column; it has {', '.join(columns[:30])}")
    kind = parts["train"].features[image]
    if not isinstance(kind, datasets.Image):
        raise DataError(f"data.image={image}: {where} has no pictures in this column, but {kind}")
    columns = {part: list(rows.select_columns([label])[:][label]) for part, rows in parts.items()}
    labels, classes = numbered(columns, getattr(parts["train"].features[label], "names", None), label)
    tables = {}
    for part, rows in parts.items():
        if part == "train" or any(number >= 0 for number in labels[part]):  # a part without labels measures nothing
            encoded = rows.select_columns([image]).cast_column(image, datasets.Image(decode=False))
            home = folder or Path(datasets.config.HF_CACHE_HOME)  # where the library puts files of the hub
            images = Column(encoded, image, part, size, channels, home)
            tables[part] = Table(images, torch.tensor(labels[part]), (channels, size, size))
    files = [file["filename"] for rows in parts.values() for file in rows.cache_files]
    identity = digest_of([name, classes, size, channels, [(Path(f).name, os.path.getsize(f)) for f in files]])
    return Tables(tables, classes, identity)


def splits(name: str, folder: Path | None) -> Mapping[str, Any]:
    """The splits of a repository on the hub, or of a copy of it, as the `datasets` library reads them.

    Raises:
        DataError: where it is not available or cannot be believed.
    """
    import datasets
    import huggingface_hub

    if folder is not None:
        check_card(folder)
        check_tables(parquet_files(folder))
    if folder is None and not huggingface_hub.constants.HF_HUB_OFFLINE:
        # Checked first, because the library would retry for half a minute.
        try:
            huggingface_hub.HfApi().dataset_info(name, timeout=PATIENCE)
        except huggingface_hub.errors.RepositoryNotFoundError as error:
            raise DataError(f"data.name={name}: the hub has no such data set, or it needs a login") from error
        except Exception as error:
            raise DataError(
                f"data.name={name}: the hub does not answer ({_line(error)}); type data.path=DIR for a copy of "
                "its repository, or set HF_HUB_OFFLINE=1 where it was downloaded before"
            ) from error
    try:
        with quiet():
            found: Mapping[str, Any] = datasets.load_dataset(name if folder is None else str(folder))
    except Exception as error:
        what = f"data.name={name}" if folder is None else f"data.path={folder}"
        raise DataError(f"{what} cannot be read: {_line(error.__cause__ or error)}") from error
    return found


def parts_of(found: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The splits that are parts, by the names of the parts.

    Raises:
        DataError: where there is none to train on.
    """
    parts = {part: found[known] for part, names in PARTS.items() for known in names if known in found}
    if "train" not in parts:
        raise DataError(f"{where} has the splits {', '.join(list(found)[:30])}; expected one called train")
    return parts


def numbered(
    columns: Mapping[str, Sequence[Any]], names: Sequence[str] | None, column: str
) -> tuple[dict[str, list[int]], tuple[str, ...]]:
    """Labels as numbers from 0, -1 where there is none, and the names of the classes."""
    columns = {part: [_label(value) for value in labels] for part, labels in columns.items()}
    kinds = {type(value) for labels in columns.values() for value in labels} - {type(None)}
    if kinds not in ({int}, {str}, {bool}):
        found = " and ".join(sorted(kind.__name__ for kind in kinds)) or "nothing"
        raise DataError(f"data.label={column}: expected a column of numbers or of names, found {found}")
    values = sorted({value for labels in columns.values() for value in labels} - {None, -1})
    if names is not None and (unnamed := [value for value in values if value not in range(len(names))]):
        raise DataError(
            f"data.label={column}: the label {unnamed[0]} has no name; expected 0 to {len(names) - 1}, or -1 where "
            "unlabelled"
        )
    numbers = {value: number for number, value in enumerate(values if names is None else range(len(names)))}
    classes = tuple(str(value) for value in numbers) if names is None else tuple(names)
    if len(classes) < 2:
        raise DataError(f"data.label={column}: expected two classes or more, found {', '.join(classes) or 'none'}")
    return {part: [numbers.get(value, -1) for value in labels] for part, labels in columns.items()}, classes


def _label(value: Any) -> Any:
    # Numbers with an empty field among them are read as floats, and that field as NaN.
    if isinstance(value, float):
        return None if isnan(value) else int(value) if value.is_integer() else value
    return value


@contextmanager
def quiet() -> Iterator[None]:
    """Without progress bars, and without the library's own lines about what it then raises."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, logging  # type: ignore[import-untyped]

    shown, verbosity = not are_progress_bars_disabled(), logging.get_verbosity()
    disable_progress_bars()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            enable_progress_bars()


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
