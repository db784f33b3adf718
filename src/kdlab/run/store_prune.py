"""Removes from the store what is of no use: damaged entries, and what killed processes left."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from filelock import Timeout

from kdlab.core.errors import UsageError
from kdlab.run.store import DISCARDED, WRITING, Store


def prune(store: Store, keys: Sequence[str] = ()) -> list[str]:
    """Removes the entries of the given keys; where none is given, all that is of no use to anybody.

    Args:
        store: that is cleaned, while others may use it.
        keys: of entries, or how they begin.

    Returns:
        The names of what was removed.

    Raises:
        UsageError: where a key is not that of one entry.
    """
    if keys:
        for folder in dict.fromkeys(_entry(store, key) for key in keys):
            store.discard(folder)
    else:
        for folder in store.folders():
            store.discard_damaged(folder)
        for aside in store.root.glob(f"{WRITING}*"):
            _remove_left(store, aside.name)
        for lock in store.root.glob("locks/*.lock"):
            _remove_left(store, lock.stem)
    removed = list(store.root.glob(f"{DISCARDED}*"))
    for folder in removed:
        shutil.rmtree(folder, ignore_errors=True) if folder.is_dir() else folder.unlink(missing_ok=True)
    return [folder.name.removeprefix(DISCARDED).partition("-")[0] for folder in removed]


def _entry(store: Store, key: str) -> Path:
    found = [folder for folder in store.folders() if folder.name.startswith(key)]
    if len(found) != 1:
        how = "no entry begins" if not found else f"{len(found)} entries begin"
        raise UsageError(f"{how} with {key!r} in {store.root}; python -m kdlab.store list shows their keys")
    return found[0]


def _remove_left(store: Store, name: str) -> None:
    """Removes a lock that no process holds, and what was written under it."""
    lock = store.lock(name)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):  # it is held, or another user's
        return
    if name.startswith(WRITING):
        shutil.rmtree(store.root / name, ignore_errors=True)
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()
