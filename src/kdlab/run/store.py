"""Trained networks on disk, addressed by the hash of their recipe.

Teachers, assistants and students trained alone are the same kind of thing: weights that a recipe determines.
Layout: `$KDLAB_HOME/store/KEY/` with `weights.safetensors`, `recipe.yaml` and `result.json`, written aside
and renamed into place, so that an entry is whole or absent.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from safetensors.torch import load_file

from kdlab.core.errors import UsageError
from kdlab.core.paths import home
from kdlab.networks.weights import StateDict, hash_file, save_weights
from kdlab.run.recipe import key_of

PATIENCE = 0.5
"""Seconds between two calls of `waiting`."""


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
            raise UsageError(f"{self.folder} is damaged: its weights are not those that were stored; delete it")
        return load_file(file)


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
        """The entry of a recipe, or None."""
        key = key_of(recipe)
        file = self.root / key / "result.json"
        return Entry(file.parent, json.loads(file.read_text()), self._loaded.get(key)) if file.is_file() else None

    def get(self, recipe: Mapping[str, Any], train: Callable[[], tuple[StateDict, dict[str, Any]]]) -> Entry:
        """The entry of a recipe, trained first where there is none.

        Two processes that request one recipe train it once: the second waits for the first, and takes over if that one
        dies.

        Args:
            recipe: what determines the network.
            train: returns the weights and the result.
        """
        if (entry := self.find(recipe)) is not None:
            return entry
        locks = self.root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with self._turn(FileLock(locks / f"{key_of(recipe)}.lock")):
            return self.find(recipe) or self.put(recipe, *train())

    def put(self, recipe: Mapping[str, Any], weights: StateDict, result: Mapping[str, Any]) -> Entry:
        """Stores a trained network. An existing entry stays as it is."""
        self.root.mkdir(parents=True, exist_ok=True)
        folder = self.root / key_of(recipe)
        aside = Path(tempfile.mkdtemp(prefix=".writing-", dir=self.root))
        try:
            save_weights(weights, aside / "weights.safetensors")
            (aside / "recipe.yaml").write_text(yaml.safe_dump(dict(recipe), sort_keys=False))
            whole = {**result, "weights_sha256": hash_file(aside / "weights.safetensors")}
            (aside / "result.json").write_text(json.dumps(whole, indent=2))
            aside.chmod(0o755)
            try:
                aside.rename(folder)
            except OSError:
                if not (folder / "result.json").is_file():
                    raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        entry = self.find(recipe)
        assert entry is not None
        return entry

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
