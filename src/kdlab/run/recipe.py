"""A recipe is all that determines a trained network: data, model, task, optimizer, schedule, epochs, seed, teacher.

Two runs with one recipe end with the same network, whatever was logged. So the store addresses networks by the
hash of their recipe.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdlab.config.schema import Component, DataConfig, FitConfig, HeadConfig, RunConfig, TeacherConfig
from kdlab.config.settings import Settings
from kdlab.networks.weights import hash_file, hash_folder
from kdlab.run.derive import SUPERVISED, teacher_run

VERSION = 3
"""3: networks are tapped where the published code taps them, catkd, srrl and simkd read the map before pooling, and an
epoch ends with its last, smaller batch."""

Recipe = dict[str, Any]


def recipe_of(config: RunConfig, fingerprint: str, checkpoints: Mapping[str, str] | None = None) -> Recipe:
    """The recipe of the network that a run's config trains.

    A key that kdlab reads counts as absent where it is null, so that a key added later changes no recipe.

    Args:
        config: a run, without what its mode does not use.
        fingerprint: of the data and its split.
        checkpoints: the hash of each external file or folder of weights, by its path.
    """
    checkpoints = checkpoints or {}
    views, model = config.data.views, _described(config.model, checkpoints)
    if config.mode.target == SUPERVISED.target and not config.phases:
        views, model = {}, _without_taps(model)  # nothing reads the views or the taps
    return {
        "version": VERSION,
        "data": {
            "fingerprint": fingerprint, "mean": config.data.mean, "std": config.data.std,
            "augment": {name: value for name, value in config.data.augment.items() if value is not None},
            "views": views, "drop_last": config.data.drop_last, **_own_settings(config.data),
        },
        "model": model,
        "task": config.task,
        "optimizer": config.optimizer,
        "scheduler": config.scheduler,
        "seed": config.seed,
        "mode": _plain(config.mode),
        "keep": config.keep,
        "trainer": {key: value for key, value in _plain(config.trainer).items() if key in FitConfig.model_fields},
        "loss": {key: value for key, value in _plain(config.loss).items() if key in ("task_weight", "heads")},
        "phases": None if config.phases is None else [_plain(phase) for phase in config.phases],
        "teachers": [_teacher(config, teacher, fingerprint, checkpoints) for teacher in config.teachers],
    }  # fmt: skip


def _own_settings(data: DataConfig) -> Recipe:
    """What a source of the user's own may read as it transforms samples: any of its keys."""
    return {} if data.target.startswith("kdlab.") else {"settings": data.options}


def key_of(recipe: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical form of a recipe, in hexadecimal; the order of keys and 1 or 1.0 make no difference."""
    canonical = json.dumps(_canonical(recipe), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _teacher(config: RunConfig, teacher: TeacherConfig, fingerprint: str, checkpoints: Mapping[str, str]) -> Recipe:
    own: Recipe = {"input": {key: getattr(teacher, key) for key in ("mean", "std", "size", "classes")}}
    if teacher.given:
        weights = {"checkpoint": checkpoints[teacher.checkpoint]} if teacher.checkpoint else {}
        return {**own, "model": _described(teacher.model, checkpoints), **weights}
    if taps := teacher.model.get("taps"):
        own["taps"] = taps  # which its own training did not read
    return {**own, **recipe_of(teacher_run(config, teacher), fingerprint, checkpoints)}


def given_weights(config: RunConfig | TeacherConfig) -> Iterator[tuple[str, str]]:
    """The hash of each file and each folder of weights that the networks of a run start from, by its path."""
    for folder in folders_of(config.model):
        yield folder, hash_folder(Path(folder))
    for teacher in config.teachers:
        if teacher.checkpoint:
            yield teacher.checkpoint, hash_file(Path(teacher.checkpoint))
        yield from given_weights(teacher)


def folders_of(model: Component) -> Iterator[str]:
    """The folders of trained networks that a network starts from, it or those within it."""
    for value in model.values():
        if isinstance(value, Mapping):
            yield from folders_of(value)
    if str(model.get("_target_")).startswith("kdlab.models.pretrained.") and model.get("path"):
        yield model["path"]


def _described(model: Component, hashes: Mapping[str, str]) -> Component:
    """A network's config with the hash of a folder in place of its path, and without what starts it from no teacher."""
    found = {key: _described(value, hashes) if isinstance(value, Mapping) else value for key, value in model.items()
             if (key, value) != ("from_teacher", None)}  # fmt: skip
    return found | {"path": hashes.get(path, path)} if (path := model.get("path")) in [*folders_of(model)] else found


def _without_taps(model: Component) -> Component:
    return {name: value for name, value in model.items() if name != "taps"}


def _plain(value: Any) -> Any:
    """Settings as plain data: keys of kdlab's own that are null are left out, arguments of a class never are."""
    if isinstance(value, Settings):
        fields = type(value).model_fields.items()
        own = {field.alias or name: _plain(getattr(value, name)) for name, field in fields}
        if isinstance(value, HeadConfig) and not value.ramp:  # and so has no shape either
            own |= {"ramp": None, "ramp_shape": None}
        return {**{key: entry for key, entry in own.items() if entry is not None}, **(value.model_extra or {})}
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _canonical(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_canonical(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
