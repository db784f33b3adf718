"""Defaults that a mode proposes for the rest of a run: options of groups and values of keys, `proposes` in its YAML.

A mode was published with a loss, its weights, sometimes a schedule. These hold unless the user or an experiment
chose otherwise: an option of a group wins over all that is proposed for that group; a key, or a dial that it reads,
wins over the value proposed for it. An experiment's settings of other groups leave them as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from kdlab.core.errors import UsageError

Config = dict[str, Any]

_DIALS = ("loss.alpha", "loss.temperature")


def modes_of(phases: Any, own: str) -> list[str]:
    """The modes in which a run trains, by name, each once.

    Args:
        phases: of the run, as the user wrote them.
        own: the run's mode, for phases that name none.
    """
    named = [phase.get("mode") for phase in phases if isinstance(phase, dict)] if isinstance(phases, list) else []
    return list(dict.fromkeys(name if isinstance(name, str) else own for name in named)) or [own]


def proposals(
    modes: Mapping[str, Mapping[str, Any]], given: Sequence[str], groups: Mapping[str, Any]
) -> tuple[list[str], Config]:
    """The options, as overrides `loss=[kd,fitnet]`, and the values, by key, that a run's modes propose.

    Args:
        modes: by name, the config of each mode in which a phase trains, not resolved.
        given: the keys and groups of the user's own overrides, and of the experiments that they name.
        groups: of the config.

    Raises:
        UsageError: where their proposals differ, and the user chose neither.
    """
    each = {name: _free(mode, given) for name, mode in modes.items()}
    free: Config = next(iter(each.values()), {})
    for name, other in each.items():
        if other != free:
            keys = sorted(key for key in {*free, *other} if free.get(key) != other.get(key))
            raise UsageError(
                f"phases: {next(iter(each))} and {name} were published with different settings of {', '.join(keys)}; "
                f"choose one, as in {keys[0].split('.')[0]}=kd"
            )
    options = [f"{key}={value}".replace("'", "") for key, value in free.items() if key in groups]
    return options, {key: value for key, value in free.items() if key not in groups}


def _free(mode: Mapping[str, Any], given: Sequence[str]) -> Config:
    proposed = mode.get("proposes", {})
    return {key: value for key, value in proposed.items() if key.split(".")[0] not in given}


def holds(key: str, config: Mapping[str, Any], default: object, given: Sequence[str]) -> bool:
    """Whether the value proposed for a key still applies.

    Args:
        config: as the user's overrides left it, not resolved.
        default: the value before them: where it reads a dial, `${...alpha}`, the user may have set that.
        given: the keys of the overrides, and those that the experiments set.
    """
    dials = re.findall(r"\$\{\.\.\.(\w+)\}", str(default))
    if key in given or any(f"loss.{dial}" in given for dial in dials):
        return False
    if key not in _DIALS:
        return True
    dial = key.removeprefix("loss.")
    readers = [name for name, head in config["loss"]["heads"].items() if f"...{dial}}}" in str(head)]
    return bool(readers) and not any(f"loss.published.{name}.{dial}" in given for name in readers)
