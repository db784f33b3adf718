"""The dials of a run's losses, `loss.alpha` and `loss.temperature`, and the weight of the supervised loss."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from kdlab.config.ranges import check, leaves
from kdlab.core.errors import UsageError

Config = dict[str, Any]

DIALS = ("alpha", "temperature")

ANY = {"ramp": None, "ramp_shape": "linear", "first": None}
"""The keys that every loss has, whether its YAML names them or not: its weight may ramp up, and it may start with its
own phase."""


def tune(loss: Any) -> None:
    """Gives the chosen losses their settings from an overlay's `loss.tuned`, and drops those of the others."""
    from omegaconf import OmegaConf

    for name, settings in loss.pop("tuned", {}).items():
        if name in loss.heads:
            OmegaConf.update(loss, f"heads.{name}", settings, merge=True)


def open_dials(config: Any) -> None:
    """Gives every loss the optional keys, in the run and in taught teachers, so that they can be set."""
    for _, teacher in _teachers(config):
        open_dials(teacher)
    if config.get("loss") is not None:
        for key in (*DIALS, "task_weight"):
            config.loss.setdefault(key, None)
        for head in (config.loss.get("heads") or {}).values():
            for key, value in ANY.items():
                head.setdefault(key, value)


def set_dials(config: Config, path: str = "") -> None:
    """Fills `loss.alpha` and `loss.temperature` from the published values of the chosen losses, then drops those.

    A loss reads a dial where its settings refer to it, `${...temperature}`: by a relative path, so that the
    losses of a run and those of its teacher's training each have their own dials.
    """
    for place, teacher in _teachers(config):
        set_dials(teacher, f"{path}{place}.")
    if isinstance(config.get("mode"), dict):
        config["mode"].pop("proposes", None)
    loss = config.get("loss")
    if not isinstance(loss, dict):
        return
    published = loss.pop("published", {})
    loss.pop("space", None)
    heads = loss.setdefault("heads", {})
    for dial in DIALS:
        reference = f"...{dial}}}"
        readers = [name for name, head in heads.items() if any(reference in str(v) for _, v in leaves(head))]
        proposals = {name: published[name][dial] for name in readers}
        if loss.setdefault(dial, None) is not None:
            if not readers:
                chosen = ", ".join(heads)
                raise UsageError(f"{path}loss.{dial}={loss[dial]} has no effect: none of {chosen} reads it")
        elif len(set(proposals.values())) > 1:
            values = ", ".join(f"{name} {value}" for name, value in proposals.items())
            raise UsageError(f"{path}loss.{dial}: the chosen losses disagree ({values}); set {path}loss.{dial}=VALUE")
        elif proposals:
            loss[dial] = next(iter(proposals.values()))
    for dial in DIALS:  # before anything is computed from them
        check({"loss": {dial: loss.get(dial)}})


def set_task_weight(config: Config) -> None:
    for _, teacher in _teachers(config):
        set_task_weight(teacher)
    loss = config.get("loss")
    if isinstance(loss, dict) and isinstance(heads := loss.get("heads"), dict) and loss.get("task_weight") is None:
        weights = [head.get("task_weight", 1.0) for head in heads.values() if isinstance(head, dict)]
        if all(isinstance(weight, int | float) for weight in weights):  # else they are refused later
            loss["task_weight"] = round(math.prod(weights), 12)


def _teachers(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    if isinstance(teacher := config.get("teacher"), Mapping):
        yield "teacher", teacher
    for name, member in (config.get("members") or {}).items():
        yield f"members.{name}", member
