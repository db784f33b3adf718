"""The store: an entry is whole or absent, is what was written, and is trained once however many ask for it."""

import hashlib
import json
import multiprocessing
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

import kdlab.run.store
from kdlab.core.errors import UsageError
from kdlab.run.recipe import key_of
from kdlab.run.store import Store
from support.store_race import RECIPE, ask

WEIGHTS = {"weight": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(7)}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def names(store: Store) -> list[str]:
    """All that is in a store, but for its locks."""
    return [path.name for path in store.root.iterdir() if path.name != "locks"]


def never():
    pytest.fail("it was trained again")


def test_what_is_stored_is_found_with_its_recipe_and_its_result(store):
    recipe = {"model": {"depth": 8}, "seed": 0}
    entry = store.get(recipe, lambda: (WEIGHTS, {"test": {"last": {"accuracy": 0.5}}}))
    assert (entry.folder, entry.key) == (store.root / key_of(recipe), key_of(recipe))
    assert sorted(file.name for file in entry.folder.iterdir()) == ["recipe.yaml", "result.json", "weights.safetensors"]
    assert yaml.safe_load((entry.folder / "recipe.yaml").read_text()) == recipe
    again = store.get({"seed": 0, "model": {"depth": 8}}, never)
    assert again.result["test"] == {"last": {"accuracy": 0.5}}
    assert {name: value.tolist() for name, value in again.weights().items()} == {"weight": [[0, 1, 2], [3, 4, 5]],
                                                                                 "count": 7}  # fmt: skip
    assert store.find({**recipe, "seed": 1}) is None


def test_the_store_is_below_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("KDLAB_HOME", str(tmp_path / "elsewhere"))
    assert Store().root == tmp_path / "elsewhere" / "store"


@pytest.mark.parametrize("stage", ["save_weights", "hash_file"])
def test_an_entry_whose_writing_was_broken_off_is_absent(store, monkeypatch, stage):
    def full(*_):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(kdlab.run.store, stage, full)
        with pytest.raises(OSError, match="no space"):
            store.put(RECIPE, WEIGHTS, {})
    assert store.find(RECIPE) is None
    assert names(store) == []
    assert store.get(RECIPE, lambda: (WEIGHTS, {})).weights()["count"] == 7


def test_a_training_that_fails_leaves_nothing_and_no_lock(store):
    def fails():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.get(RECIPE, fails)
    assert store.find(RECIPE) is None
    assert store.get(RECIPE, lambda: (WEIGHTS, {})).weights()["count"] == 7


def test_what_a_process_left_that_was_killed_while_it_wrote_is_no_entry(store, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(kdlab.run.store.shutil, "rmtree", lambda *_, **__: None)
        patch.setattr(kdlab.run.store, "hash_file", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            store.put(RECIPE, WEIGHTS, {})
    (left,) = store.root.glob(".writing-*")
    assert {file.name for file in left.iterdir()} == {"weights.safetensors", "recipe.yaml"}
    assert store.find(RECIPE) is None
    assert store.get(RECIPE, lambda: (WEIGHTS, {})).weights()["count"] == 7


def test_an_entry_that_is_there_stays_as_it_is(store):
    store.put(RECIPE, WEIGHTS, {"first": True})
    second = store.put(RECIPE, {"weight": torch.zeros(2, 3)}, {"first": False})
    assert second.result["first"] is True
    assert second.weights()["count"] == 7
    assert names(store) == [second.key]


def test_while_another_trains_what_is_asked_for_it_is_said_that_one_waits(store, monkeypatch):
    monkeypatch.setattr(kdlab.run.store, "PATIENCE", 0.01)
    begun, enough, waits = threading.Event(), threading.Event(), []

    def train():
        begun.set()
        assert enough.wait(20)
        return WEIGHTS, {}

    def waiting():
        waits.append(1)
        if len(waits) == 3:
            enough.set()

    other = threading.Thread(target=store.get, args=(RECIPE, train))
    other.start()
    assert begun.wait(20)
    assert Store(store.root, waiting=waiting).get(RECIPE, never).weights()["count"] == 7
    other.join()
    assert len(waits) >= 3


@pytest.mark.parametrize("damage", ["a byte", "the end", "everything"])
def test_damaged_weights_are_never_handed_out(store, damage):
    entry = store.put(RECIPE, WEIGHTS, {})
    file = entry.folder / "weights.safetensors"
    whole = bytearray(file.read_bytes())
    whole[-1] ^= 1
    file.write_bytes({"a byte": whole, "the end": whole[:-4], "everything": b""}[damage])
    said = rf"^{entry.folder} was damaged just now; the same command trains it again$"
    with pytest.raises(UsageError, match=said):
        entry.weights()
    file.unlink()
    with pytest.raises(UsageError, match=said):
        entry.weights()


def flip(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1] + bytes([file.read_bytes()[-1] ^ 1]))


def swap(one: Path, other: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside), other.rename(one), aside.rename(other)


DAMAGE = {
    "result.json is cut short": lambda mine, _: (mine / "result.json").write_text('{"weights'),
    "result.json is empty": lambda mine, _: (mine / "result.json").write_text(""),
    "result.json is a list": lambda mine, _: (mine / "result.json").write_text("[1]"),
    "result.json is not UTF-8": lambda mine, _: (mine / "result.json").write_bytes(b"\xff\xfe\x00"),
    "result.json nests without end": lambda mine, _: (mine / "result.json").write_text("[" * 100_000),
    "result.json has no digest": lambda mine, _: (mine / "result.json").write_text("{}"),
    "result.json has another figure": lambda mine, _: (mine / "result.json").write_text(
        (mine / "result.json").read_text().replace("0.25", "0.35")),
    "result.json is gone": lambda mine, _: (mine / "result.json").unlink(),
    "the folder is empty": lambda mine, _: [file.unlink() for file in mine.iterdir()],
    "the folder is a file": lambda mine, _: (shutil.rmtree(mine), mine.touch()),
    "recipe.yaml is gone": lambda mine, _: (mine / "recipe.yaml").unlink(),
    "recipe.yaml is garbage": lambda mine, _: (mine / "recipe.yaml").write_text("{a: [*b"),
    "recipe.yaml is a list": lambda mine, _: (mine / "recipe.yaml").write_text("- 1"),
    "recipe.yaml has another seed": lambda mine, _: (mine / "recipe.yaml").write_text("model: contested\nseed: 1"),
    "recipes are swapped": lambda mine, other: swap(mine / "recipe.yaml", other / "recipe.yaml"),
    "results are swapped": lambda mine, other: swap(mine / "result.json", other / "result.json"),
    "weights are swapped": lambda mine, other: swap(mine / "weights.safetensors", other / "weights.safetensors"),
    "weights and results are swapped": lambda mine, other: [
        swap(mine / name, other / name) for name in ("weights.safetensors", "result.json")],
    "entries are swapped": lambda mine, other: swap(mine, other),
    "a bit of the weights is flipped": lambda mine, _: flip(mine / "weights.safetensors"),
    "the weights are empty": lambda mine, _: (mine / "weights.safetensors").write_bytes(b""),
    "the weights are gone": lambda mine, _: (mine / "weights.safetensors").unlink(),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_counts_as_absent_is_said_in_a_line_and_trained_again(store, capfd, damage):
    entry = store.put(RECIPE, WEIGHTS, {"accuracy": 0.25})
    other = store.put({"model": "other"}, {name: value + 1 for name, value in WEIGHTS.items()}, {"accuracy": 0.5})
    DAMAGE[damage](entry.folder, other.folder)
    assert store.find(RECIPE) is None
    again = store.get(RECIPE, lambda: (WEIGHTS, {"accuracy": 0.75}))
    assert again.weights()["count"] == 7
    assert again.result["accuracy"] == 0.75
    said = capfd.readouterr().err
    assert said.startswith(f"kdlab: {entry.folder} is damaged: its ")
    assert said.endswith("; training it again\n")
    assert said.count("\n") == 1
    assert store.get(RECIPE, never).result["accuracy"] == 0.75
    assert capfd.readouterr().err == ""
    if damage != "the folder is empty":  # which is replaced as it is
        assert len(list(store.root.glob(f".discarded-{entry.key}-*"))) == 1
    assert "swapped" in damage or store.get({"model": "other"}, never).result["accuracy"] == 0.5


def test_an_entry_of_an_earlier_version_whose_weights_do_not_name_their_recipe_is_good(store):
    entry = store.put(RECIPE, WEIGHTS, {"accuracy": 0.25})
    save_file(WEIGHTS, entry.folder / "weights.safetensors")
    digest = hashlib.sha256((entry.folder / "weights.safetensors").read_bytes()).hexdigest()
    (entry.folder / "result.json").write_text(json.dumps({"accuracy": 0.25, "weights_sha256": digest}))
    assert store.get(RECIPE, never).weights()["count"] == 7


def test_of_two_that_replace_one_damaged_entry_the_second_keeps_what_the_first_wrote(store, monkeypatch):
    entry = store.put(RECIPE, WEIGHTS, {"by": "nobody"})
    (entry.folder / "result.json").write_text("")
    second, rename = Store(store.root), Path.rename

    def slow(path, target):  # the first is overtaken by the second, just before it discards
        if path == entry.folder and ".discarded" in target.name:
            monkeypatch.setattr(Path, "rename", rename)
            path.rename(target)
            assert second.put(RECIPE, WEIGHTS, {"by": "second"}).result["by"] == "second"
            return None
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", slow)
    assert store.put(RECIPE, WEIGHTS, {"by": "first"}).result["by"] == "second"
    assert store.find(RECIPE).result["by"] == "second"
    assert len(names(store)) == 2
    assert not list(store.root.glob(".writing-*"))


def test_tensors_that_share_memory_and_views_come_back_whole(store):
    shared = torch.arange(4.0)
    entry = store.put(RECIPE, {"a": shared, "b": shared, "c": shared.reshape(2, 2).T}, {})
    saved = entry.weights()
    assert saved["a"].tolist() == saved["b"].tolist() == [0, 1, 2, 3]
    assert saved["c"].tolist() == [[0, 2], [1, 3]]


@pytest.fixture(scope="module")
def race(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """One process is killed at its training while two others wait; the folder, and the three process ids."""
    place = tmp_path_factory.mktemp("race")
    spawn = multiprocessing.get_context("spawn")
    asking = [spawn.Process(target=ask, args=(place / "store", place / "diary", seconds)) for seconds in (99, 0.5, 0.5)]
    asking[0].start()
    wait(lambda: (place / "diary").exists())
    for process in asking[1:]:
        process.start()
    wait(lambda: len(list(place.glob("asking-*"))) == 3)
    time.sleep(0.2)  # they ask now, and wait
    assert not list(place.glob("got-*"))
    asking[0].kill()
    for process in asking[1:]:
        process.join(30)
        assert process.exitcode == 0
    return place, [process.pid or 0 for process in asking]


def wait(done) -> None:
    end = time.monotonic() + 60
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_two_processes_that_ask_for_one_network_train_it_once(race):
    place, (_, *survivors) = race
    (trainer,) = [int(pid) for pid in (place / "diary").read_text().split()[1:]]
    assert trainer in survivors
    assert [(place / f"got-{pid}").read_text() for pid in survivors] == [str(trainer)] * 2


def test_the_place_of_a_process_that_was_killed_is_taken(race):
    place, (killed, *_) = race
    assert int((place / "diary").read_text().split()[0]) == killed
    assert not (place / f"got-{killed}").exists()
    entry = Store(place / "store").find(RECIPE)
    assert json.loads((entry.folder / "result.json").read_text())["trained_by"] != killed


def test_an_entry_that_cannot_be_read_now_is_not_damaged_and_stays(store, monkeypatch):
    """A network file system with a hiccup, files of another user: nothing is trained again over them, or pruned."""
    folder = store.put(RECIPE, WEIGHTS, {}).folder

    def hiccup(*_, **__):
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr(kdlab.run.store, "hash_file", hiccup)
        with pytest.raises(OSError, match="Stale"):
            store.find(RECIPE)
        with pytest.raises(OSError, match="Stale"):
            store.discard_damaged(folder)
    assert store.get(RECIPE, never).weights()["count"] == 7
