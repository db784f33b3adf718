"""A recipe is all that decides a trained network: data, model, task, optimizer, schedule, epochs, seed, teacher.

Two runs with one recipe end with the same network, whoever asked for it and whatever was logged. So the
store addresses networks by the hash of their recipe.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from kdlab.training.phases import plan

VERSION = 2

Config = dict[str, Any]

DECISIVE = ("max_epochs", "max_steps", "batch_size", "accumulate", "precision", "gradient_clip")
"""The keys of `trainer` that change the result; devices, logging and checkpoints do not."""

SUPERVISED: Config = {"_target_": "kdlab.modes.supervised.Supervised"}
LABELS_ALONE: Config = {"task_weight": 1.0, "heads": {}}


def alone_run(config: Mapping[str, Any]) -> Config:
    """The run that trains the same student with labels alone, for as many epochs as all phases that train it."""
    phases = plan(config["trainer"]["max_epochs"], config["loss"]["heads"], config.get("phases"))
    epochs = sum(phase.epochs for phase in phases if not phase.prepare)
    config = {**config, "trainer": {**config["trainer"], "max_epochs": epochs}}
    taught = {"mode": SUPERVISED, "loss": LABELS_ALONE, "phases": None, "teacher": None}
    return {**config, **taught, "names": _names(config["names"], taught)}


def teachers_of(config: Mapping[str, Any]) -> list[Config]:
    """The settings of each teacher of a run: none, one, or the members of an ensemble."""
    teacher = config.get("teacher")
    if not teacher:
        return []
    return list(teacher["members"].values()) if "members" in teacher else [teacher]


def teacher_run(config: Mapping[str, Any], teacher: Mapping[str, Any]) -> Config:
    """The run that trains a teacher of another run: its own recipe, on the same data."""
    taught = {
        "mode": teacher.get("mode") or SUPERVISED,
        "loss": teacher.get("loss") or LABELS_ALONE,
        "phases": teacher.get("phases"),
        "teacher": teacher.get("teacher"),
    }
    return {
        **config,
        **{key: teacher[key] for key in ("model", "optimizer", "scheduler", "seed")},
        "trainer": {**config["trainer"], **teacher["trainer"]},
        **taught,
        "keep": "last",
        "names": {**_names(config["names"], taught), "model": _class(teacher["model"]).lower()},
    }


def _names(names: Mapping[str, str | None], taught: Config) -> dict[str, str | None]:
    """What a run that another one waits for is called by, in tables and dashboards."""
    teacher = taught["teacher"]
    return {
        **names,
        "mode": taught["mode"]["_target_"].split(".")[-2],
        "loss": "+".join(taught["loss"]["heads"]),
        "teacher": _class(teacher["model"]).lower() if teacher and "model" in teacher else None,
    }


def _class(made: Mapping[str, Any]) -> str:
    return str(made["_target_"]).rpartition(".")[2]


def recipe_of(config: Mapping[str, Any], fingerprint: str, checkpoints: Mapping[str, str] | None = None) -> Config:
    """The recipe of the network that a run's config trains.

    Args:
        config: a composed run; its `teacher` is None where its mode has none.
        fingerprint: of the data and its split.
        checkpoints: the hash of each external file of weights, by its path.
    """
    data, model = config["data"], config["model"]
    if config["mode"]["_target_"] == SUPERVISED["_target_"] and not config.get("phases"):
        data, model = {**data, "views": {}}, {**model, "taps": None}  # nobody sees the views, nobody reads the taps
    return {
        "version": VERSION,
        "data": {
            "fingerprint": fingerprint,
            **{key: data.get(key) for key in ("mean", "std", "augment", "views")},
            "augment": _augment(data.get("augment")),
        },
        "model": model,
        **{key: config[key] for key in ("task", "optimizer", "scheduler", "seed", "mode", "keep")},
        "trainer": {key: config["trainer"].get(key) for key in DECISIVE},
        "loss": {key: config["loss"][key] for key in ("task_weight", "heads")},
        "phases": config.get("phases"),
        "teachers": [_teacher(config, teacher, fingerprint, checkpoints or {}) for teacher in teachers_of(config)],
    }


def _augment(settings: Config | None) -> Config | None:
    # Not used is the same as not known, as in recipes written before there was such a key.
    return settings and {key: value for key, value in settings.items() if key != "randaugment" or value}


def _teacher(
    config: Mapping[str, Any], teacher: Mapping[str, Any], fingerprint: str, checkpoints: Mapping[str, str]
) -> Config:
    own = {"input": {key: teacher.get(key) for key in ("mean", "std", "size", "classes")}}
    if teacher.get("checkpoint"):
        return {**own, "model": teacher["model"], "checkpoint": checkpoints[teacher["checkpoint"]]}
    if taps := teacher["model"].get("taps"):
        own["taps"] = taps  # which nothing in its own training read
    return {**own, **recipe_of(teacher_run(config, teacher), fingerprint, checkpoints)}


def key_of(recipe: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical form of a recipe, in hexadecimal: neither the order of keys matters, nor 1 or 1.0."""
    canonical = json.dumps(_canonical(recipe), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _canonical(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
