"""Reads what a stopped run left behind, safely: a file may be truncated, or carry code."""

from __future__ import annotations

from collections.abc import Sequence
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
        UsageError: where there is no such run, it is complete, one of its files is damaged, or it needs code that is
            not allowed.
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
    for checkpoint in sorted(folder.glob("**/checkpoints/last.ckpt")):
        read_checkpoint(checkpoint)
    return config.replace(allow=tuple(allow))


def resume_command(folder: Path, allow: Sequence[str] = ()) -> str:
    """What to type to resume a run, with the packages of the user's own that it needs."""
    return f"python -m kdlab.train resume={folder}" + (f" 'allow=[{','.join(allow)}]'" if allow else "")


def read_checkpoint(file: Path) -> dict[str, Any]:
    """A checkpoint of a run, loaded without executing code.

    Raises:
        UsageError: where it is damaged or carries code.
    """
    import torch

    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        int(checkpoint["kdlab"]["steps"])
    except Exception as error:  # unpickling a damaged file can raise anything
        raise UsageError(
            f"{file} is truncated, carries code, or is not a checkpoint; delete it to train from the start"
        ) from error
    found: dict[str, Any] = checkpoint
    return found
