"""What a run that stopped left behind, read with care: a file may be cut short, or carry code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdlab.config.schema import check
from kdlab.core.errors import UsageError


def read_stopped_run(folder: Path) -> dict[str, Any]:
    """The config of a run that stopped, once its files were checked.

    Raises:
        UsageError: where there is no such run, it is complete, or one of its files is damaged.
    """
    if not (file := folder / "config.yaml").is_file():
        raise UsageError(f"resume={folder}: no run folder; expected one with a config.yaml, as below runs/")
    if (folder / "result.json").is_file():
        raise UsageError(f"resume={folder}: that run is complete; its numbers are in {folder / 'result.json'}")
    import yaml

    try:
        config = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError):
        config = None
    if not isinstance(config, dict) or not _whole(config):
        raise UsageError(f"resume={folder}: {file} is damaged, or of another version; start that run anew")
    check(config)
    for checkpoint in sorted(folder.glob("**/checkpoints/last.ckpt")):
        read_checkpoint(checkpoint)
    return config


def read_checkpoint(file: Path) -> dict[str, Any]:
    """A checkpoint of a run, of which nothing is run.

    Raises:
        UsageError: where it is damaged or carries code.
    """
    import torch

    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        int(checkpoint["kdlab"]["steps"])
    except Exception as error:  # unpickling what is no pickle raises whatever it stumbles over
        raise UsageError(
            f"{file} is truncated, or carries code, or is no checkpoint; without that file its training starts anew"
        ) from error
    found: dict[str, Any] = checkpoint
    return found


def _whole(config: Mapping[str, Any]) -> bool:
    from kdlab.config.compose import compose

    expected = compose()
    return all(
        key in config
        and (key not in ("trainer", "names") or (isinstance(config[key], dict) and not {*value} - {*config[key]}))
        for key, value in expected.items()
    )
