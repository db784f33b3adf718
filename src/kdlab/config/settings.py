"""Groups of settings: typed, immutable, and read from plain data with one line for what does not fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from kdlab.core.errors import UsageError, nearest

S = TypeVar("S", bound="Settings")


class Settings(BaseModel):
    """A group of keys: immutable, without undeclared keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    def replace(self, **changes: Any) -> Self:
        """The same settings with other values for some keys."""
        return self.model_copy(update=changes)

    def plain(self) -> dict[str, Any]:
        """Plain data for YAML and JSON; keys that were never set are left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class Targeted(Settings):
    """A component with some keys read by kdlab; all others are arguments of its class."""

    model_config = ConfigDict(extra="allow")

    target: str = Field(alias="_target_")

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of its class."""
        return dict(self.model_extra or {})

    @property
    def component(self) -> dict[str, Any]:
        """Its class and the arguments, for `kdlab.config.instantiate.build`."""
        return {"_target_": self.target, **self.options}


def parse(kind: type[S], given: Mapping[str, Any], key: str = "") -> S:
    """Plain data as settings of a kind.

    Args:
        kind: of the settings.
        given: plain data.
        key: where they stand, for messages.

    Raises:
        UsageError: naming the first key that is missing, unknown or of another type.
    """
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise UsageError(_message(kind, key, error)) from error


_EXPECTED = {
    "int": "a whole number", "float": "a number", "bool": "true or false", "string": "a word", "tuple": "a list",
    "mapping": "a group of keys", "dict": "a group of keys", "model": "a group of keys",
}  # fmt: skip


def _message(kind: type[Settings], key: str, error: ValidationError) -> str:
    # A misspelled key is also missing. For a value that fits none of several types, pydantic reports all errors;
    # the deepest one is about what was meant.
    first = max(error.errors(), key=lambda each: (len(each["loc"]), each["type"] == "extra_forbidden"))
    # Between the keys it also lists the types that it tried.
    loc = [str(part) for part in first["loc"] if isinstance(part, int) or part.islower() or not part.isalpha()]
    loc = [part for part in loc if part not in ("[key]", "int", "float", "str", "bool")]
    path = ".".join(filter(None, (key, *loc)))
    field, declared = _declared(kind, loc)
    if first["type"] == "extra_forbidden":
        return f"{path}: there is no such key{nearest(loc[-1], declared)}"
    if first["type"] == "missing":
        return f"{path} is missing; expected {path}=VALUE"
    value = "null" if first["input"] is None else first["input"]
    bounds = first.get("ctx", {})
    if field is not None and field.description:
        expected = field.description
    elif "ge" in bounds:
        expected = f"a whole number, {bounds['ge']} or more"
    elif "le" in bounds:
        expected = f"a number up to {bounds['le']:.15g}"
    elif "gt" in bounds:
        expected = f"a number above {bounds['gt']:g}"
    else:
        words = str(first["msg"]).removeprefix("Input should be ").replace("'", "")
        expected = _EXPECTED.get(first["type"].split("_")[0], words)
    return f"{path}={value}: expected {expected}"


def _declared(kind: type[BaseModel], path: Sequence[str]) -> tuple[FieldInfo | None, list[str]]:
    """The last declared field on a path of keys, and the keys on its level."""
    found, level = None, kind
    for part in path:
        level = kind
        fields = {field.alias or name: field for name, field in kind.model_fields.items()}
        if part in fields:  # else it is a name, or a place in a list
            found = fields[part]
            kind = next(_settings_in(found.annotation), kind)
    return found, [field.alias or name for name, field in level.model_fields.items()]


def _settings_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _settings_in(part)
