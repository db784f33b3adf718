"""Where kdlab keeps what outlives a run: trained networks and decoded data sets."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """`$KDLAB_HOME`, else `kdlab` in the user's cache folder (`$XDG_CACHE_HOME`, else `~/.cache`). Not created."""
    if chosen := os.environ.get("KDLAB_HOME"):
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "kdlab"
