"""Digits and folders: what is read of them, and what is kept for the next run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from kdlab.core.paths import home
from kdlab.data import source as module
from kdlab.data.check import DataError
from kdlab.data.images import Files
from kdlab.data.source import Digits, Folder
from kdlab.data.table import Source


def read(path: Path) -> Tensor:
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)


def same(one: Source, other: Source) -> bool:
    tables = [(getattr(one, part), getattr(other, part)) for part in ("train", "validation", "test")]
    return all(
        a is b is None or (torch.equal(a.inputs, b.inputs) and torch.equal(a.labels, b.labels)) for a, b in tables
    )


def test_digits_are_those_of_scikit_learn_stretched_to_bytes() -> None:
    from sklearn.datasets import load_digits

    digits = Digits()
    assert digits.test is not None
    assert (len(digits.train), len(digits.test), digits.validation) == (1400, 397, None)
    assert (digits.channels, digits.size, digits.classes) == (1, 8, tuple("0123456789"))
    theirs = load_digits()
    ours = torch.cat([digits.train.inputs, digits.test.inputs]).flatten(1)
    rows = np.lexsort(ours.numpy().T)
    expected = (theirs.data * 255 / 16).round()
    order = np.lexsort(expected.T)
    assert np.array_equal(ours.numpy()[rows], expected[order])
    labels = torch.cat([digits.train.labels, digits.test.labels])
    assert np.array_equal(labels.numpy()[rows], theirs.target[order])


def test_digits_can_be_as_large_and_colourful_as_a_network_wants() -> None:
    digits = Digits(size=32, channels=3)
    assert digits.train.inputs.shape == (1400, 3, 32, 32)
    assert digits.fingerprint != Digits().fingerprint == Digits().fingerprint


def test_a_folder_is_read_pixel_by_pixel_in_the_order_of_its_names(folder: Callable[..., Path]) -> None:
    path = folder("train", dog=2, cat=3)
    folder("test", cat=1)
    folder("val", dog=1)
    pictures = Folder(str(path), size=8, channels=3)
    assert pictures.classes == ("cat", "dog")
    assert pictures.train.labels.tolist() == [0, 0, 0, 1, 1]
    assert torch.equal(pictures.train.inputs[3], read(path / "train/dog/0.png"))
    assert pictures.validation is not None
    assert pictures.test is not None
    assert torch.equal(pictures.validation.inputs[0], read(path / "val/dog/0.png"))
    assert pictures.validation.labels.tolist() == [1]
    assert pictures.test.labels.tolist() == [0]


def test_without_a_test_folder_a_tenth_of_each_class_is_the_test_part(folder: Callable[..., Path]) -> None:
    pictures = Folder(str(folder(cat=20, dog=20)), size=8, channels=3)
    assert pictures.test is not None
    assert pictures.test.labels.tolist() == [0, 0, 1, 1]
    both = torch.cat([pictures.train.inputs, pictures.test.inputs]).flatten(1)
    assert len(both.unique(dim=0)) == 40


def test_other_sizes_are_resized_by_the_shorter_side_and_cut_to_the_centre(folder: Callable[..., Path]) -> None:
    path = folder("train", size=(24, 8), cat=1, dog=1)
    folder("test", cat=1)
    ours = Folder(str(path), size=4, channels=3).train.inputs[0]
    with Image.open(path / "train" / "cat" / "0.png") as image:
        expected = image.resize((12, 4), Image.Resampling.BILINEAR).crop((4, 0, 8, 4))
    assert np.array_equal(ours.permute(1, 2, 0).numpy(), np.asarray(expected))


def test_colour_becomes_grey_by_luminance(folder: Callable[..., Path]) -> None:
    path = folder("train", cat=1, dog=1)
    Image.new("RGB", (8, 8), (255, 0, 0)).save(path / "train" / "cat" / "0.png")
    folder("test", cat=1)
    assert Folder(str(path), size=8, channels=1).train.inputs[0].unique().tolist() == [76], "0.299 of 255"


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_of_sixteen_bits_the_upper_eight_count(tmp_path: Path, suffix: str) -> None:
    ramp = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    if suffix == "pgm":
        (tmp_path / "ramp.pgm").write_bytes(b"P5 8 8 65535\n" + ramp.astype(">u2").tobytes())
    else:
        Image.fromarray(ramp).save(tmp_path / f"ramp.{suffix}")
    grey = Files([str(tmp_path / f"ramp.{suffix}")], 8, 1)[0]
    colour = Files([str(tmp_path / f"ramp.{suffix}")], 8, 3)[0]
    assert grey.flatten().tolist() == [value * 1000 // 256 for value in range(64)]
    assert torch.equal(colour, grey.expand(3, 8, 8))


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_numbers_without_a_known_white_are_no_picture(tmp_path: Path, kind: type) -> None:
    Image.fromarray(np.ones((8, 8), dtype=kind)).save(tmp_path / "depth.tif")
    with pytest.raises(DataError, match=r"depth\.tif cannot be decoded \(32 bits a pixel, mode [IF], with an unknown"):
        Files([str(tmp_path / "depth.tif")], 8, 1)[0]


def test_a_photograph_stored_on_its_side_is_turned_upright(folder: Callable[..., Path]) -> None:
    path = folder("train", cat=1, dog=1)
    folder("test", cat=1)
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # its first row is the right-hand side
    Image.fromarray(pixels).save(path / "train" / "cat" / "0.png", exif=exif)
    image = Folder(str(path), size=8, channels=1).train.inputs[0, 0]
    assert image[:, 7].tolist() == [255] * 8
    assert image[:, :7].max() == 0


def test_a_class_that_training_does_not_have_is_refused(folder: Callable[..., Path]) -> None:
    folder("train", cat=1, dog=1)
    with pytest.raises(DataError, match=r"test/cow is a class that .*train does not have"):
        Folder(str(folder("test", cow=1)), size=8, channels=3)


def test_the_second_run_decodes_nothing(folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(folder(cat=10, dog=10))
    first = Folder(path, size=8, channels=3)
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("a picture was opened"))
    second = Folder(path, size=8, channels=3)
    assert same(first, second)
    assert (first.fingerprint, first.classes) == (second.fingerprint, second.classes)


def test_a_changed_file_or_another_size_is_decoded_anew(folder: Callable[..., Path]) -> None:
    path = folder(cat=10, dog=10)
    first = Folder(str(path), size=8, channels=3)
    assert Folder(str(path), size=4, channels=3).train.inputs.shape[2:] == (4, 4)
    Image.new("RGB", (8, 8)).save(path / "cat" / "3.png")
    changed = Folder(str(path), size=8, channels=3)
    assert changed.fingerprint != first.fingerprint
    assert not same(changed, first)


def test_the_fingerprint_is_that_of_the_pixels_not_of_place_and_time(folder: Callable[..., Path]) -> None:
    path = folder(cat=10, dog=10)
    first = Folder(str(path), size=8, channels=3)
    moved = path.rename(path.with_name("elsewhere"))
    os.utime(moved / "cat" / "3.png", (0, 0))
    assert Folder(str(moved), size=8, channels=3).fingerprint == first.fingerprint


def test_half_a_file_in_the_cache_is_decoded_anew(folder: Callable[..., Path]) -> None:
    path = str(folder(cat=10, dog=10))
    first = Folder(path, size=8, channels=3)
    [file] = (home() / "data").iterdir()
    file.write_bytes(file.read_bytes()[:1000])
    assert same(Folder(path, size=8, channels=3), first)


def test_a_home_that_cannot_be_written_is_told(
    folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("KDLAB_HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match="set KDLAB_HOME=DIR"):
        Folder(str(folder(cat=2, dog=2)), size=8, channels=3)


def test_a_damaged_picture_stops_the_run_by_name_and_number(folder: Callable[..., Path]) -> None:
    path = folder(cat=10, dog=10)
    for number in (3, 5):
        file = path / "cat" / f"{number}.png"
        file.write_bytes(file.read_bytes()[:60])
    (path / "dog" / "7.png").write_text("not a picture")
    with pytest.raises(DataError) as caught:
        Folder(str(path), size=8, channels=3)
    message = str(caught.value)
    assert message.startswith(f"{path}/cat/3.png cannot be decoded (")
    assert message.endswith("as cannot 2 more; repair or remove it, or type data.on_corrupt=skip")
    assert not (home() / "data").exists()


def test_damaged_pictures_are_left_out_with_a_warning_every_time(folder: Callable[..., Path]) -> None:
    path = folder("train", cat=3, dog=3)
    folder("test", cat=1)
    (path / "train" / "dog" / "1.png").write_text("not a picture")
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"1 damaged pictures are left out, the first: .*dog/1.png"):
            pictures = Folder(str(path), size=8, channels=3, on_corrupt="skip")
        assert pictures.train.labels.tolist() == [0, 0, 0, 1, 1]
        assert torch.equal(pictures.train.inputs[4], read(path / "train/dog/2.png"))


def test_a_set_too_big_to_hold_stays_encoded(folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder(cat=10, dog=10)
    held = Folder(str(path), size=8, channels=3)
    [file] = (home() / "data").iterdir()
    file.unlink()
    monkeypatch.setattr(module, "LIMIT", 1000)
    streamed = Folder(str(path), size=8, channels=3)
    assert not isinstance(streamed.train.inputs, Tensor)
    assert streamed.train.bytes == held.train.bytes == 18 * 192
    pixels = torch.stack([streamed.train.inputs[row] for row in range(18)])
    assert torch.equal(pixels, held.train.inputs)
    assert list((home() / "data").iterdir()) == []
    assert streamed.fingerprint == Folder(str(path), size=8, channels=3).fingerprint
    Image.new("RGB", (9, 9)).save(path / "cat" / "3.png")
    assert streamed.fingerprint != Folder(str(path), size=8, channels=3).fingerprint
