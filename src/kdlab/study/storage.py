"""The storage of a study's trials: a journal file or a PostgreSQL server."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import optuna
import yaml
from optuna.storages import BaseStorage
from optuna.study import Study

from kdlab.core.errors import UsageError
from kdlab.core.printable import masked
from kdlab.study.journal import JournalFile

T = TypeVar("T")


class Storage(Protocol):
    """Optuna's storage, and its lock."""

    optuna: BaseStorage

    def exclusively(self, do: Callable[[], T]) -> T:
        """What `do` returns, called while all other workers on all machines are excluded; perhaps called again."""

    def close(self) -> None:
        """Closes connections, before processes are forked and at the end; the next call opens another."""


def open_storage(where: str) -> Storage:
    """The storage of a journal file or of a PostgreSQL server, created if missing.

    Raises:
        UsageError: where it cannot be reached.
    """
    if "://" not in where:
        if re.match(r"postgres\w*(\+\w+)?:", where):
            raise UsageError(f"storage={where.split(':')[0]}:...: expected postgresql://USER@HOST/DATABASE")
        return JournalFile(Path(where).absolute())
    try:
        from kdlab.study.server import Server
    except ImportError as error:  # Optuna needs SQLAlchemy itself
        raise UsageError(f"storage={masked(where)} needs psycopg: pip install 'kdlab[postgres]'") from error
    return Server(where)


@contextmanager
def stored(folder: Path, where: str | None = None) -> Iterator[list[Study]]:
    """Opens the Optuna studies of a study's folder, the one of the refits last.

    Args:
        folder: as `kdlab.study.spec` describes it.
        where: the storage, if its URL has a password, which study.yaml omits.

    Raises:
        UsageError: where there is none.
    """
    settings = read_settings(folder)
    noted = (settings["storage"] or "").replace(":***@", "@")  # the password is then in PGPASSWORD or ~/.pgpass
    where = where or noted or str(folder / "journal.log")
    if "://" not in where and not Path(where).is_file():
        raise UsageError(f"{folder}: its storage {where} does not exist")
    with closing(open_storage(where)) as storage:
        yield studies_of(storage, settings["name"])


def studies_of(storage: Storage, name: str) -> list[Study]:
    """The Optuna studies of a study, the one of the refits last."""
    known = optuna.get_all_study_names(storage.optuna)
    names = sorted(found for found in known if found.split("/")[0] == name)
    names.sort(key=lambda found: found == f"{name}/final")
    return [optuna.load_study(study_name=found, storage=storage.optuna) for found in names]


def read_settings(folder: Path) -> dict[str, str]:
    """The study.yaml of a study's folder.

    Raises:
        UsageError: where there is none.
    """
    file = folder / "study.yaml"
    if not file.is_file():
        raise UsageError(f"{folder} is not the folder of a study; expected one with a study.yaml, as runs/kd")
    found: dict[str, str] = yaml.safe_load(file.read_text())
    return found
