"""The keys of a study, typed; their meaning is in `kdlab.study.spec_file`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictInt

from kdlab.config.schema import Component
from kdlab.config.settings import Settings

Count = Annotated[StrictInt, Field(ge=1, le=1_000_000)]
Few = Annotated[StrictInt, Field(ge=1, le=1024)]
Whole = Annotated[StrictInt, Field(ge=0, le=2**32 - 1)]
Direction = Literal["maximize", "minimize"]
Seconds = Annotated[float, Field(gt=0, le=1e9)]
ACCURACY: Mapping[str, Direction] = {"validation.accuracy": "maximize"}


class Budget(Settings):
    """`trials` of each arm; `seconds` of each start of the command."""

    trials: Count = 50
    seconds: Seconds | None = None


class Final(Settings):
    """What is refitted at the end, and with how many seeds."""

    seeds: Whole = 5
    of: Literal["best", "front"] = "best"
    default: StrictBool = True
    same: tuple[str, ...] = Field(default=(), description="a list of keys of the space")


class StudyConfig(Settings):
    """The YAML of a study, with defaults filled in."""

    name: str = Field(description="a name that can be a folder's")
    overrides: tuple[str, ...] = ()
    compare: Mapping[str, Any] | None = None
    space: Mapping[str, Any] = {}
    objectives: Mapping[str, Direction] = Field(default_factory=lambda: ACCURACY)
    constraints: tuple[str, ...] = ()
    sampler: Component = Field(default_factory=lambda: {"_target_": "optuna.samplers.TPESampler"})
    pruner: Component | None = Field(
        default=None, description="a class, {_target_: optuna.pruners.MedianPruner}, or null"
    )
    budget: Budget = Budget()
    first: tuple[Mapping[str, Any], ...] = Field(
        default=(), description="keys of the space with their values, in a list"
    )
    seed: Whole = 0
    seeds: Few = 1
    retries: Whole = 1
    hang_seconds: Seconds | None = 600
    workers: Few = 1
    storage: str | None = Field(default=None, description="a file, postgresql://USER@HOST/DATABASE, or null")
    final: Final = Final()
