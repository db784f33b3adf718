"""Files that are whole or absent, whatever ends the process or the machine."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED = ".writing"
"""The suffix of a file that is still being written."""


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A path in the same folder to write to; when the block ends, it is on the disk and takes the place of `file`.

    Where the block raises, `file` stays as it was. A link at `file` is replaced, not followed.
    """
    aside = file.with_name(f".{file.name}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        yield aside
        flush(aside)
        aside.replace(file)
        flush(file.parent)
    finally:
        aside.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> None:
    """Writes UTF-8 text: the file is whole or as it was."""
    with replacing(file) as aside:
        aside.write_text(text, encoding="utf-8")


def flush(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk: a power loss does not undo them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():  # some network file systems flush names by themselves
            raise
    finally:
        os.close(descriptor)


def remove_unfinished(folder: Path) -> None:
    """Removes what killed processes had not finished writing, in a folder that no other process writes to."""
    for file in folder.rglob(f".*{UNFINISHED}"):
        file.unlink(missing_ok=True)
