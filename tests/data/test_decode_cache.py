"""Decoded pictures that were kept: what was changed since is told in one line and decoded again."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from kdlab.core.paths import home
from kdlab.data.source import Folder

Change = Callable[[Path], None]


def rewritten(change: Callable[[dict[str, Tensor], dict[str, Any]], Any]) -> Change:
    """Writes a file anew with other tensors or metadata."""

    def damage(file: Path) -> None:
        with safe_open(file, framework="pt") as opened:
            about = json.loads(opened.metadata()["kdlab"])
        tensors = {name: value.clone() for name, value in load_file(file).items()}
        metadata = change(tensors, about)
        save_file(tensors, file, {"kdlab": json.dumps(about)} if metadata is None else metadata)

    return damage


def flipped(name: str, by: int) -> Change:
    def change(tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        tensors[name].view(-1)[0] ^= by

    return rewritten(change)


def told(**changes: Any) -> Change:
    return rewritten(lambda _, about: about.update(changes))


def written(content: Callable[[bytes], bytes]) -> Change:
    def damage(file: Path) -> None:
        file.write_bytes(content(file.read_bytes()))

    return damage


def nested(tensors: dict[str, Tensor], about: dict[str, Any]) -> dict[str, str]:
    return {"kdlab": "[" * 100_000}


def hole(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


CHANGES: dict[str, Change] = {
    "a pixel": flipped("train.images", 1),
    "a label": flipped("train.labels", 1),
    "a label out of range": flipped("train.labels", 2**40),
    "a label of the test part": flipped("test.labels", 1),
    "truncated": written(lambda whole: whole[: len(whole) // 2]),
    "a byte short": written(lambda whole: whole[:-1]),
    "empty": written(lambda whole: b""),
    "text": written(lambda whole: b"hello world"),
    "zeros": written(lambda whole: bytes(len(whole))),
    "a header that claims all memory": written(lambda whole: b"\xff" * 8 + whole[8:]),
    "no metadata": rewritten(lambda tensors, about: {}),
    "metadata that is not JSON": rewritten(lambda tensors, about: {"kdlab": "{"}),
    "metadata of another kind": rewritten(lambda tensors, about: {"kdlab": "3"}),
    "metadata without end": rewritten(nested),
    "other classes": told(classes=["dog", "cat"]),
    "classes that are numbers": told(classes=[0, 1]),
    "no classes": told(classes=None),
    "parts that are not there": told(parts=["train", "exam"]),
    "a part left out": told(parts=["train"]),
    "parts of another kind": told(parts=3),
    "damaged of another kind": told(damaged=3),
    "another fingerprint": told(fingerprint="0" * 64),
    "another data set": told(origin="0" * 64),
    "pictures of another type": rewritten(lambda t, about: t.update({"train.images": t["train.images"].float()})),
    "pictures of another shape": rewritten(lambda t, about: t.update({"train.images": t["train.images"].flatten()})),
    "labels of another length": rewritten(lambda t, about: t.update({"train.labels": t["train.labels"][:-1].clone()})),
    "labels of another type": rewritten(lambda t, about: t.update({"train.labels": t["train.labels"].bfloat16()})),
}


def source(path: Path) -> Folder:
    return Folder(str(path), 8, 3)


@pytest.mark.parametrize("what", CHANGES)
def test_what_was_changed_since_it_was_kept_is_told_and_decoded_again(
    what: str, folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder("train", cat=6, dog=6)
    folder("test", cat=2, dog=2)
    before = source(path)
    (file,) = (home() / "data").iterdir()
    whole = file.read_bytes()
    CHANGES[what](file)
    assert file.read_bytes() != whole
    after = source(path)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"kdlab: {file}: ")
    assert line.endswith("; decoding the pictures again")
    assert len(line) < 400
    assert after.fingerprint == before.fingerprint
    assert hashlib.sha256(file.read_bytes()).digest() == hashlib.sha256(whole).digest()
    source(path)
    assert capsys.readouterr().err == ""


def test_another_data_sets_pictures_do_not_pass_for_these(
    folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder(cat=6, dog=6)
    other = folder("other", cat=8, dog=7) / "other"
    source(other)
    (theirs,) = (home() / "data").iterdir()
    hidden = tmp_path / "hidden"
    other.rename(hidden)
    first = source(path)
    (ours,) = {*(home() / "data").iterdir()} - {theirs}
    ours.write_bytes(theirs.read_bytes())
    assert source(path).fingerprint == first.fingerprint
    assert "its content was changed" in capsys.readouterr().err


def test_a_pipe_in_the_place_of_kept_pictures_is_replaced(folder: Callable[..., Path]) -> None:
    path = folder(cat=6, dog=6)
    before = source(path)
    (file,) = (home() / "data").iterdir()
    hole(file)
    assert source(path).fingerprint == before.fingerprint
    assert file.is_file()


def test_unlabelled_pictures_that_were_changed_are_decoded_again(
    folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder(cat=6, dog=6)
    labelled = source(path)
    (first,) = (home() / "data").iterdir()
    before = labelled.with_unlabelled(str(path / "cat"), {})
    (file,) = {*(home() / "data").iterdir()} - {first}
    flipped("train.images", 1)(file)
    after = labelled.with_unlabelled(str(path / "cat"), {})
    assert torch.equal(torch.as_tensor(after.train.inputs), torch.as_tensor(before.train.inputs))
    assert "decoding the pictures again" in capsys.readouterr().err


def test_two_processes_that_decode_at_once_both_end_well(folder: Callable[..., Path]) -> None:
    path = folder(cat=40, dog=40, size=(64, 64))
    code = f"from kdlab.data.source import Folder; print(Folder({str(path)!r}, 32, 3).fingerprint)"
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert [error for _, error in told] == ["", ""]
    assert len({out for out, _ in told}) == 1
    (file,) = (home() / "data").iterdir()  # and nothing unfinished beside it
    assert Folder(str(path), 32, 3).fingerprint == told[0][0].strip()
    assert file.is_file()
