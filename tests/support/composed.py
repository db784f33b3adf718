"""Composed runs as plain data, as their config.yaml has them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdlab.config.compose import compose as typed


def compose(overrides: Sequence[str] = (), folders: Sequence[Path] = ()) -> dict[str, Any]:
    """The config of a run, as plain data."""
    return typed(overrides, folders).plain()
