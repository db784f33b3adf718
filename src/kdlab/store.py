"""`python -m kdlab.store list | verify | prune [KEY...]`: the trained networks that runs share."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from rich.console import Console
from rich.filesize import decimal

from kdlab.core.errors import one_line
from kdlab.core.terminal import PlainTable, terminal
from kdlab.run.store import DamagedError, Store
from kdlab.run.store_prune import prune

SHORT = 12
"""Digits of a key that are shown."""


@one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit code is 0, 1 where `verify` finds damage, 2 for what the user must change."""
    parser = argparse.ArgumentParser(prog="python -m kdlab.store", description=__doc__)
    jobs = parser.add_subparsers(dest="job", required=True)
    jobs.add_parser("list", help="what is in the store")
    jobs.add_parser("verify", help="read and hash every entry; the exit code is 1 where one is damaged")
    pruning = jobs.add_parser("prune", help="remove damaged entries and what killed processes left, or the given ones")
    pruning.add_argument("keys", nargs="*", metavar="KEY", help="the key of an entry, or how it begins")
    given = parser.parse_args(arguments)
    store = Store()
    if given.job == "list":
        _list(store, terminal())
    elif given.job == "verify":
        return _verify(store)
    else:
        removed = prune(store, given.keys)
        print(f"Removed from {store.root}: {', '.join(key[:SHORT] for key in removed) or 'no entry'}")
    return 0


def _list(store: Store, console: Console) -> None:
    table = PlainTable(str(store.root))
    for column in ("key", "model", "data", "trained by", "epochs", "size", "date"):
        table.add_column(column, justify="right" if column in ("epochs", "size") else "left", no_wrap=column == "key")
    for folder in store.folders():
        table.add_row(folder.name[:SHORT], *_cells(store, folder))
    console.print(table)


def _cells(store: Store, folder: Path) -> Iterator[str]:
    try:
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
        about = store.about(folder)
        model, mode = dict(recipe["model"]), recipe["mode"]["_target_"].split(".")[-2]
        settings = [f"{key}={value}" for key, value in model.items() if key in ("depth", "width", "name")]
        cells = [
            " ".join([model["_target_"].rpartition(".")[2], *settings]),
            about.get("data") or recipe["data"]["fingerprint"][:8],
            " ".join([mode, *recipe["loss"]["heads"]]),
            str(recipe["trainer"]["max_epochs"]),
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, yaml.YAMLError, DamagedError):
        yield "damaged"
        return
    yield from cells
    file = folder / "weights.safetensors"
    yield decimal(file.stat().st_size)
    yield time.strftime("%Y-%m-%d %H:%M", time.localtime(file.stat().st_mtime))


def _verify(store: Store) -> int:
    damaged = 0
    for folder in store.folders():
        if damage := store.damage(folder):
            damaged += 1
            print(f"{folder} is damaged: {damage}")
    print(f"{len(store.folders())} entries, {damaged} damaged" + ("; prune removes them" if damaged else ""))
    return int(damaged > 0)


if __name__ == "__main__":
    raise SystemExit(main())
