"""Parquet files as nobody should write them, in the layout of a copy of a hub repository."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
NUMBER = {"_type": "Value", "dtype": "int64"}


def png(size: tuple[int, int] = (8, 8), mode: str = "RGB") -> bytes:
    """An encoded picture, black."""
    buffer = BytesIO()
    Image.new(mode, size).save(buffer, "PNG")
    return buffer.getvalue()


def features(names: Sequence[Any] = ("cat", "dog"), **changes: Any) -> dict[bytes, bytes]:
    """The schema metadata that the `datasets` library reads."""
    found = {"img": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(names)}, **changes}
    return {b"huggingface": json.dumps({"info": {"features": found}}).encode()}


def rows(
    labels: Sequence[Any] = (0, 1) * 4,
    pictures: Sequence[Any] | None = None,
    kind: pa.DataType | None = None,
    about: dict[bytes, bytes] | None = None,
    further: dict[str, Any] | None = None,
) -> pa.Table:
    """A table of pictures and labels; fine, unless something else is asked for.

    kind: the type of the labels.
    about: the schema's metadata.
    further: other columns.
    """
    cells = [{"bytes": png(), "path": None}] * len(labels) if pictures is None else pictures
    columns = {"img": pa.array(cells, PICTURE), "label": pa.array(labels, kind or pa.int64()), **(further or {})}
    return pa.table(columns).replace_schema_metadata(features() if about is None else about)


def copy(place: Path, train: pa.Table | bytes, **settings: Any) -> Path:
    """A copy of a repository with this table, or these bytes, to train on, and a fine one to test."""
    data = place / "copy" / "data"
    data.mkdir(parents=True)
    parquet.write_table(rows(), data / "test-00000-of-00001.parquet")
    file = data / "train-00000-of-00001.parquet"
    if isinstance(train, bytes):
        file.write_bytes(train)
    else:
        parquet.write_table(train, file, **settings)
    return data.parent


def encoded(table: pa.Table) -> bytes:
    """A parquet file."""
    buffer = BytesIO()
    parquet.write_table(table, buffer)
    return buffer.getvalue()


def with_footer_of(length: int) -> bytes:
    """A file that says its footer has this many bytes."""
    return encoded(rows())[:-8] + length.to_bytes(4, "little") + b"PAR1"


def with_broken_footer(seed: int) -> bytes:
    """A file with three other bytes in its footer."""
    random, whole = np.random.default_rng(seed), bytearray(encoded(rows()))
    length = int.from_bytes(whole[-8:-4], "little")
    for place in random.integers(length, size=3):
        whole[len(whole) - 8 - length + int(place)] = int(random.integers(256))
    return bytes(whole)


def repeated(size: int, count: int) -> pa.Table:
    """One picture of `size` bytes, `count` times, in a few bytes more than it has."""
    content = pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([os.urandom(size)]))
    cells = pa.StructArray.from_arrays([content, pa.nulls(count, pa.string())], ["bytes", "path"])
    return pa.table({"img": cells, "label": pa.array(np.arange(count) % 2)})


class Code:
    """Unpickled, it leaves a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


def with_python_type(file: Path) -> pa.Table:
    """A table whose label column has an extension type that, unpickled, would touch a file."""
    fields = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Code(file)),
    }
    table = rows()
    label = pa.field("label", pa.int64(), metadata=fields)
    return pa.Table.from_arrays(table.columns, schema=pa.schema([table.schema.field("img"), label], features()))
