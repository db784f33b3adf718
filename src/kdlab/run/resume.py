"""Reads what a stopped run left behind, safely: a file may be truncated, changed, or carry code."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdlab.config.ranges import check
from kdlab.config.schema import RunConfig
from kdlab.config.settings import parse
from kdlab.config.yaml_file import read_yaml
from kdlab.core.errors import UsageError


def read_stopped_run(folder: Path, allow: Sequence[str] = ()) -> RunConfig:
    """The config of a stopped run, after checking its files.

    Args:
        folder: of the run.
        allow: the packages outside kdlab that the command line allows: the run's files decide none.

    Raises:
        UsageError: where there is no such run, it is complete, its files are damaged, or it needs code that is not
            allowed.
    """
    if not (file := folder / "config.yaml").is_file():
        raise UsageError(f"resume={folder}: not a run folder; expected one with a config.yaml, as below runs/")
    if (folder / "result.json").is_file():
        raise UsageError(f"resume={folder}: that run is complete; its numbers are in {folder / 'result.json'}")
    try:
        content = read_yaml(file)
        config = parse(RunConfig, content)
    except UsageError as error:
        raise UsageError(f"resume={folder}: {file} is damaged, or of another version; start a new run") from error
    check(content)
    if not set(config.allow) <= set(allow):
        raise UsageError(
            f"resume={folder} uses classes of your own packages; to run them type "
            f"{resume_command(folder, config.allow)}"
        )
    last_good(folder)
    return config.replace(allow=tuple(allow))


def resume_command(folder: Path, allow: Sequence[str] = ()) -> str:
    """What to type to resume a run, with the packages of the user's own that it needs."""
    return f"python -m kdlab.train {shlex.quote(f'resume={folder}')}" + (
        f" 'allow=[{','.join(allow)}]'" if allow else ""
    )


@dataclass(frozen=True)
class Checkpoint:
    """Where a stopped training continues.

    steps: optimizer steps made. damaged: a later checkpoint that cannot be read.
    """

    file: Path
    steps: int
    damaged: Path | None


def last_good(folder: Path, recipe: Mapping[str, Any] | None = None) -> Checkpoint | None:
    """The newest checkpoint of a stopped training that is whole; None where it has written none.

    Args:
        folder: with its `checkpoints`.
        recipe: of the network that it trains now; None: it is not compared.

    Raises:
        UsageError: where no checkpoint is whole, or it is of another recipe.
    """
    from kdlab.training.checkpoint_io import LAST, PREVIOUS, DamagedError, read

    damaged: list[tuple[Path, DamagedError]] = []
    for name in (LAST, PREVIOUS):
        file = folder / "checkpoints" / name
        try:
            found = read(file)
        except FileNotFoundError:
            continue
        except DamagedError as error:
            damaged.append((file, error))
            continue
        if recipe is not None and (before := json.loads(found["recipe"])) is not None:
            _refuse_changed(folder, file, before, recipe)
        return Checkpoint(file, int(found["kdlab"]["steps"]), damaged[0][0] if damaged else None)
    if damaged:
        reasons = ", and ".join(str(error) for _, error in damaged)
        raise UsageError(f"{reasons}; delete {'it' if len(damaged) == 1 else 'both'} to train from the start")
    return None


def _refuse_changed(folder: Path, checkpoint: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    change = next(_changes(before, now), None)
    if change is None:
        return
    key, was, is_now = change
    again = "undo that, or start a new run"
    if key == "version":
        raise UsageError(f"{checkpoint} was written by another version of kdlab; resume with that one")
    if key == "data.fingerprint":
        raise UsageError(f"{checkpoint} was trained on other data than there are now; {again}")
    if key.endswith(".checkpoint"):
        raise UsageError(f"{checkpoint} was trained with other weights in the file of {key}; {again}")
    raise UsageError(
        f"{folder / 'config.yaml'} is not what {checkpoint} was trained by, one of the two was changed: "
        f"{key} was {was} and is {is_now}; {again}"
    )


def _changes(before: Any, now: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two recipes differ: the key, what it was, what it is."""
    from kdlab.run.recipe import key_of

    if key_of({"": before}) == key_of({"": now}):
        return
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in dict.fromkeys((*before, *now)):
            either = before.get(name, "not set"), now.get(name, "not set")
            yield from _changes(*either, f"{key}.{name}" if key else str(name))
    elif isinstance(before, list) and isinstance(now, list | tuple) and len(before) == len(now):
        for place, either in enumerate(zip(before, now, strict=True)):
            yield from _changes(*either, f"{key}.{place}")
    else:
        yield key, before, now
