"""`python -m kdlab.store`: what is in the store, whether it is whole, and what may go."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from kdlab.run.store import Store
from kdlab.store import main
from support.tiny_runs import machine, train

WEIGHTS = {"weight": torch.arange(6.0)}

# Killed while it writes an entry, and while it holds the lock of another.
KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from kdlab.run import store
store.hash_file = lambda file: os.kill(os.getpid(), signal.SIGKILL)
store.Store(Path(sys.argv[1])).get({"model": "unfinished"}, lambda: ({"weight": torch.zeros(1)}, {}))
"""


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLAB_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "160")
    return Store()


def test_a_list_says_what_each_network_is(tmp_path, capsys):
    with machine(tmp_path / "home"):
        told = train("model=resnet8", "model.width=0.25", "mode=supervised", "trainer.max_epochs=1", "logger=csv",
                     runs=tmp_path / "runs")  # fmt: skip
        assert main(["list"]) == 0
        (row,) = [line for line in capsys.readouterr().out.splitlines() if told.result["key"][:12] in line]
        (file,) = (tmp_path / "home").rglob("weights.safetensors")
    for word in ("ResNet width=0.25 depth=8", "digits", "supervised", " 1 ", f"{file.stat().st_size / 1000:.1f} kB"):
        assert word in row.replace("│", " "), row


def test_verify_names_what_is_damaged_and_prune_removes_that_alone(store, capsys):
    good, bad = (store.put({"model": name}, WEIGHTS, {}) for name in ("good", "bad"))
    assert main(["verify"]) == 0
    assert capsys.readouterr().out == "2 entries, 0 damaged\n"
    (bad.folder / "weights.safetensors").write_bytes(b"")
    assert main(["verify"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{bad.folder} is damaged: its weights are missing or are not what was written",
        "2 entries, 1 damaged; prune removes them",
    ]
    assert main(["list"]) == 0
    assert "damaged" in capsys.readouterr().out
    assert main(["prune"]) == 0
    assert capsys.readouterr().out == f"Removed from {store.root}: {bad.key[:12]}\n"
    assert [folder.name for folder in store.folders()] == [good.key]
    assert main(["verify"]) == 0


def test_prune_removes_what_killed_processes_left_and_nothing_of_those_that_live(store, capsys):
    store.put({"model": "good"}, WEIGHTS, {})
    died = subprocess.run([sys.executable, "-c", KILLED, str(store.root)], check=False,
                          env={**os.environ, "PYTHONPATH": ":".join(sys.path)})  # fmt: skip
    assert died.returncode == -signal.SIGKILL
    (store.root / ".writing-old").mkdir()  # as earlier versions left it, without a lock
    (store.root / f".discarded-{'a' * 64}-0").mkdir()
    left = {path.name for path in store.root.glob(".*")}
    assert len(left) == 3
    with store._aside() as aside, store.lock("held"):
        (aside / "weights.safetensors").touch()
        assert main(["prune"]) == 0
        assert (aside / "weights.safetensors").exists()
        assert {path.name for path in (store.root / "locks").iterdir()} == {f"{aside.name}.lock", "held.lock"}
        assert {path.name for path in store.root.glob(".*")} == {aside.name}
    assert main(["prune"]) == 0
    assert list((store.root / "locks").iterdir()) == []
    assert "aaaaaaaaaaaa" in capsys.readouterr().out
    assert main(["verify"]) == 0


def test_prune_removes_the_entries_of_given_keys(store, capsys):
    one, two = (store.put({"model": name}, WEIGHTS, {}) for name in ("one", "two"))
    assert main(["prune", one.key[:10]]) == 0
    assert [folder.name for folder in store.folders()] == [two.key]
    capsys.readouterr()
    assert main(["prune", two.key, "xyz"]) == 2
    assert capsys.readouterr().err == (
        f"kdlab: no entry begins with 'xyz' in {store.root}; python -m kdlab.store list shows their keys\n"
    )
    assert [folder.name for folder in store.folders()] == [two.key]


def test_an_empty_store_has_nothing_to_list_verify_or_prune(store, capsys):
    assert [main([job]) for job in ("list", "verify", "prune")] == [0, 0, 0]
    assert "0 entries, 0 damaged" in capsys.readouterr().out
