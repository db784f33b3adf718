"""The packages of the optional extra `text`, which take seconds to import: imported when a network first needs them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from kdlab.core.errors import UsageError


def extra(package: str) -> Any:
    """A package of `pip install 'kdlab[text]'`.

    Raises:
        UsageError: where it is not installed.
    """
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise UsageError(f"{package} is not installed; type pip install 'kdlab[text]'") from error
