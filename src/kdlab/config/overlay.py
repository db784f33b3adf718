"""What an experiment overlay chooses and sets: read from its YAML, and from the overlays that it lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kdlab.config.ranges import leaves
from kdlab.config.yaml_file import read_yaml

_OWN = "_self_"


def set_by(overlays: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """The groups that overlays choose an option of, `loss`, `scheduler@teacher.scheduler`, and the keys they set.

    `loss.tuned.NAME.KEY`, which applies where that loss is chosen, is returned as `loss.heads.NAME.KEY`.

    Args:
        overlays: options of the group `experiment`, `cifar100/protocol`.
        folders: of config files, in which they lie.
    """
    found = [key for overlay in overlays for key in _keys(overlay, folders)]
    return list(dict.fromkeys(key.replace("loss.tuned.", "loss.heads.", 1) for key in found))


def _keys(overlay: str, folders: Sequence[Path]) -> Iterator[str]:
    file = next(file for folder in folders if (file := folder / "experiment" / f"{overlay}.yaml").is_file())
    body: dict[str, Any] = read_yaml(file) or {}
    for entry in body.pop("defaults", []):
        group = next(iter(entry)) if isinstance(entry, dict) else entry
        within = group.removeprefix("override ").removeprefix("/")
        if within.startswith("experiment/"):
            yield from _keys(within.removeprefix("experiment/"), folders)
        elif group != _OWN and not isinstance(entry, dict) and not group.startswith("/"):
            yield from _keys(f"{overlay.rpartition('/')[0]}/{group}".lstrip("/"), folders)  # relative to the overlay
        elif group != _OWN:
            yield within
    yield from (key for key, _ in leaves(body))
