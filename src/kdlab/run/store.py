"""Trained networks on disk, addressed by the hash of their recipe.

Teachers, assistants and students trained alone are the same kind of thing: weights that a recipe determines.
Layout: `$KDLAB_HOME/store/KEY/` with `weights.safetensors`, `recipe.yaml` and `result.json`, written aside, flushed to
the disk and renamed into place, so that an entry is whole or absent. Each of the three files vouches for another: the
recipe for the folder's name, the result for the weights, and these (in their metadata) for recipe and result. An entry
that is damaged counts as absent: it is trained again and replaced.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open

from kdlab.config.yaml_file import parse_yaml
from kdlab.core.errors import UsageError
from kdlab.core.files import flush
from kdlab.core.paths import home
from kdlab.networks.weights import StateDict, hash_file, load_weights, save_weights
from kdlab.run.recipe import key_of

PATIENCE = 0.5
"""Seconds between two calls of `waiting`."""

WRITING, DISCARDED = ".writing-", ".discarded-"
"""Prefixes of folders that are no entries: not yet, or no longer."""


_PARSERS = (
    FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, KeyError, TypeError, AttributeError,
    RecursionError, SafetensorError,
)  # fmt: skip
"""What reading a damaged entry raises. A disk that cannot be read now says nothing about the entry."""


class DamagedError(ValueError):
    """An entry that is not what was stored; the message says how, in a clause."""


@dataclass(frozen=True)
class Entry:
    """One trained network of the store."""

    folder: Path
    result: dict[str, Any]
    loaded: StateDict | None = None

    @property
    def key(self) -> str:
        """The hash of its recipe."""
        return self.folder.name

    def weights(self) -> StateDict:
        """Its state dict, on the CPU, after checking the hash of the file.

        Raises:
            UsageError: where the file has changed.
        """
        if self.loaded is not None:
            return self.loaded
        file = self.folder / "weights.safetensors"
        if not file.is_file() or hash_file(file) != self.result["weights_sha256"]:
            raise UsageError(f"{self.folder} was damaged just now; the same command trains it again")
        return load_weights(file)


class Store:
    """The entries below one folder.

    Args:
        root: the folder; by default that of `$KDLAB_HOME`.
        waiting: called repeatedly while another process trains the requested network.
        loaded: weights that this process has already read, by key.
    """

    def __init__(
        self,
        root: Path | None = None,
        waiting: Callable[[], None] = lambda: None,
        loaded: Mapping[str, StateDict] | None = None,
    ) -> None:
        self.root = root or home() / "store"
        self._waiting, self._loaded = waiting, loaded or {}

    def find(self, recipe: Mapping[str, Any]) -> Entry | None:
        """The entry of a recipe, or None where there is none or it is damaged."""
        folder = self.root / key_of(recipe)
        try:
            return self._read(folder) if folder.is_dir() else None
        except DamagedError:
            return None

    def get(
        self,
        recipe: Mapping[str, Any],
        train: Callable[[], tuple[StateDict, dict[str, Any]]],
        about: Mapping[str, str] | None = None,
    ) -> Entry:
        """The entry of a recipe, trained first where there is none.

        Two processes that request one recipe train it once: the second waits for the first, and takes over if that one
        dies.

        Args:
            recipe: what determines the network.
            train: returns the weights and the result.
            about: see `put`.
        """
        if (entry := self.find(recipe)) is not None:
            return entry
        key = key_of(recipe)
        with self._turn(self.lock(key)):
            if (entry := self.find(recipe)) is not None:
                return entry
            if (folder := self.root / key).exists() and (damage := self.damage(folder)):
                print(f"kdlab: {folder} is damaged: {damage}; training it again", file=sys.stderr, flush=True)
            return self.put(recipe, *train(), about)

    def put(
        self,
        recipe: Mapping[str, Any],
        weights: StateDict,
        result: Mapping[str, Any],
        about: Mapping[str, str] | None = None,
    ) -> Entry:
        """Stores a trained network. An existing entry stays as it is, unless it is damaged.

        Args:
            recipe: what determines it.
            weights: its state dict.
            result: its measurements, as plain data.
            about: names for people, shown in lists.
        """
        folder = self.root / key_of(recipe)
        with self._aside() as aside:
            file = aside / "weights.safetensors"
            save_weights(weights, file, {**(about or {}), "recipe": folder.name, "result": _digest(result)})
            (aside / "recipe.yaml").write_text(yaml.safe_dump(dict(recipe), sort_keys=False), encoding="utf-8")
            whole = {**result, "weights_sha256": hash_file(file)}
            (aside / "result.json").write_text(json.dumps(whole, indent=2), encoding="utf-8")
            for path in (*aside.iterdir(), aside):
                flush(path)
            while (entry := self.find(recipe)) is None:
                try:
                    aside.rename(folder)
                    flush(self.root)
                except OSError:
                    if not folder.exists():
                        raise
                    self.discard_damaged(folder)
        return entry

    def folders(self) -> list[Path]:
        """Of every entry, the damaged ones, too."""
        return sorted(path for path in self.root.glob("[0-9a-f]*") if len(path.name) == 64)

    def damage(self, folder: Path) -> str | None:
        """What is damaged in an entry, in words; None where all of it is as it was stored."""
        try:
            self._read(folder)
        except DamagedError as error:
            return str(error)
        return None

    def discard_damaged(self, folder: Path) -> None:
        """Takes an entry away for `prune`, unless another process has replaced it by a good one meanwhile."""
        with self.lock("discarding"):
            if folder.exists() and self.damage(folder):
                self.discard(folder)

    def discard(self, folder: Path) -> None:
        """Takes an entry away, at once, for `prune`."""
        folder.rename(self.root / f"{DISCARDED}{folder.name}-{secrets.token_hex(4)}")

    def lock(self, name: str) -> FileLock:
        """A lock that processes share; it ends with the process that holds it."""
        locks = self.root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        return FileLock(locks / f"{name}.lock")

    def _read(self, folder: Path) -> Entry:
        key = folder.name
        try:
            result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
            digest = result.pop("weights_sha256")
        except _PARSERS as error:
            raise DamagedError("its result.json is missing or is not what was written") from error
        try:
            own = key_of(parse_yaml((folder / "recipe.yaml").read_text(encoding="utf-8"), "recipe.yaml"))
        except _PARSERS as error:
            raise DamagedError("its recipe.yaml is missing or is not what was written") from error
        if own != key:
            raise DamagedError("its recipe.yaml is that of another network")
        if (loaded := self._loaded.get(key)) is None:
            about = self.about(folder)
            if hash_file(folder / "weights.safetensors") != digest:
                raise DamagedError("its weights are not those of its result.json")
            if about.get("recipe", key) != key:
                raise DamagedError("its weights are those of another network")
            if "result" in about and about["result"] != _digest(result):
                raise DamagedError("its result.json is not what was written")
        return Entry(folder, {**result, "weights_sha256": digest}, loaded)

    def about(self, folder: Path) -> dict[str, str]:
        """What the weights of an entry say about themselves.

        Raises:
            DamagedError: where they cannot be read.
        """
        try:
            with safe_open(folder / "weights.safetensors", "pt") as file:
                return dict(file.metadata() or {})
        except _PARSERS as error:
            raise DamagedError("its weights are missing or are not what was written") from error

    @contextmanager
    def _aside(self) -> Iterator[Path]:
        """A folder to write an entry in. Its lock says that its process is alive."""
        aside = self.root / f"{WRITING}{secrets.token_hex(4)}"
        with self.lock(aside.name) as lock:
            try:
                aside.mkdir()
                yield aside
            finally:
                shutil.rmtree(aside, ignore_errors=True)
                Path(lock.lock_file).unlink(missing_ok=True)

    @contextmanager
    def _turn(self, lock: FileLock) -> Iterator[None]:
        while not lock.is_locked:
            try:
                lock.acquire(timeout=PATIENCE)
            except Timeout:
                self._waiting()
        try:
            yield
        finally:
            lock.release()


def _digest(result: Mapping[str, Any]) -> str:
    """SHA-256 of plain data, the same before it is written as JSON and after it is read."""
    plain = json.loads(json.dumps(result))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
