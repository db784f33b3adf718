"""The storage of a study's trials, a journal file or a PostgreSQL server, and its lock."""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import yaml
from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study

from kdlab.core.errors import UsageError


class Journal(JournalFileBackend):
    """Optuna's journal, one line per change, under a lock that the system releases when its process dies.

    Optuna's own lock would then last 30 seconds, and a half-written line would corrupt the next. Nor does this one
    sync to disk, 15 ms a line: what a power cut loses at the end is done again.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(str(file))
        self._journal, self._turn = file, FileLock(f"{file}.lock")

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Appends lines, after removing a half-written one at the end."""
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with self._turn, self._journal.open("rb+") as stream:
            end = stream.seek(0, os.SEEK_END)
            if end and (stream.seek(end - 1), stream.read(1))[1] != b"\n":
                stream.seek(0)
                stream.truncate(stream.read().rfind(b"\n") + 1)
            stream.seek(0, os.SEEK_END)
            stream.write(lines)


@dataclass(frozen=True)
class Storage:
    """Optuna's storage, and its lock."""

    where: str
    optuna: BaseStorage

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Excludes all other workers on all machines."""
        with exclusively(self.where):
            yield

    def close(self) -> None:
        """Closes connections to a server."""
        if isinstance(self.optuna, RDBStorage):
            self.optuna.remove_session()
            self.optuna.engine.dispose()


def open_storage(where: str) -> Storage:
    """The storage of a journal file or of a PostgreSQL server, created if missing.

    Raises:
        UsageError: where it cannot be reached.
    """
    if "://" not in where:
        file = Path(where).absolute()
        file.parent.mkdir(parents=True, exist_ok=True)
        return Storage(str(file), JournalStorage(Journal(file)))
    if not where.startswith(("postgresql://", "postgresql+psycopg://")):
        raise UsageError(f"storage={shown(where)}: expected a file for a journal, or postgresql://USER@HOST/DATABASE")
    try:
        with exclusively(where):  # creating its tables twice at once would fail
            return Storage(where, RDBStorage(where, engine_kwargs={"pool_pre_ping": True}))
    except ImportError as error:
        raise UsageError(f"storage={shown(where)} needs psycopg: pip install 'kdlab[postgres]'") from error
    except Exception as error:
        if type(error).__module__.startswith(("sqlalchemy", "psycopg")):
            raise UsageError(f"storage={shown(where)}: {str(error).splitlines()[0]}") from error
        raise


@contextmanager
def stored(folder: Path, where: str | None = None) -> Iterator[list[Study]]:
    """Opens the Optuna studies of a study's folder, the one of the refits last.

    Args:
        folder: as `kdlab.study.spec` describes it.
        where: the storage, if its URL has a password, which study.yaml omits.

    Raises:
        UsageError: where there is none.
    """
    file = folder / "study.yaml"
    if not file.is_file():
        raise UsageError(f"{folder} is not the folder of a study; expected one with a study.yaml, as runs/kd")
    settings = yaml.safe_load(file.read_text())
    where = where or settings["storage"] or str(folder / "journal.log")
    if "://" not in where and not Path(where).is_file():
        raise UsageError(f"{folder}: its storage {where} does not exist")
    storage = open_storage(where)
    try:
        known = optuna.get_all_study_names(storage.optuna)
        names = sorted(name for name in known if name.split("/")[0] == settings["name"])
        names.sort(key=lambda name: name == f"{settings['name']}/final")
        yield [optuna.load_study(study_name=name, storage=storage.optuna) for name in names]
    finally:
        storage.close()


def shown(where: str | None) -> str | None:
    """The name of a storage, without its password."""
    return where and re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", where)


@contextmanager
def exclusively(where: str) -> Iterator[None]:
    """A lock by the name of a storage, released with the process at the latest."""
    if "://" not in where:
        with FileLock(f"{where}.turn"):
            yield
        return
    from sqlalchemy import create_engine, text
    from sqlalchemy.pool import NullPool

    engine = create_engine(where, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("select pg_advisory_lock(:key)"), {"key": zlib.crc32(b"kdlab.sweep")})
        yield  # closing the connection releases it
