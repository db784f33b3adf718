"""What a mode proposes to the rest of a run: `proposes` in its YAML, of options of groups and of values of keys.

A method that says who teaches whom was published with a loss, its weights, sometimes a schedule. They hold
where the user chose nothing of the kind: an option of the group, or an experiment, wins over all that is
proposed for that group; a key, or a dial that it reads, wins over the value that is proposed for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

Config = dict[str, Any]

_DIALS = ("loss.alpha", "loss.temperature")


def proposals(mode: Mapping[str, Any], given: Sequence[str], groups: Mapping[str, Any]) -> tuple[list[str], Config]:
    """The options, as overrides `loss=[kd,fitnet]`, and the values, by key, that a mode proposes.

    Args:
        mode: its config, not resolved.
        given: the keys and groups of the user's own overrides.
        groups: of the config.
    """
    proposed = {} if "experiment" in given else mode.get("proposes", {})
    free = {key: value for key, value in proposed.items() if key in groups or key.split(".")[0] not in given}
    options = [f"{key}={value}".replace("'", "") for key, value in free.items() if key in groups and key not in given]
    return options, {key: value for key, value in free.items() if key not in groups}


def holds(key: str, config: Mapping[str, Any], default: object, given: Sequence[str]) -> bool:
    """Whether the value that is proposed for a key is still wanted.

    Args:
        config: as the user's overrides left it, not resolved.
        default: what stood there before them: where it reads a dial, `${...alpha}`, the user may have set that.
        given: the keys of the overrides.
    """
    dials = re.findall(r"\$\{\.\.\.(\w+)\}", str(default))
    if key in given or any(f"loss.{dial}" in given for dial in dials):
        return False
    return key not in _DIALS or f"...{key.removeprefix('loss.')}}}" in str(config["loss"]["heads"])
