"""Turns plain config, `{_target_: package.Class, key: value}`, into objects of allowed classes only.

A prefix list of module names would be a hole: `torch.os.system` starts with `torch.`. So the object that a path
resolves to is judged: by the module that defines it, and by its type.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pickle import UnpicklingError
from typing import Any, TypeVar

from kdlab.core.errors import UsageError, nearest

T = TypeVar("T")

_NETWORKS = ("kdlab.models", "kdlab.heads", "kdlab.modes", "torchvision.models", "timm", "transformers")

PACKAGES: Mapping[str, tuple[str, ...]] = {
    "model": _NETWORKS,
    "peers": _NETWORKS,
    "loss": ("kdlab.heads",),
    "mode": ("kdlab.modes",),
    "task": ("kdlab.tasks",),
    "data": ("kdlab.data",),
    "optimizer": ("torch.optim",),
    "optimizers": ("torch.optim",),
    "scheduler": ("torch.optim",),
    "sampler": ("optuna.samplers",),
    "pruner": ("optuna.pruners", "kdlab.study.pruner"),
}
"""Per group of the config, the packages whose classes may be built; a run adds its own with `allow=[...]`."""

FACTORIES = ("kdlab", "torchvision.models", "timm")
"""Packages whose functions may be called too, where they are annotated to return the wanted type."""

_WEIGHTS_ALONE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""The environment variable by which `torch.load` refuses code whatever its caller says."""

SETTINGS = "transformers.configuration_utils"
"""The module of the base class of network settings, which may be nested within a network's config."""


def build(
    config: Mapping[str, Any], kind: type[T], key: str, *, allow: Sequence[str] = (), nested: bool = False,
    **arguments: Any,
) -> T:  # fmt: skip
    """The object that `config` describes, with `arguments` added to its keys.

    Args:
        config: plain data with `_target_`; nested mappings with a `_target_` are built first.
        kind: what the result must be an instance of.
        key: of the config, `teacher.model`; its group decides which packages are allowed.
        allow: further packages.
        nested: see `resolve`.
        arguments: further ones for the target.

    Raises:
        UsageError: where the target is missing, not allowed, of another type, or refuses its arguments.
    """
    target = resolve(config.get("_target_"), kind, key, allow=allow, nested=nested)
    given = build_nested({name: value for name, value in config.items() if name != "_target_"}, kind, key, allow)
    try:
        with nullcontext() if _within(str(getattr(target, "__module__", "")), allow) else _weights_alone():
            result: T = target(**given, **arguments)
    except UnpicklingError as error:
        raise UsageError(f"{key}: a file of weights that it names carries code; save them with safetensors") from error
    except TypeError as error:
        if _fits(target, {**given, **arguments}):
            raise
        raise UsageError(f"{key}: {config['_target_']} does not fit its settings: {error}") from error
    except ValueError as error:
        if PACKAGES.keys() & set(re.split(r"\W", str(error).split(" ")[0])):  # it names its key
            raise
        raise UsageError(f"{key}: {error}") from error
    if not nested and not isinstance(result, kind):
        raise UsageError(f"{key}._target_={config['_target_']} made a {type(result).__name__}, not a {kind.__name__}")
    return result


def build_nested(config: Mapping[str, Any], kind: type, key: str, allow: Sequence[str] = ()) -> dict[str, Any]:
    """A config in which every group of keys with a `_target_` is the object that it describes; see `build`."""
    return {name: value if name == "_target_" else _nested(value, kind, f"{key}.{name}", allow)
            for name, value in config.items()}  # fmt: skip


def resolve(path: object, kind: type, key: str, *, allow: Sequence[str] = (), nested: bool = False) -> Any:
    """The class, or the public factory annotated to return one, that a dotted path names.

    Args:
        path, kind, key, allow: see `build`.
        nested: within the settings of another, so that it may itself be settings, or any class of `allow`.

    Raises:
        UsageError: see `build`.
    """
    if not isinstance(path, str) or "." not in path:
        raise UsageError(f"{key}._target_={path}: expected the path of a class, package.module.Class")
    group = next((part for part in reversed(key.split(".")) if part in PACKAGES), "")
    allowed = (*PACKAGES.get(group, ()), *allow)
    root = path.split(".")[0]
    if not _within(path, allowed):  # importing a module already runs it
        raise UsageError(
            f"{key}._target_={path} is not in an allowed package ({', '.join(allowed)}); "
            f"allow your own with allow=[{root}]"
        )
    found = _find(path, key)
    home = getattr(found, "__module__", None) or ""
    if not _within(home, allowed):
        raise UsageError(
            f"{key}._target_={path} is defined in {home or 'no module'}, which is not allowed here; expected a "
            f"{kind.__name__} from {', '.join(allowed)}"
        )
    fits = _makes(found, kind) and (isinstance(found, type) or _within(home, (*FACTORIES, *allow)))
    if not fits and not (nested and isinstance(found, type) and (_settles(found) or _within(home, allow))):
        raise UsageError(
            f"{key}._target_={path}: expected a {kind.__name__} class, or a factory annotated to return one"
        )
    return found


NOT_ARGUMENTS = ("taps", "from_teacher")
"""Keys of a network's config that its class does not take."""


def network_arguments(network: Mapping[str, Any]) -> dict[str, Any]:
    """A network's config, and that of a network within it, as their classes take them."""
    plain = {key: value for key, value in network.items() if key not in NOT_ARGUMENTS}
    return {key: network_arguments(value) if isinstance(value, Mapping) else value for key, value in plain.items()}


@contextmanager
def _weights_alone() -> Iterator[None]:
    """Files of weights are read without running code: the factories of timm take some, and unpickle them otherwise."""
    before = os.environ.get(_WEIGHTS_ALONE)
    os.environ[_WEIGHTS_ALONE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_WEIGHTS_ALONE]
        else:
            os.environ[_WEIGHTS_ALONE] = before


def _within(home: str, packages: Sequence[str]) -> bool:
    return any(home == package or home.startswith(f"{package}.") for package in packages)


def _settles(made: type) -> bool:
    return any(base.__module__ == SETTINGS for base in made.__mro__)


def _fits(target: Any, arguments: Mapping[str, Any]) -> bool:
    try:
        inspect.signature(target).bind(**arguments)
    except TypeError:
        return False
    return True


def _makes(found: object, kind: type) -> bool:
    if isinstance(found, type):
        return issubclass(found, kind)
    if not inspect.isfunction(found) or found.__name__.startswith("_"):
        return False
    try:
        made = typing.get_type_hints(found).get("return")
    except NameError:
        return False
    return isinstance(made, type) and issubclass(made, kind)


def _find(path: str, key: str) -> object:
    parts = path.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:cut])
        try:
            found: object = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
                continue
            raise UsageError(f"{key}._target_={path} needs {error.name}: pip install {error.name}") from error
        for part in parts[cut:]:
            if not hasattr(found, part):
                known = [name for name in dir(found) if not name.startswith("_")]
                raise UsageError(f"{key}._target_={path}: {module} has no {part}{nearest(part, known)}")
            found = getattr(found, part)
        return found
    extras = {"torchvision": "'kdlab[vision]'", "timm": "'kdlab[vision]'", "transformers": "'kdlab[text]'"}
    raise UsageError(
        f"{key}._target_={path}: {parts[0]} is not installed; pip install {extras.get(parts[0], parts[0])}"
    )


def _nested(value: Any, kind: type, key: str, allow: Sequence[str]) -> Any:
    if isinstance(value, Mapping):
        if "_target_" in value:
            if value["_target_"] is None:  # a group that waits for its class
                return None
            return build(value, kind, key, allow=allow, nested=True)
        return {name: _nested(entry, kind, f"{key}.{name}", allow) for name, entry in value.items()}
    if isinstance(value, list):
        return [_nested(entry, kind, f"{key}.{place}", allow) for place, entry in enumerate(value)]
    return value
