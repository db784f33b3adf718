from __future__ import annotations

from pathlib import Path

import pytest

from kdlab.core.paths import home


def test_kdlab_home_wins_and_is_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    monkeypatch.setenv("KDLAB_HOME", "mine")
    assert home() == tmp_path / "mine"


def test_else_it_lies_in_the_cache_folder_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KDLAB_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert home() == Path("/elsewhere/kdlab")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert home() == Path.home() / ".cache" / "kdlab"
