"""Folders with more in them than pictures: refused in one line, or read; never a hang, never a traceback."""

from __future__ import annotations

import os
import socket
import zlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdlab.data import check as module
from kdlab.data.check import DataError, check, pictures
from kdlab.data.source import Folder

pytestmark = pytest.mark.timeout(30)
Change = Callable[[Path], object]


@pytest.fixture
def pets(folder: Callable[..., Path]) -> Path:
    """A folder with two classes of four pictures."""
    return folder(cat=4, dog=4)


@pytest.fixture
def _short_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path has 108 characters at most


def settings(path: Path) -> dict[str, object]:
    return {"_target_": "kdlab.data.source.Folder", "path": str(path), "classes": 2}


def refusal(read: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        read()
    message = str(caught.value)
    assert message.isprintable()
    return message


def a_socket(file: Path) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(os.path.relpath(file))


NO_FILES: dict[str, Change] = {
    "a pipe": os.mkfifo,
    "a socket": a_socket,
    "a device": lambda file: file.symlink_to("/dev/zero"),
    "a terminal": lambda file: file.symlink_to("/dev/tty"),
    "a link to nowhere": lambda file: file.symlink_to("nowhere"),
    "a link to itself": lambda file: file.symlink_to(file),
}


@pytest.mark.usefixtures("_short_paths")
@pytest.mark.parametrize("what", NO_FILES)
def test_what_is_called_a_picture_but_is_no_file_is_refused(what: str, pets: Path) -> None:
    NO_FILES[what](pets / "cat" / "0000.png")
    said = f"data: {pets}/cat/0000.png is not a file but a pipe, a device or a broken link; remove it"
    assert refusal(lambda: Folder(str(pets), 8, 3)) == said
    assert refusal(lambda: Folder(str(pets), 8, 3).with_unlabelled(str(pets / "cat"), {})) == said


def circle(path: Path) -> None:
    (path / "cat" / "deep").mkdir()
    (path / "cat" / "deep" / "again").symlink_to(path / "cat")


def two_circles(path: Path) -> None:
    for name in ("a", "b"):
        (path / "cat" / name).symlink_to(path / "cat")


def doubling(path: Path) -> None:
    """2^40 ways to one picture, and no circle."""
    below = [path / "cat" / f"level{place}" for place in range(41)]
    for place in below:
        place.mkdir()
    for place, following in pairwise(below):
        (place / "left").symlink_to(following)
        (place / "right").symlink_to(following)


BACK: dict[str, Change] = {
    "a circle": circle,
    "two circles": two_circles,
    "everything": lambda path: (path / "cat" / "all").symlink_to("/"),
    "its parent": lambda path: (path / "cat" / "up").symlink_to(path.parent),
    "itself as a class": lambda path: (path / "eel").symlink_to(path),
    "doubling": doubling,
}


@pytest.mark.parametrize("what", BACK)
def test_a_link_that_leads_back_is_refused(what: str, pets: Path) -> None:
    BACK[what](pets)
    assert "is a link to a folder that is read anyway; remove it" in refusal(lambda: Folder(str(pets), 8, 3))


def test_a_link_to_a_folder_or_a_picture_elsewhere_is_followed(pets: Path, tmp_path: Path) -> None:
    (pets / "dog").rename(tmp_path / "elsewhere")
    (pets / "dog").symlink_to(tmp_path / "elsewhere")
    (pets / "cat" / "9.png").symlink_to(tmp_path / "elsewhere" / "0.png")
    data = Folder(str(pets), 8, 3)
    assert len(data.train) + len(data.test or ()) == 9


def test_a_folder_that_cannot_be_read_is_named(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look = os.scandir

    def denied(path: Path) -> Iterator[os.DirEntry[str]]:
        if Path(path).name == "dog":
            raise PermissionError(13, "Permission denied")
        return look(path)

    monkeypatch.setattr(module.os, "scandir", denied)
    said = f"data: {pets}/dog cannot be read (Permission denied)"
    assert refusal(lambda: Folder(str(pets), 8, 3)) == said
    assert refusal(lambda: check(settings(pets))) == said


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_picture_that_cannot_be_read_is_named(pets: Path) -> None:
    (pets / "cat" / "0.png").chmod(0)
    assert f"{pets}/cat/0.png cannot be decoded" in refusal(lambda: Folder(str(pets), 8, 3))


def test_folders_deeper_than_python_calls_are_read(pets: Path) -> None:
    deep = pets / "cat" / "/".join("a" * 1500)
    for place in reversed([deep, *deep.parents]):
        place.mkdir(exist_ok=True)
    try:
        (pets / "cat" / "0.png").rename(deep / "0.png")
        assert len(list(pictures(pets / "cat"))) == 4
        data = Folder(str(pets), 8, 3)
        assert len(data.train) + len(data.test or ()) == 8
    finally:
        (deep / "0.png").unlink(missing_ok=True)
        for place in [deep, *deep.parents][:1500]:  # which shutil.rmtree, and so pytest, cannot
            place.rmdir()


def test_a_name_that_is_not_utf8_is_read_or_named_in_printable_characters(pets: Path) -> None:
    strange = os.fsdecode(b"\xff\xfe\x1b.png")
    (pets / "cat" / "0.png").rename(pets / "cat" / strange)
    data = Folder(str(pets), 8, 3)
    assert len(data.train) + len(data.test or ()) == 8
    (pets / "cat" / strange).write_bytes(b"nothing")
    assert "cannot be decoded (not a picture)" in refusal(lambda: Folder(str(pets), 8, 3))


@pytest.mark.parametrize("name", [b"\xff\xfe", b"a\nb", b"\x1b[2J", b"a" * 201])
def test_a_class_whose_name_cannot_be_shown_is_refused(name: bytes, pets: Path) -> None:
    (pets / "dog").rename(pets / os.fsdecode(name))
    assert "expected a text of 1 to 200 printable characters" in refusal(lambda: Folder(str(pets), 8, 3))


def test_a_folder_named_like_a_picture_is_a_folder(pets: Path) -> None:
    (pets / "cat" / "x.png").mkdir()
    (pets / "cat" / "0.png").rename(pets / "cat" / "x.png" / "0.png")
    data = Folder(str(pets), 8, 3)
    assert len(data.train) + len(data.test or ()) == 8


def chunk(name: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4) + name + content + zlib.crc32(name + content).to_bytes(4)


def png(width: int, height: int, rows: bytes) -> bytes:
    """A grey PNG of 8 bits with these rows, whatever its header says."""
    header = width.to_bytes(4) + height.to_bytes(4) + bytes([8, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nothing",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n",
        png(0, 0, b""),
        png(2**31 - 1, 2**31 - 1, bytes(9)),
        png(30_000, 30_000, bytes(9)),
    ],
    ids=["empty", "text", "program", "no pixels", "2^62 pixels", "900 million pixels"],
)
def test_a_damaged_picture_is_named_or_left_out(content: bytes, pets: Path) -> None:
    (pets / "cat" / "0.png").write_bytes(content)
    said = refusal(lambda: Folder(str(pets), 8, 3))
    assert said.startswith(f"{pets}/cat/0.png cannot be decoded (")
    with pytest.warns(UserWarning, match="1 damaged pictures are left out"):
        data = Folder(str(pets), 8, 3, on_corrupt="skip")
    assert len(data.train) + len(data.test or ()) == 7


def first(pets: Path, image: Image.Image, name: str, **given: object) -> list[int]:
    """The middle pixel of a picture as it is read, among seven others of one class."""
    for file in (pets / "cat").iterdir():
        file.unlink()
    image.save(pets / "cat" / name, **given)
    Image.new("RGB", (8, 8)).save(pets / "cat" / "z.png")
    data = Folder(str(pets), 8, 3)
    images = {tuple(row) for part in (data.train, data.test) if part for row in part.inputs[:, :, 4, 4].tolist()}
    found = [row for row in images if row == (200, 100, 50) or row == (77, 77, 77)]
    return list(found[0]) if found else []


def test_pictures_of_every_kind_are_read(pets: Path) -> None:
    colour = Image.new("RGB", (8, 8), (200, 100, 50))
    frames = [Image.new("RGB", (8, 8), (0, 0, 0))] * 2
    assert first(pets, colour, "a.gif", save_all=True, append_images=frames) == [200, 100, 50]
    assert first(pets, colour, "a.png", save_all=True, append_images=frames) == [200, 100, 50]
    assert first(pets, Image.new("RGB", (100_000, 1), (200, 100, 50)), "a.png") == [200, 100, 50]
    assert first(pets, Image.new("CMYK", (8, 8), (55, 155, 205, 0)), "a.tiff") == [200, 100, 50]
    sixteen = Image.fromarray(np.full((8, 8), 77 * 256 + 3, np.uint16))
    assert first(pets, sixteen, "a.png") == [77, 77, 77]
