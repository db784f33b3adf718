"""Refuses parquet files that cannot be what they claim, before a library believes them.

Files of a few kilobytes can hold a picture once and name it a billion times, and a schema can have any number of
columns and names; `datasets` would write all of it out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kdlab.config.yaml_file import parse_yaml, read_text
from kdlab.core.errors import UsageError
from kdlab.data.check import DataError

_HEADER = re.compile(r"\s*---[\r\n]+(.*?)[\r\n]+---(?:\r\n|\r|\n|$)", re.DOTALL)
"""The YAML at the start of a README.md, between lines of three dashes."""

COLUMNS = 4096
"""The most columns of a table."""

SCHEMA = 2**20
"""The most bytes of a schema's metadata, which hold the names of the classes."""

EXPANSION = 64
"""How many times larger than its file a table may be, once it is larger than `EXPANDED` bytes."""

EXPANDED = 2**30
LARGE = 2**32
"""Files of more bytes in all are not read in advance: a bomb is a small file."""


def check_tables(files: Sequence[Path]) -> None:
    """Refuses files whose footers cannot be true or that expand without measure; reads them once.

    Raises:
        DataError: naming the file.
    """
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    small = sum(file.stat().st_size for file in files) <= LARGE
    for file in files:
        try:
            with parquet.ParquetFile(file) as opened:
                told, schema = opened.metadata, opened.schema_arrow
                leaves = [opened.schema.column(place) for place in range(told.num_columns)][:COLUMNS]
            _check_footer(file, told, schema)
            repeated = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
            if small and repeated:
                _check_expansion(file, repeated)
        except (pyarrow.ArrowException, OSError, MemoryError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"data.path: {file} cannot be read: {error or type(error).__name__}") from error


def check_card(folder: Path) -> None:
    """Refuses descriptions of a data set that name files outside its folder: `datasets` would fetch them.

    Raises:
        DataError: naming the file.
    """
    for card in (folder / "README.md", folder / ".huggingface.yaml"):
        if not card.exists():
            continue
        try:
            header = _HEADER.match(read_text(card)) if card.suffix == ".md" else None
            text = header[1] if header else "" if card.suffix == ".md" else read_text(card)
            about = parse_yaml(text, str(card))
        except UsageError as error:
            raise DataError(f"data.path: {error}; remove it") from error
        for name in _texts(about.get("configs") if isinstance(about, dict) else None):
            if "://" in name or name.startswith(("/", "~")) or ".." in name.split("/"):
                raise DataError(f"data.path: {card} names {name}, which is not in {folder}; remove {card.name}")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for within in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(within)


def _check_footer(file: Path, told: Any, schema: Any) -> None:
    size = file.stat().st_size
    if told.num_columns > COLUMNS:
        raise DataError(f"data.path: {file} has {told.num_columns} columns; expected {COLUMNS} at most")
    if not 0 <= told.num_rows <= size:
        raise DataError(f"data.path: {file} claims {told.num_rows} rows in {size} bytes; no picture is that small")
    if (length := sum(len(key) + len(value) for key, value in (schema.metadata or {}).items())) > SCHEMA:
        raise DataError(f"data.path: {file} has {length} bytes of metadata; expected {SCHEMA} at most")


def _check_expansion(file: Path, columns: Sequence[str]) -> None:
    from pyarrow import parquet

    most = max(EXPANDED, EXPANSION * file.stat().st_size)
    expanded = 0
    # As dictionaries, what is repeated stays in memory once.
    with parquet.ParquetFile(file, read_dictionary=list(columns)) as opened:
        for batch in opened.iter_batches(batch_size=4096, columns=list(columns)):
            expanded += sum(_bytes(column) for column in batch.columns)
            if expanded > most:
                raise DataError(f"data.path: {file} of {file.stat().st_size} bytes expands to more than {most}")


def _bytes(column: Any) -> int:
    """How many bytes the texts and pictures of an Arrow array have, those repeated by a dictionary as often."""
    import pyarrow
    from pyarrow import compute

    kind = column.type
    if pyarrow.types.is_struct(kind):
        return sum(_bytes(column.field(place)) for place in range(kind.num_fields))
    if pyarrow.types.is_dictionary(kind):
        return int(compute.sum(compute.binary_length(column.dictionary).take(column.indices)).as_py() or 0)
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
        return _bytes(column.flatten())
    return int(column.nbytes)
