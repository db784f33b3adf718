"""A study's storage on a PostgreSQL server, which may restart or be out of reach for minutes while the study runs.

Every worker has one connection, and the lock that excludes the others belongs to it. Outside the lock, a call that
met an outage is made again: it sets what it had set. Within the lock no connection is opened, so that nothing is
written once the lock is lost; the whole of what is done under it begins anew, and starts by reading what there is.
"""

from __future__ import annotations

import logging
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from optuna.storages import BaseStorage, RDBStorage, get_storage
from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from kdlab.core.errors import UsageError
from kdlab.core.printable import masked, printable

T = TypeVar("T")

PATIENCE = 600.0
"""Seconds without an answer after which a worker gives up."""

OPENING = 3.0
"""The same, before anything has begun: then the address is probably wrong."""

KEY = zlib.crc32(b"kdlab.sweep")

CONNECTING: Mapping[str, int] = {
    "connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}  # fmt: skip
"""libpq's settings by which a server that vanished without a word is noticed within a minute."""

logging.getLogger("optuna.storages._rdb.storage").setLevel(logging.ERROR)  # it warns of each query that is made again


class LockLostError(Exception):
    """The connection that held the lock has ended."""


class Server:
    """The storage of studies on a PostgreSQL server, its tables created if missing.

    Args:
        where: its URL.
        patience: in seconds.

    Raises:
        UsageError: where it cannot be reached, now or for `patience`.
    """

    def __init__(self, where: str, patience: float = PATIENCE) -> None:
        self.where, self._patience = where, OPENING
        self._locked = False
        url = _checked(where)
        try:
            self._storage = self._patiently(lambda: _opened(url))
        except SQLAlchemyError as error:
            raise UsageError(f"storage={masked(where)}: {_told(error)}") from error
        except ImportError as error:
            raise UsageError(f"storage={masked(where)} needs psycopg: pip install 'kdlab[postgres]'") from error
        self._patience = patience
        event.listen(self._storage.engine, "do_connect", self._refuse_without_lock)
        self.optuna = _through(self._call, get_storage(self._storage))

    def exclusively(self, do: Callable[[], T]) -> T:
        """What `do` returns, called while all other workers on all machines are excluded.

        It is called again where the lock was lost meanwhile, so it must begin by reading what there is.
        """
        return do() if self._locked else self._patiently(lambda: self._under_lock(do))

    def close(self) -> None:
        """Closes the connection, so that no process forked from this one shares it; the next call opens another."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    def _call(self, do: Callable[[], T]) -> T:
        return do() if self._locked else self._patiently(do)

    def _under_lock(self, do: Callable[[], T]) -> T:
        self._run("select pg_advisory_lock(:key)", key=KEY)
        self._locked = True
        try:
            return do()
        finally:
            try:
                self._run("select pg_advisory_unlock_all()")
            except (SQLAlchemyError, LockLostError):  # it ended with its connection
                self._storage.engine.dispose()
            finally:
                self._locked = False

    def _run(self, command: str, **values: Any) -> None:
        with self._storage.engine.connect() as connection:
            connection.execute(text(command), values)

    def _patiently(self, do: Callable[[], T]) -> T:
        began, pause = 0.0, 0.1
        while True:
            try:
                found = do()
            except Exception as error:
                if (reason := _outage(error)) is None:
                    raise
                now = time.monotonic()
                began = began or now
                if now - began > self._patience:
                    raise UsageError(
                        f"storage={masked(self.where)}: no answer for {self._patience:g} s: {reason}"
                    ) from error
                if pause == 0.1 and self._patience > OPENING:
                    _say(f"the storage does not answer, trying again for {self._patience / 60:.0f} min: {reason}")
                time.sleep(pause)
                pause = min(5.0, pause * 2)
            else:
                if began and self._patience > OPENING:
                    _say(f"the storage answers again, after {time.monotonic() - began:.1f} s")
                return found

    def _refuse_without_lock(self, *_: Any) -> None:
        if self._locked:
            raise LockLostError


def _checked(where: str) -> URL:
    """The URL of a server; refuses what is none, without showing its password."""
    try:
        url = make_url(where)
    except (ArgumentError, ValueError) as error:
        raise UsageError(f"storage={masked(where)}: expected postgresql://USER@HOST:PORT/DATABASE") from error
    if url.drivername not in ("postgresql", "postgresql+psycopg"):
        raise UsageError(f"storage={masked(where)}: expected a file for a journal, or postgresql://USER@HOST/DATABASE")
    if "@" in (url.host or ""):
        raise UsageError(f"storage={masked(where)}: write an @ in the password as %40, or set PGPASSWORD instead")
    if url.port is not None and not 0 < url.port < 65536:
        raise UsageError(f"storage={masked(where)}: {url.port} is not a port; expected 1 to 65535")
    return url.set(drivername="postgresql+psycopg")


def _opened(url: URL) -> RDBStorage:
    """Optuna's storage; its tables are created under the lock, since twice at once would fail.

    It keeps one connection. While it looks at the version of its tables it needs a second one.
    """
    settings = {key: value for key, value in CONNECTING.items() if key not in url.query}
    address = url.render_as_string(hide_password=False)
    lock: Engine = create_engine(address, poolclass=NullPool, connect_args=settings)
    with lock.connect() as connection:
        connection.execute(text("select pg_advisory_lock(:key)"), {"key": KEY})
        return RDBStorage(address, engine_kwargs={"pool_size": 1, "max_overflow": 1, "connect_args": settings})


def _through(call: Callable[[Callable[[], Any]], Any], storage: BaseStorage) -> BaseStorage:
    """A storage all of whose methods go through `call`."""

    def method(name: str) -> Callable[..., Any]:
        return lambda self, *args, **kwargs: call(lambda: getattr(storage, name)(*args, **kwargs))

    names = [name for name in dir(BaseStorage) if not name.startswith("_")]
    made: BaseStorage = type("PatientStorage", (BaseStorage,), {name: method(name) for name in names})()
    return made


def _outage(error: BaseException) -> str | None:
    """What a call met, in a line, where the same call may succeed later; else None."""
    for found in _chain(error):
        if isinstance(found, (OperationalError, InterfaceError)):
            return _told(found)
        if isinstance(found, LockLostError):
            return "the connection with the lock has ended"
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _told(error: BaseException) -> str:
    """The first line of what the driver says, which never quotes a password."""
    said = str(getattr(error, "orig", None) or error).strip() or type(error).__name__
    return printable(masked(said.splitlines()[0]))


def _say(words: str) -> None:
    print(f"kdlab: {words}", file=sys.stderr, flush=True)
