"""A study's storage in a file, Optuna's journal: a line for each change, under a lock that ends with its holder."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import TypeVar

from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import BaseJournalBackend

from kdlab.core.errors import UsageError
from kdlab.core.files import replacing
from kdlab.core.printable import printable
from kdlab.study.journal_repair import Operation, is_damaged, operation, repaired

T = TypeVar("T")


class Journal(BaseJournalBackend):
    """Optuna's journal.

    Optuna's own lock would last 30 seconds after its holder died, and a half-written line would corrupt the next. Nor
    does this one sync to disk, 15 ms a line: what a power cut loses at the end is done again.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._turn = file, FileLock(f"{file}.lock")
        self._read = (0, 0)
        with _accessible(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.open("ab").close()
            with self._turn:
                _repair(file)

    def read_logs(self, log_number_from: int) -> Iterator[Operation]:
        """The operations from a number on; a line that is still being written is left for the next time."""
        number, offset = self._read if self._read[0] <= log_number_from else (0, 0)
        with _accessible(self._file), self._file.open("rb") as stream:
            stream.seek(offset)
            for line in stream:
                if not line.endswith(b"\n"):
                    return
                number, offset = number + 1, offset + len(line)
                if number <= log_number_from:
                    continue
                if (found := operation(line)) is None:
                    raise UsageError(
                        f"{self._file}: line {number} is damaged; start the same command again, which recovers the rest"
                    )
                self._read = number, offset
                yield found

    def append_logs(self, logs: list[Operation]) -> None:
        """Appends lines, after removing a half-written one at the end; all of them or none."""
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with _accessible(self._file), self._turn, self._file.open("rb+", buffering=0) as stream:
            end = _cut(stream)
            try:
                while lines:  # a disk that is nearly full takes a part, and tells why only when asked again
                    lines = lines[stream.write(lines) :]
            except OSError:
                stream.truncate(end)
                raise


class JournalFile:
    """A journal, created if missing and repaired where damaged, and a lock beside it.

    Raises:
        UsageError: where it cannot be read and written.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.optuna: BaseStorage = JournalStorage(Journal(file))
        self._turn = FileLock(f"{file}.turn")

    def exclusively(self, do: Callable[[], T]) -> T:
        """What `do` returns, called while all other workers are excluded."""
        with _accessible(self._file):
            self._turn.acquire()
        try:
            return do()
        finally:
            self._turn.release()

    def close(self) -> None:
        """A journal is opened for each reading and writing alone."""


@contextmanager
def _accessible(file: Path) -> Iterator[None]:
    """Says in a line which file is in the way, and why."""
    try:
        yield
    except OSError as error:
        which = error.filename or file
        raise UsageError(
            f"{which}: {error.strerror or error}; the study needs to read and write it, and goes on with the same "
            "command; or choose another file with storage=FILE"
        ) from error


def _cut(stream: FileIO) -> int:
    """Cuts a half-written line off the end of a file; returns where that is."""
    end = stream.seek(0, os.SEEK_END)
    if end and (stream.seek(end - 1), stream.read(1))[1] != b"\n":
        stream.seek(0)
        end = stream.readall().rfind(b"\n") + 1
        stream.truncate(end)
    return stream.seek(end)


def _repair(file: Path) -> None:
    """Replaces a damaged journal by what can be read of it, keeps the damaged one beside it, and says so."""
    content = file.read_bytes()
    if not is_damaged(content):
        return
    found = repaired(content)
    number = 1
    while (kept := file.with_name(f"{file.name}.damaged-{number}")).exists():
        number += 1
    for path, bytes_ in ((kept, content), (file, found.content)):
        with replacing(path) as aside:
            aside.write_bytes(bytes_)
    lines = f"{found.lost} lines are" if found.lost > 1 else "1 line is"
    again = f"; trials that ran at the time and are done again: {found.again}" if found.again else ""
    print(
        printable(
            f"kdlab: {file}: {lines} damaged, the first is line {found.first}{again}; the damaged file is {kept.name}"
        ),
        file=sys.stderr,
        flush=True,
    )
